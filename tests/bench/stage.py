"""A load on a screen, and slices of it: alone, under the floor program, under an agent.

Which slices are taken, and what is made of them, belongs to the modules of the measures.
"""

import contextlib
import dataclasses
import itertools
import json
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from PIL import Image

from tests.bench.picture import QUALITY, fault_of
from tests.bench.processes import BUILD, BenchError, Child, Load, Peer
from tests.bench.usage import usage

WARM_UP: Final = 0.4  # seconds from an agent's first frame to the first that counts


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """A stream agent that understands the options of spice-streaming-agent."""

    command: tuple[str, ...]
    is_pty: bool = False  # its port: a pseudoterminal, or a Unix socket
    codec: str = ""  # of ours, instead of MJPEG; the host can show all of them then

    def argv(self, port: Path, fps: float) -> list[str]:
        """Return what to run; the display is told by the environment."""
        codec = ["--codec", self.codec] if self.codec else []
        return [*self.command, "-p", str(port), "-c", f"framerate={fps:g}", *codec]


@dataclasses.dataclass(frozen=True, slots=True)
class Slice:
    """Some seconds of a load: what was drawn and delivered, and what it cost."""

    seconds: float
    drawn: int
    frames: int
    bytes: int  # of a median frame
    client_ms: float  # CPU of the floor program or the agent, a frame
    server_ms: float  # CPU of the X server, all of it
    wakeups: int

    def server_ms_on_top(self, drawing_ms: float) -> float:
        """X server CPU a frame, less what drawing alone costs (`drawing_ms` a drawn frame)."""
        return (self.server_ms - drawing_ms * self.drawn) / max(1, self.frames)


class Stage:
    """A server with a load on it, on which slices are measured."""

    def __init__(self, server: Child, display: str, load: Load, directory: Path) -> None:
        self.server = server
        self.display = display
        self.load = load
        self.directory = directory

    def alone(self, seconds: float) -> Slice:
        """Measure the load and nobody else."""
        begun, before, drawn = time.monotonic(), usage(self.server.pid), self.load.drawn()
        time.sleep(seconds)
        used, drawn = usage(self.server.pid) - before, self.load.drawn() - drawn
        return Slice(time.monotonic() - begun, drawn, 0, 0, 0.0, used.cpu_ms, 0)

    def floor(self, seconds: float, fps: float, *, only_part: bool = False) -> Slice:
        """Run the floor program beside the load; ONLY_PART: on what changed, not on all."""
        argv = [str(BUILD / "floor"), "--display", self.display, "--fps", str(fps)]
        argv += ["--seconds", str(seconds), "--quality", str(QUALITY)]
        argv += ["--part", "1"] if only_part else []
        with Child(argv, log=self.directory / "floor.log") as floor:
            floor.wait_line()
            before, drawn = usage(self.server.pid), self.load.drawn()
            said: dict[str, float] = json.loads(floor.wait_line(seconds + 20))
            used, drawn = usage(self.server.pid) - before, self.load.drawn() - drawn
        own = said["capture_mean_ms"] + said["encode_mean_ms"]
        frames, size = int(said["frames"]), int(said["bytes"])
        return Slice(said["seconds"], drawn, frames, size, own, used.cpu_ms, 0)

    def snapshot(self) -> Image.Image:
        """Take what is on the screen."""
        path = self.directory / "screen.ppm"
        argv = [str(BUILD / "floor"), "--display", self.display, "--snapshot", str(path)]
        subprocess.run(argv, check=True, timeout=20)
        with Image.open(path) as picture:
            picture.load()
        return picture


