"""Programs that take a screen's pictures, each counted from outside in its own way.

`TAKERS` has them by name, with the back-ends that they can be compared on.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.bench.card import LOOKED, PAINTED, served
from tests.bench.plan import Plan
from tests.bench.processes import ROOT, BenchError, Child, Peer

FPS: Final = 30.0
_PATIENCE: Final = 20.0  # seconds
_JPEG: Final = b"\xff\xd8\xff"  # begins one, and nothing else: entropy-coded data has no FF D8


@dataclasses.dataclass(frozen=True, slots=True)
class Screen:
    """A screen that a back-end captures: ``display`` is its name there, none for KMS.

    ``drawn_by``, what ``tests.bench.painting`` calls its kind, draws at ``canvas``. ``pids`` are
    what works for it: an X server, or a compositor and who else moves its pictures.
    ``directory`` is its own, for what programs write; ``fps`` is how many pictures a second it
    can well show. Where it is not ``drawn_on``, ``pids`` have nothing to do by the load alone.
    """

    backend: str
    display: str
    drawn_by: str
    canvas: str
    pids: tuple[int, ...]
    environment: Mapping[str, str]
    directory: Path
    fps: float = FPS
    drawn_on: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Taker:
    """A program that takes pictures: its pid, and what it took since it was last asked."""

    pid: int
    tally: Callable[[], tuple[int, int]]  # pictures, and bytes of all of them
    stop: Callable[[], None] = lambda: None  # watching, if it can


Take = Callable[[Screen, Plan], contextlib.AbstractContextManager[Taker]]


@contextlib.contextmanager
def capture(screen: Screen, _plan: Plan) -> Iterator[Taker]:
    """Run our back-end, and nobody encodes."""
    environment, log = screen.environment, screen.directory / "grab.log"
    with contextlib.ExitStack() as stack:
        fd = _helper(screen, stack)
        display = screen.display if fd is None else str(fd)
        argv = [sys.executable, "-m", "tests.bench.grab", screen.backend, display]
        grab = stack.enter_context(Child(argv, log=log, env=environment, keep_fd=fd))
        grab.wait_line()

        def tally() -> tuple[int, int]:
            grab.send_line("")
            return json.loads(grab.wait_line())["frames"], 0

        yield Taker(grab.pid, tally)


@contextlib.contextmanager
def agent(screen: Screen, plan: Plan) -> Iterator[Taker]:
    """Run our agent, to a host that takes all: capture, MJPEG, and everything between."""
    port = screen.directory / "port"
    port.unlink(missing_ok=True)
    environment, log = screen.environment, screen.directory / "agent.log"
    with (
        Peer(port, log=screen.directory / "peer.log") as peer,
        contextlib.ExitStack() as stack,
    ):
        fd = _helper(screen, stack)
        where = ["--display", screen.display] if fd is None else ["--kms-fd", str(fd)]
        where += ["--port", str(port), "--capture", screen.backend]
        argv = [*plan.agent, "stream", *where, "-c", f"framerate={FPS:g}", "--codec", "mjpeg"]
        child = Child(argv, log=log, env=environment, cwd=Path("/"), keep_fd=fd)
        stack.enter_context(child)
        peer.ask("first")

        def tally() -> tuple[int, int]:
            child.check_alive()
            told = peer.ask("mark")
            return told["frames"], sum(told["sizes"])

        def stop() -> None:
            peer.ask("stop")

        yield Taker(child.pid, tally, stop)


@contextlib.contextmanager
def wayvnc(screen: Screen, _plan: Plan) -> Iterator[Taker]:
    """Run wayvnc with one viewer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    argv = ["wayvnc", "-C", os.devnull, "-f", f"{FPS:g}", "127.0.0.1", port]
    with Child(argv, log=screen.directory / "wayvnc.log", env=screen.environment) as server:
        _wait_port(int(port), server)
        viewer_argv = [sys.executable, "-m", "tests.bench.vnc", port]
        with Child(viewer_argv, log=screen.directory / "vnc.log") as viewer:
            viewer.wait_line()

            def tally() -> tuple[int, int]:
                server.check_alive()
                viewer.send_line("")
                told = json.loads(viewer.wait_line())
                return told["frames"], told["bytes"]

            yield Taker(server.pid, tally)


@contextlib.contextmanager
def wf_recorder(screen: Screen, _plan: Plan) -> Iterator[Taker]:
    """Run wf-recorder, which records MJPEG: each JPEG of the file is a frame."""
    film = screen.directory / "film.mjpeg"
    film.unlink(missing_ok=True)
    argv = ["wf-recorder", "-c", "mjpeg", "-m", "mjpeg", "-f", str(film)]
    with Child(argv, log=screen.directory / "wf.log", env=screen.environment) as recorder:
        _wait(film.exists, recorder)  # empty as long as nothing moves
        at = 0

        def tally() -> tuple[int, int]:
            nonlocal at
            recorder.check_alive()
            with film.open("rb") as file:
                file.seek(at)
                new = file.read()
            at += len(new)
            return new.count(_JPEG), len(new)

        yield Taker(recorder.pid, tally)


TAKERS: Final[dict[str, tuple[Take, tuple[str, ...]]]] = {
    "capture": (capture, ("x11", "wlroots", "mutter", "kms")),
    "agent": (agent, ("x11", "wlroots", "mutter", "kms")),
    "wayvnc": (wayvnc, ("wlroots",)),
    "wf-recorder": (wf_recorder, ("wlroots",)),
}


def takers(backend: str) -> dict[str, Take]:
    """Return those for a back-end's screen that this machine has."""
    return {
        name: take
        for name, (take, backends) in TAKERS.items()
        if backend in backends and name not in missing()
    }


def missing() -> list[str]:
    """Return what else is compared, and not there."""
    return [name for name in ("wayvnc", "wf-recorder") if shutil.which(name) is None]


def painting(screen: Screen, load: str) -> Child:
    """Start the load, which is to be waited for; ``drawn`` reads its record."""
    argv = [sys.executable, "-m", "tests.bench.painting", screen.drawn_by, screen.canvas, load]
    record = screen.directory / PAINTED
    argv += ["--fps", f"{screen.fps:g}", "--record", str(record)]
    return Child(argv, log=screen.directory / "painting.log", cwd=ROOT)


def drawn(screen: Screen) -> int:
    """Return how many pictures the load has drawn."""
    return int.from_bytes((screen.directory / PAINTED).read_bytes(), sys.byteorder)


def looked(screen: Screen) -> int:
    """Return how often a card has been looked at by the program of now; 0 for others."""
    record = screen.directory / LOOKED
    return int.from_bytes(record.read_bytes(), sys.byteorder) if record.exists() else 0


def _helper(screen: Screen, stack: contextlib.ExitStack) -> int | None:
    """Return a socket of the KMS helper's where it takes one."""
    return stack.enter_context(served(screen.directory)) if screen.backend == "kms" else None


def _wait_port(port: int, server: Child) -> None:
    def is_open() -> bool:
        with (
            contextlib.suppress(ConnectionRefusedError),
            socket.create_connection(("127.0.0.1", port)),
        ):
            return True
        return False

    _wait(is_open, server)


def _wait(is_so: Callable[[], bool], program: Child) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not is_so():
        program.check_alive()
        if time.monotonic() > deadline:
            raise BenchError(f"{program.name} does not begin{program.said()}")
        time.sleep(0.02)
