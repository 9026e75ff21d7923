"""What the tests of following need of the world around the daemon.

Two can give it: the stand-in login1 with Xvfb servers (``tests.daemon.standin``), and a container
with real systemd, logind, Xorg servers and the kernel's consoles (``tests.system.world``). All of
``test_follow.py`` is written against ``World`` alone, and runs on both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from agent.capture.placeholder import draw_placeholder
from tests.fixtures.drawing import bits_of, psnr

if TYPE_CHECKING:
    from tests.fixtures.processes import Event
    from tests.fixtures.spice import SpiceProbe

ALICE: Final = 1  # the numbers that the users' screens show
BOB: Final = 2
GREETER: Final = 3
NUMBERS: Final = {"alice": ALICE, "bob": BOB, "greeter": GREETER}
NO_NUMBER: Final = -1  # what a picture without one shows: a sentence, for example
_GUARD: Final = bits_of(0)[:2]
_GOOD: Final = 30.0  # dB; a sentence that has come as it was drawn
# A program that returns when the process with the pid of its argument has ended.
WAIT_END: Final = """
import contextlib, os, select, sys
with contextlib.suppress(ProcessLookupError):
    select.select([os.pidfd_open(int(sys.argv[1]))], [], [])
"""


@dataclass(frozen=True, slots=True)
class Desk:
    """A session of a user at the seat; ``number`` is what its screen shows, or NO_NUMBER."""

    id: str
    user: str
    vt: int
    number: int = NO_NUMBER


class World(Protocol):
    """A seat, who is at it, the daemon that follows it, and a SPICE host that takes its stream.

    What changes something returns when logind says that it is so; what the daemon makes of it is
    for the test to wait for.
    """

    @property
    def runs_as_root(self) -> bool:
        """Whether the daemon is root, so that agents can be other users'."""

    def watch(self) -> SpiceProbe:
        """Connect a client that tells which numbers it draws."""

    def log_in(self, user: str) -> Desk:
        """Start an X session that shows the user's number; it comes to the front."""

    def log_in_on_console(self, user: str) -> Desk:
        """Start a session on a text console; it does not come to the front."""

    def greet(self) -> Desk:
        """Start a display manager's greeter on an X server of its own, in front."""

    def log_in_at_greeter(self, greeter: Desk, user: str) -> Desk:
        """End the greeter's session and start one of USER on the same X server.

        USER is "alice": a display manager knows beforehand here who will come.
        """

    def switch(self, desk: Desk) -> None:
        """Bring its console to the front, as chvt(1) does."""

    def activate(self, desk: Desk) -> None:
        """Bring it to the front as ``loginctl activate`` does."""

    def log_out(self, desk: Desk) -> None:
        """End a session."""

    def kill_x(self, desk: Desk) -> None:
        """End its X server as a crash would; its session ends with it."""

    def restart_logind(self) -> None:
        """Restart logind, which takes its time; it answers again when this returns."""

    def draw(self, desk: Desk, number: int) -> None:
        """Let its screen show another number, be it in front or not."""

    def uid(self, user: str) -> int:
        """Return the user's uid."""

    def kill(self, pid: int) -> None:
        """Kill a process at once."""

    def wait_end(self, pid: int) -> None:
        """Wait until there is no such process."""

    def process_status(self, pid: int) -> dict[str, str]:
        """Return the fields of /proc/PID/status."""

    def property(self, name: str) -> Any:  # noqa: ANN401 (the property's own type)
        """Return a property of the daemon's Manager, as somebody who is not root."""

    def now(self) -> int:
        """Return a mark in what the daemon has logged: ``after`` for what follows."""

    def wait_line(self, pattern: str, *, after: int = -1) -> None:
        """Wait until the daemon logs a line in which PATTERN is found."""


def wait_reason(world: World, reason: str, *, after: int = -1) -> None:
    """Wait until the daemon logs that REASON holds."""
    world.wait_line(rf"\({reason}\)", after=after)


def wait_number(probe: SpiceProbe, number: int, timeout: float = 15.0) -> int:
    """Wait until the client draws that number; return the event's index."""
    index: int = probe.wait_for("invalidate", timeout, bits=bits_of(number))["index"]
    return index


def wait_sentence(probe: SpiceProbe, *, after: int, timeout: float = 15.0) -> int:
    """Wait until the client draws a picture without a number; return the event's index."""
    event = probe.wait_for(
        "invalidate", timeout, after=after, where=lambda event: number_in(event) == NO_NUMBER
    )
    index: int = event["index"]
    return index


def wait_words(probe: SpiceProbe, words: str, size: tuple[int, int]) -> None:
    """Wait until the client shows just these in a picture of SIZE."""
    picture, mark = draw_placeholder(size, words), -1
    while True:
        mark = probe.wait_for("invalidate", after=mark)["index"]
        seen = probe.shot()
        if seen.size == size and psnr(seen, picture) > _GOOD:
            return


def number_in(event: Event) -> int:
    """Return the number that the surface shows after an ``invalidate``."""
    bits = event.get("bits", "")
    return int(bits[len(_GUARD) :], 2) if bits.startswith(_GUARD) else NO_NUMBER


def numbers(probe: SpiceProbe, *, after: int = -1) -> set[int]:
    """Return all that the client has drawn later than the event with the index AFTER."""
    return {number_in(e) for e in probe.events[after + 1 :] if e["event"] == "invalidate"}


def assert_connected(probe: SpiceProbe) -> None:
    """Check that the client was never thrown out."""
    assert not [event for event in probe.events if event["event"] == "disconnected"]
