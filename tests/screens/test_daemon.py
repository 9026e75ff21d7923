"""The daemon between two users' screens: a compositor's, and an X server's.

All in one file, for the runtime directory of the agents' user is the machine's.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import pytest

from agent.stream.pacing import LONGEST_REST
from tests.daemon.world import assert_connected, wait_sentence
from tests.fixtures.daemon import Stage
from tests.fixtures.drawing import SAMPLE, Canvas, bits_of, picture_of
from tests.fixtures.painter import Painter
from tests.fixtures.processes import context_switches
from tests.fixtures.public import public_agent
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.fixtures.xserver import Xvfb
from tests.screens.stage import (
    MUTTER,
    SIZE,
    SWAY,
    Compositor,
    Kind,
    crash,
    start_again,
    wait_like,
)
from tests.screens.sway import Sway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

ALICE: Final = "1"  # sessions
BOB: Final = "c2"
BOBS: Final = 2  # the number that his screen shows
BOBS_UID: Final = 65532
SETTLED: Final = LONGEST_REST + 1  # seconds without a message: no picture is sent again
# An agent whose recording ends at the next picture where there is a file: by the function of
# Mutter's that the panel calls as well.
ENDED_AT_SCREEN: Final = """
import os, sys
from agent.__main__ import main
from agent.capture.mutter.shell import Shell
from sessiond.transport.bus import Call
NAME = "org.gnome.Mutter.ScreenCast"
def wait_or_end(shell, fds, timeout):
    if shell._session and os.path.exists(f"/run/user/{os.getuid()}/end-the-recording"):
        stop = Call(NAME, shell._session, NAME + ".Session", "Stop")
        shell._loop.run_until_complete(shell._call(stop))
    return wait(shell, fds, timeout)
