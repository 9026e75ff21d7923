"""Where the session's screen is a Wayland compositor's: a real one, with Xwayland."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

# Loaded here, by root: what a test imports as a compositor's user may not be that user's to read.
import agent.capture.x11.backend
import agent.stream.find_wayland
import agent.stream.find_x11  # noqa: F401 (so are these all)
from agent.capture.wlroots import backend as wlroots
from agent.options import parse
from agent.stream import discover
from agent.stream.discover import open_session_display
from agent.stream.listeners import MAX_COMPOSITORS, Compositor, compositors
from agent.stream.named import named_opener
from agent.stream.opened import NoDisplayError
from agent.stream.places import Places
from sessiond.wire.link import MAX_TEXT, Candidate, Config
from tests.agent.stream.cookies import RIGHT, record, write
from tests.fixtures.wayland import Cage
from tests.fixtures.xserver import Xvfb

pytestmark = pytest.mark.parts

UID = os.getuid()
REMEDIES = ("capture.order", "capture.console_order", "auto")


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


def config(
    *candidates: Candidate,
    pids: tuple[int, ...] = (),
    needs_proof: bool = False,
    capture: tuple[str, ...] = ("x11",),
) -> Config:
    return Config(
        "c1", UID, vt=7, candidates=candidates, pids=pids, needs_proof=needs_proof, capture=capture
    )


def refusal(config: Config, places: Places) -> tuple[str, str]:
    with pytest.raises(NoDisplayError) as caught:
        open_session_display(config, places)
    return caught.value.reason, str(caught.value)


def listen(stack: ExitStack, path: Path) -> socket.socket:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.bind(str(path))
    sock.listen()
    return sock


def test_the_environments_is_not_xwayland(cage: Cage) -> None:
    where = os.path.split(cage.wayland)
    environ = {"XDG_RUNTIME_DIR": where[0], "WAYLAND_DISPLAY": where[1], "DISPLAY": cage.display}
    with cage.as_its_user():
        opened = named_opener(parse(["stream"]), environ)()
    with closing(opened.capture):
        assert (opened.backend, opened.display) == ("wlroots", cage.wayland)


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
    assert f"a Wayland compositor at {cage.wayland}, and only X11 may be captured" in text
    assert all(remedy in text for remedy in REMEDIES)


def test_compositor_of_the_session_though_of_another_user(places: Places, cage: Cage) -> None:
    link = places.runtime / "wayland-0"
    link.symlink_to(cage.wayland)
    stranger = replace(places, uid=4242)
    (stranger.run / "user" / "4242").symlink_to(str(UID))
    assert refusal(config(), stranger)[0] == "no-display-found"
    assert refusal(config(pids=(cage.pid,)), stranger)[0] == "type-unsupported"


def found(config: Config, places: Places) -> tuple[str, str, str, int]:
    """Return how its screen was opened: by what, by which rule, as which display, on which VT."""
    opened = open_session_display(config, places)
    with closing(opened.capture):
        assert opened.capture.size == (1280, 720)
    return opened.backend, opened.rule, opened.display, opened.vt


def test_compositor_that_is_captured(of_cage: Places, cage: Cage) -> None:
    name = Path(cage.wayland).name
    wlroots = config(capture=("wlroots",))
    assert found(wlroots, of_cage) == ("wlroots", "user-compositor", name, 0)
    its_own = replace(wlroots, pids=(cage.pid,))
    assert found(its_own, of_cage) == ("wlroots", "session-compositor", name, 0)


def test_xwayland_and_the_next_back_end(of_cage: Places, cage: Cage) -> None:
    real = replace(of_cage, sockets=cage.sockets)
    both = config(Candidate("logind", cage.display), capture=("x11", "wlroots"))
    assert found(both, real)[:2] == ("wlroots", "user-compositor")


def test_compositor_in_the_session_of_a_console(
    of_cage: Places, cage: Cage, tmp_path: Path
) -> None:
    """Only one that has a graphics card is on the session's VT."""
    console = config(needs_proof=True, capture=("wlroots",), pids=(cage.pid,))
    connectors = tmp_path / "sys" / "class" / "drm"
    connectors.mkdir(parents=True)
    places = replace(of_cage, sys=tmp_path / "sys")
    for other in ("card0", "card0-HDMI-A-1", "renderD128", "version", "HEADLESS-1"):
        (connectors / other).touch()
    reason, text = refusal(console, places)
    assert reason == "no-display-found"
    assert text == "nothing tells that wayland-0 is on VT 7 (session-compositor)"
    (connectors / "card1-HEADLESS-1").touch()
    assert found(console, places)[3] == 7
    assert refusal(replace(console, pids=()), places)[0] == "no-display-found"


