"""Why GNOME has ended a recording, which it does not say: with a stand-in for it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from agent.capture.base import EndedError
from agent.capture.mutter import shell as module
from agent.capture.mutter.shell import Shell
from sessiond.errors import DisplayError
from tests.agent.capture.mutter.gnome import INHIBITED, Gnome
from tests.fixtures.bus import PrivateBus

pytestmark = pytest.mark.parts

LONG = 20.0  # seconds; for what is certain to come before


@dataclass
class Recorded:
    """A GNOME, and who records it."""

    gnome: Gnome
    shell: Shell

    def wait(self) -> None:
        """Wait for what comes of it."""
        self.shell.wait((), LONG)


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    """Give a GNOME and a recording of it."""
    with (
        PrivateBus() as bus,
        Gnome(bus.address) as gnome,
        contextlib.closing(Shell(bus.address)) as shell,
    ):
        [place] = shell.start()
        assert place.name == "Virtual-1"
        gnome.heard.clear()
        yield Recorded(gnome, shell)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NEWS", LONG)


def test_somebody_has_ended_it(recorded: Recorded) -> None:
    recorded.gnome.close_recording()
    with pytest.raises(EndedError, match="at the screen, in GNOME's panel"):
        recorded.wait()
    # To ask whether it may be recorded records nothing.
    assert recorded.gnome.heard == ["GetCurrentState", "CreateSession", "Stop"]


def test_it_is_locked(recorded: Recorded) -> None:
    recorded.gnome.lock()
    with pytest.raises(DisplayError, match=rf"it is locked, .*\({INHIBITED}\)") as caught:
        recorded.wait()
    assert not isinstance(caught.value, EndedError)
    recorded.gnome.error = ""
    assert recorded.shell.start(), "it goes on when it is unlocked"


def test_it_ends(recorded: Recorded) -> None:
    """Its recordings are closed, and then it answers nothing more."""
    recorded.gnome.is_mute = True
    recorded.gnome.close_recording()
    recorded.gnome.end()
    with pytest.raises(DisplayError) as caught:
        recorded.wait()
    assert not isinstance(caught.value, EndedError)


@pytest.mark.usefixtures("patient")
def test_it_ends_a_moment_later(recorded: Recorded) -> None:
    recorded.gnome.on_probe_over = recorded.gnome.leave
    recorded.gnome.close_recording()
    with pytest.raises(DisplayError, match=r"^GNOME Shell has ended$") as caught:
        recorded.wait()
    assert not isinstance(caught.value, EndedError)


def test_monitors_have_changed(recorded: Recorded) -> None:
    recorded.gnome.on_close = recorded.gnome.change_monitors
    recorded.gnome.close_recording()
    recorded.wait()
    assert recorded.shell.is_outdated
    assert "CreateSession" not in recorded.gnome.heard, "the next recording need not wait"


def test_monitors_have_changed_and_nobody_counts_that(recorded: Recorded) -> None:
    recorded.gnome.on_close = recorded.gnome.tell_monitors
    recorded.gnome.close_recording()
    recorded.wait()
    assert recorded.shell.is_outdated


@pytest.mark.usefixtures("patient")
def test_monitors_change_a_moment_later(recorded: Recorded) -> None:
    recorded.gnome.on_probe_over = recorded.gnome.change_monitors
    recorded.gnome.close_recording()
    recorded.wait()
    assert recorded.shell.is_outdated