class AgentRun:
    """An agent that streams a stage's screen to a peer."""

    def __init__(self, stage: Stage, agent: Child, peer: Peer) -> None:
        self.agent = agent
        self.peer = peer
        self._stage = stage

    def wait_first(self, timeout: float = 20) -> float:
        """Milliseconds from START to the first frame's last byte."""
        deadline = time.monotonic() + timeout
        self.peer.send_line("first")
        while True:
            try:
                milliseconds = float(json.loads(self.peer.wait_line(0.5))["ms"])
            except BenchError:
                self.agent.check_alive()
                if time.monotonic() > deadline:
                    raise BenchError(f"no frame in {timeout:g} s{self.agent.said()}") from None
                continue
            if milliseconds < 0:
                raise BenchError(f"the agent closed the port{self.agent.said()}")
            return milliseconds

    def measure(self, seconds: float) -> Slice:
        """One slice of its streaming."""
        stage = self._stage
        self.peer.ask("mark")
        begun, drawn = time.monotonic(), stage.load.drawn()
        agent, server = usage(self.agent.pid), usage(stage.server.pid)
        time.sleep(seconds)
        agent, server = usage(self.agent.pid) - agent, usage(stage.server.pid) - server
        drawn, lasted = stage.load.drawn() - drawn, time.monotonic() - begun
        tally = self.peer.ask("mark")
        self.agent.check_alive()
        if tally["closed"]:
            raise BenchError("the agent closed the port")
        if not tally["frames"]:
            raise BenchError(f"no frame in {seconds:g} s of a moving picture{self.agent.said()}")
        size = int(statistics.median(tally["sizes"]))
        each = agent.cpu_ms / tally["frames"]
        return Slice(lasted, drawn, tally["frames"], size, each, server.cpu_ms, agent.switches)

    def resume(self) -> float:
        """Send START after a STOP; milliseconds to the first frame's last byte."""
        self.peer.ask("start")
        return self.wait_first()

    def pause(self) -> None:
        """Send STOP: it costs nothing until it is resumed."""
        self.peer.ask("stop")

    def turn(self, seconds: float) -> Slice:
        """One slice of a paused agent's streaming, after which it is paused again."""
        self.resume()
        time.sleep(WARM_UP)
        measured = self.measure(seconds)
        self.pause()
        return measured

    def ages_ms(self, seconds: float) -> list[tuple[float, float]]:
        """For each frame drawn: ms from its request, and from its being drawn, to the last byte.

        The load must be slow enough that a frame arrives before the next one is drawn.
        """
        self.peer.ask("mark")
        first = self._stage.load.drawn() + 1
        time.sleep(seconds)
        last = self._stage.load.drawn() - 1
        done = self.peer.ask("mark")["done_ns"]
        ages = []
        times = self._stage.load.times(first, last + 1)
        for (asked, drawn), (following, _) in itertools.pairwise(times):
            arrivals = [at for at in done if asked < at < following]
            if arrivals:
                ages.append(((arrivals[-1] - asked) / 1e6, (arrivals[-1] - drawn) / 1e6))
        return ages

    def stopped(self, seconds: float) -> tuple[int, float]:
        """Messages and agent CPU ms in the time after STOP, the load going on."""
        self.pause()
        time.sleep(0.3)  # the frame in hand may still be finished
        self.peer.ask("mark")
        before = usage(self.agent.pid)
        time.sleep(seconds)
        used, tally = usage(self.agent.pid) - before, self.peer.ask("mark")
        return tally["frames"] + sum(tally["other"].values()), used.cpu_ms

    def picture_fault(self, *, is_moving: bool = True) -> str:
        """Let the load rest: does the newest frame show the screen?  Empty when it does.

        When nothing moves the peer must have kept the newest frame since the start.
        """
        if is_moving:
            self.peer.ask("keep")
            time.sleep(0.5)
        self._stage.load.signal(signal.SIGSTOP)
        try:
            time.sleep(0.5)
            path = self._stage.directory / "newest.jpeg"
            if not self.peer.ask(f"kept {path}")["bytes"]:
                return "no frame"
            return fault_of(path, self._stage.snapshot(), self._stage.directory)
        finally:
            self._stage.load.signal(signal.SIGCONT)


@contextlib.contextmanager
def agent_run(
    stage: Stage, program: Program, fps: float, *, keep: bool = False
) -> Iterator[AgentRun]:
    """Start a peer and an agent on `stage`; with `keep` the peer holds the newest frame."""
    port = stage.directory / "port"
    port.unlink(missing_ok=True)
    log = stage.directory / "agent.log"
    log.unlink(missing_ok=True)
    log_of_peer, shows_all = stage.directory / "peer.log", bool(program.codec)
    with Peer(port, log=log_of_peer, is_pty=program.is_pty, shows_all=shows_all) as peer:
        if keep:
            peer.ask("keep")
        argv = program.argv(port, fps)
        # Elsewhere: Python would find this tree's agent before that of the command.
        with Child(argv, log=log, env={"DISPLAY": stage.display}, cwd=Path("/")) as agent:
            yield AgentRun(stage, agent, peer)