wait, Shell.wait = Shell.wait, wait_or_end
sys.exit(main())
"""
REST: Final = 5.0  # seconds that are then looked at


class Scene:
    """Alice's session on a compositor and Bob's on an X server, which shows 2; hers is in front.

    SETTINGS are the daemon's, and CLS the class of her session.
    """

    def __init__(self, kind: Kind, *settings: str, cls: str = "user") -> None:
        with contextlib.ExitStack() as stack:
            self.compositor = stack.enter_context(contextlib.closing(kind.start(SIZE)))
            stack.enter_context(_laid_out(self.compositor))
            self.painter = stack.enter_context(Painter(self.compositor.wayland))
            xserver = stack.enter_context(Xvfb(*SIZE))
            stack.enter_context(Canvas(xserver.display)).show_number(BOBS)
            self.host = stack.enter_context(SpiceHost(multi=True))
            self.stage = stack.enter_context(Stage(self.host.socket_path, settings))
            self.daemon = self.stage.daemon
            self.daemon.wait_line("is open")
            self.daemon.wait_ready()
            bob = {"uid": BOBS_UID, "gid": BOBS_UID, "user": "bob", "display": xserver.display}
            self._add(BOB, vt=8, **bob)
            uid = self.compositor.uid
            alice = {"uid": uid, "gid": uid, "user": "alice", "desktop": kind.desktop}
            self._add(ALICE, vt=7, type="wayland", cls=cls, **alice)
            self.probe = stack.enter_context(SpiceProbe(self.host.uri, sample=SAMPLE))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def switch(self, session: str) -> None:
        """Bring a session to the front."""
        self.stage.login1.do("switch", id=session)

    def ctl(self, *words: str) -> str:
        """Run spice-sessionctl; return what it says."""
        program = (sys.executable, "-m", "sessiond.ctl", "--bus", self.stage.bus.address)
        return subprocess.run(
            [*program, *words], check=True, stdout=subprocess.PIPE, text=True, timeout=30
        ).stdout

    def start_again(self) -> None:
        """Start another compositor where the old one was."""
        start_again(self.compositor)
        self.painter = self._stack.enter_context(Painter(self.compositor.wayland))

    def _add(self, session: str, **properties: object) -> None:
        mark = self.daemon.now()
        self.stage.login1.do("add_session", id=session, **properties)
        self.daemon.wait_line(f"session {session} of .* has come", after=mark)


@contextlib.contextmanager
def _laid_out(compositor: Compositor) -> Iterator[None]:
    """Let its runtime directory be where logind would have made it."""
    place = Path("/run/user", str(compositor.uid))
    place.parent.mkdir(exist_ok=True)
    if place.is_symlink():  # of a run that was killed
        place.unlink()
    place.symlink_to(compositor.runtime)
    try:
        yield
    finally:
        place.unlink()


@pytest.fixture(autouse=True)
def root() -> None:
    """Skip without: agents of two users are started."""
    if os.getuid():
        pytest.skip("to be two users takes root")


@pytest.fixture
def scene(kind: Kind) -> Iterator[Scene]:
    with Scene(kind) as made:
        yield made


def test_the_session_of_a_compositor_is_shown(scene: Scene, kind: Kind) -> None:
    scene.painter.show(picture_of(*SIZE, "the quick brown fox"))
    wait_like(scene.probe, scene.painter.picture)
    assert scene.daemon.property("Reason") == "ok"
    assert scene.daemon.property("Backend") == kind.backend


def test_two_users_are_switched_between(scene: Scene, kind: Kind) -> None:
    for round_ in range(3):
        scene.painter.show_number(100 + round_)
        scene.probe.wait_for("invalidate", bits=bits_of(100 + round_))
        assert scene.daemon.property("Backend") == kind.backend
        scene.switch(BOB)
        scene.probe.wait_for("invalidate", bits=bits_of(BOBS))
        assert scene.daemon.property("Backend") == "x11"
        scene.switch(ALICE)
    assert_connected(scene.probe)


def test_a_compositor_that_crashed_comes_back(scene: Scene, kind: Kind) -> None:
    scene.painter.show_number(1)
    scene.probe.wait_for("invalidate", bits=bits_of(1))
    shown, said = scene.probe.now(), scene.daemon.now()
    crash(scene.compositor)
    scene.daemon.wait_reason("no-display-found", after=said)
    wait_sentence(scene.probe, after=shown)
    assert kind.backend in scene.daemon.property("ReasonText")
    scene.start_again()
    scene.painter.show_number(2 + BOBS)
    scene.probe.wait_for("invalidate", bits=bits_of(2 + BOBS))
    assert scene.daemon.property("Reason") == "ok"
    assert_connected(scene.probe)


def test_who_ends_gnomes_recording_has_ended_it() -> None:
    """Until it is resumed: GNOME, the session and its monitors go on being there."""
    agent = [*public_agent()[:-2], "-c", ENDED_AT_SCREEN]
    with Scene(MUTTER, f"stream.agent={json.dumps(agent)}") as scene:
        scene.painter.show_number(1)
        scene.probe.wait_for("invalidate", bits=bits_of(1))
        said, shown = scene.daemon.now(), scene.probe.now()
        mark = scene.compositor.runtime / "end-the-recording"
        mark.touch()
        scene.painter.show_number(3)
        scene.daemon.wait_line("session 1: paused-by-user, for the recording was ended", after=said)
        scene.daemon.wait_reason("paused-by-user", after=said)
        mark.unlink()
        wait_sentence(scene.probe, after=shown)
        assert scene.daemon.property("State") == "paused"
        assert scene.daemon.property("ReasonText") == (
            "The streaming of session 1 was paused by alice: the recording was ended at the "
            "screen. Resume it: spice-sessionctl resume --session 1."
        )
        assert "ended at the screen" in scene.ctl("history", "-n", "1")
        scene.switch(BOB)
        scene.probe.wait_for("invalidate", bits=bits_of(BOBS))
        said = scene.daemon.now()
        scene.switch(ALICE)
        scene.daemon.wait_reason("paused-by-user", after=said)
        scene.painter.show_number(4)
        scene.ctl("resume", "--session", ALICE)
        scene.probe.wait_for("invalidate", bits=bits_of(4))
        assert scene.daemon.property("Reason") == "ok"
        assert scene.daemon.property("Backend") == "mutter"
        assert_connected(scene.probe)


def test_an_output_that_changes_its_size_in_mid_stream() -> None:
    with Scene(SWAY) as scene:
        scene.painter.show_number(1)
        scene.probe.wait_for("invalidate", bits=bits_of(1))
        assert isinstance(scene.compositor, Sway)
        scene.compositor.command("output HEADLESS-1 mode 800x600")
        scene.painter.wait_size((800, 600))
        scene.painter.show_number(5)
        wait_like(scene.probe, scene.painter.picture)
        size = tuple(scene.daemon.property(name) for name in ("Width", "Height"))
        assert size == (800, 600)


def test_a_greeters_compositor_is_captured_as_its_own_user() -> None:
    with Scene(SWAY, cls="greeter") as scene:
        scene.painter.show_number(1)
        scene.probe.wait_for("invalidate", bits=bits_of(1))
        assert scene.daemon.property("Backend") == "wlroots"
        agent = Path("/proc", str(scene.daemon.property("AgentPID")))
        assert agent.stat().st_uid == scene.compositor.uid


def test_a_static_screen_wakes_nobody(kind: Kind, tmp_path: Path) -> None:
    # In the common folder other tests' X servers come and go.
    with Scene(kind, f'displays.sockets="{tmp_path}"') as scene:
        scene.painter.show_number(1)
        scene.probe.wait_for("invalidate", bits=bits_of(1))
        pids = (scene.daemon.pid, scene.daemon.property("AgentPID"))
        scene.host.wait_silence("from-guest", SETTLED)
        before, mark = [context_switches(pid) for pid in pids], scene.host.now()
        scene.host.wait_silence("from-guest", REST)
        assert scene.host.now() == mark
        assert [context_switches(pid) for pid in pids] == before
