"""What is said where the session's screen is a Wayland compositor's: a real one, with Xwayland."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from agent.stream.discover import open_session_display
from agent.stream.listeners import MAX_COMPOSITORS, compositors
from agent.stream.opened import NoDisplayError
from agent.stream.places import Places
from sessiond.wire.link import Candidate, Config
from tests.agent.stream.cookies import RIGHT, record, write
from tests.fixtures.wayland import Cage
from tests.fixtures.xserver import Xvfb

UID = os.getuid()
REMEDIES = ("Xorg session", "WaylandEnable=false", "custom.conf", "Plasma (X11)")


@pytest.fixture(scope="module")
def cage() -> Iterator[Cage]:
    with Cage() as compositor:
        yield compositor


@pytest.fixture
def places(tmp_path: Path) -> Places:
    for name in ("proc/net", "sockets", f"run/user/{UID}"):
        (tmp_path / name).mkdir(parents=True)
    folders = {name: tmp_path / name for name in ("proc", "sockets", "run")}
    return Places(UID, "", socket.gethostname(), **folders)


@pytest.fixture
def of_cage(places: Places, cage: Cage) -> Places:
    return replace(places, uid=cage.uid, run=cage.run)


def config(*candidates: Candidate, pids: tuple[int, ...] = (), needs_proof: bool = False) -> Config:
    return Config("c1", UID, vt=7, candidates=candidates, pids=pids, needs_proof=needs_proof)


def refusal(config: Config, places: Places) -> tuple[str, str]:
    with pytest.raises(NoDisplayError) as caught:
        open_session_display(config, places)
    return caught.value.reason, str(caught.value)


def listen(stack: ExitStack, path: Path) -> socket.socket:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.bind(str(path))
    sock.listen()
    return sock


def test_xwayland_is_refused_with_the_remedy(of_cage: Places, cage: Cage) -> None:
    real = replace(of_cage, sockets=cage.sockets)
    with cage.as_its_user():
        reason, text = refusal(config(Candidate("logind", cage.display)), real)
    assert reason == "type-unsupported"
    assert f"display {cage.display} is XWayland" in text
    assert all(remedy in text for remedy in REMEDIES)


def test_display_after_xwayland(of_cage: Places, cage: Cage, tmp_path: Path) -> None:
    """python-xlib trips over the second server whose events have other numbers."""
    real = replace(of_cage, sockets=cage.sockets)
    with Xvfb(64, 48, args=["-auth", write(tmp_path / "auth", record())]) as xserver:
        link = cage.sockets / f"X{xserver.display[1:]}"
        link.symlink_to(f"/tmp/.X11-unix/{link.name}")  # noqa: S108
        good = Candidate("good", xserver.display, cookie=RIGHT.hex())
        with cage.as_its_user():
            opened = open_session_display(config(Candidate("logind", cage.display), good), real)
        assert opened.rule == "good"
        opened.capture.close()
        link.unlink()


@pytest.mark.parametrize("needs_proof", [False, True])
def test_compositor_and_no_x_display(of_cage: Places, cage: Cage, *, needs_proof: bool) -> None:
    reason, text = refusal(config(needs_proof=needs_proof), of_cage)
    assert reason == "type-unsupported"
    assert f"a Wayland compositor at {cage.wayland}, and only X11 is captured here" in text
    assert all(remedy in text for remedy in REMEDIES)


def test_compositor_of_the_session_though_of_another_user(places: Places, cage: Cage) -> None:
    link = places.runtime / "wayland-0"
    link.symlink_to(cage.wayland)
    stranger = replace(places, uid=4242)
    (stranger.run / "user" / "4242").symlink_to(str(UID))
    assert refusal(config(), stranger)[0] == "no-display-found"
    assert refusal(config(pids=(cage.pid,)), stranger)[0] == "type-unsupported"


@pytest.mark.parametrize(
    ("cgroup", "counts"),
    [("session-c1.scope", True), ("user@1.service/session.slice/x.service", True),
     ("session-c2.scope", False), ("session-c2.scope/nested", False)],
)  # fmt: skip
def test_compositor_of_another_session(places: Places, cgroup: str, *, counts: bool) -> None:
    process = places.proc / str(os.getpid())
    process.mkdir()
    (process / "cgroup").write_text(f"0::/user.slice/user-1.slice/{cgroup}\n")
    with ExitStack() as stack:
        listen(stack, places.runtime / "wayland-3")
        reason, _text = refusal(config(), places)
        assert reason == ("type-unsupported" if counts else "no-display-found")


def test_display_that_refuses_comes_first(places: Places) -> None:
    """The compositor may be one that runs in a window of the X session."""
    with ExitStack() as stack:
        listen(stack, places.runtime / "wayland-0")
        listen(stack, places.sockets / "X5").shutdown(socket.SHUT_RDWR)
        odd = Candidate("logind", ":5", "/dev/null")
        assert refusal(config(odd), places)[0] == "display-refused"


def test_what_is_no_compositor(places: Places) -> None:
    runtime = places.runtime
    with ExitStack() as stack:
        for name in ("wayland-1.lock", "wayland-", "pipewire-0", "wayland-x"):
            listen(stack, runtime / name)
        (runtime / "wayland-2").touch()
        (runtime / "wayland-3").symlink_to("nowhere")
        os.mkfifo(runtime / "wayland-4")
        listen(stack, runtime / "wayland-5").close()
        assert refusal(config(), places)[0] == "no-display-found"


def test_compositor_that_takes_nobody(places: Places) -> None:
    """A connection that would have to wait is no answer, and does not hold us up."""
    with ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(places.runtime / "wayland-0"))
        busy.listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(busy.getsockname())
        assert list(compositors(places, "c1", ())) == []


def test_number_of_compositors_is_limited(places: Places) -> None:
    with ExitStack() as stack:
        for number in range(MAX_COMPOSITORS + 4):
            listen(stack, places.runtime / f"wayland-{number}")
        assert len(list(compositors(places, "c1", ()))) == MAX_COMPOSITORS