def test_compositor_that_never_answers_and_the_next(
    places: Places, cage: Cage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wlroots, "TIMEOUT", 0.2)
    with ExitStack() as stack:
        mute = listen(stack, places.runtime / "wayland-0")
        it = config(capture=("x11", "wlroots", "mutter"))
        reason, text = refusal(it, places)
        assert reason == "display-refused"
        assert text.startswith("x11: session c1 has no X display in sight; wlroots: ")
        assert f"{mute.getsockname()}" in text
        assert "in 0.2 s (user-compositor); mutter: no GNOME: " in text
        link = places.runtime / "wayland-9"
        link.symlink_to(cage.wayland)
        its_own = replace(it, pids=(cage.pid,))
        assert found(its_own, places)[1:3] == ("session-compositor", "wayland-9")


def test_end_of_patience(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has begun goes on for its own time, and nothing else is begun."""
    monkeypatch.setattr(wlroots, "TIMEOUT", 0.5)
    monkeypatch.setattr(discover, "PATIENCE", 0.4)
    with ExitStack() as stack:
        for number in range(3):
            listen(stack, places.runtime / f"wayland-{number}")
        reason, text = refusal(config(capture=("wlroots",)), places)
        assert reason == "display-refused"
        assert [f"wayland-{number}" in text for number in range(3)] == [True, False, False]


def test_refusals_have_room_beside_one_another(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> NoReturn:
        raise NoDisplayError("type-unsupported", "x" * 2000)

    monkeypatch.setattr("agent.stream.find_wayland.find_wlroots", refuse)
    monkeypatch.setattr("agent.stream.find_wayland.find_mutter", refuse)
    reason, text = refusal(config(capture=("x11", "wlroots", "mutter")), places)
    assert reason == "type-unsupported"
    assert len(text) < MAX_TEXT
    assert [part.partition(":")[0] for part in text.split("; ")] == ["x11", "wlroots", "mutter"]


def test_which_compositor_is_the_first(places: Places) -> None:
    """What is the session's, then what may be; of these the oldest, which the others are in."""
    process = places.proc / str(os.getpid())
    process.mkdir()
    with ExitStack() as stack:
        for age, name in enumerate(("wayland-3", "wayland-1", "wayland-2")):
            listen(stack, places.runtime / name)
            os.utime(places.runtime / name, (0, 1000 + age))
        paths = [str(places.runtime / f"wayland-{number}") for number in (3, 1, 2)]
        for named, is_of_session in (("c1", True), ("", False)):
            environment = f"XDG_SESSION_ID={named}\0" if named else ""
            (process / "environ").write_text(f"{environment}DBUS_SESSION_BUS_ADDRESS=unix:x")
            assert compositors(places, "c1", ()) == [
                Compositor(path, is_of_session, "unix:x", os.getpid()) for path in paths
            ]
        (process / "environ").write_text("XDG_SESSION_ID=c2")
        assert compositors(places, "c1", ()) == []
        (process / "cgroup").write_text("0::/user.slice/user-1.slice/session-c1.scope\n")
        assert [it.is_of_session for it in compositors(places, "c1", ())] == [True] * 3


def test_no_back_end_for_the_sessions_agent(places: Places) -> None:
    reason, text = refusal(config(capture=("kms", "later")), places)
    assert reason == "type-unsupported"
    assert text == "session c1 is to be captured by kms, later, of which its agent has none"


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
        assert compositors(places, "c1", ()) == []


def test_number_of_compositors_is_limited(places: Places) -> None:
    with ExitStack() as stack:
        for number in range(MAX_COMPOSITORS + 4):
            listen(stack, places.runtime / f"wayland-{number}")
        assert len(compositors(places, "c1", ())) == MAX_COMPOSITORS
