"""What the objects on the bus ask and order.

``sessiond.control`` does it for the seat, ``sessiond.userside`` for the users' agents.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from sessiond.model import (
    Counters,
    Ending,
    Event,
    Order,
    Reason,
    Screen,
    SeatFacts,
    Status,
    TerminalSize,
    UserAgent,
    UserDisplay,
)
from sessiond.transport.passing import Passed

# The names of our own errors, as the contract has them.
_ERROR: Final = "org.spice_space.Sessiond1.Error"
NO_SUCH_SESSION: Final = f"{_ERROR}.NoSuchSession"
NOT_SWITCHED: Final = f"{_ERROR}.NotSwitched"
NOT_RELOADED: Final = f"{_ERROR}.NotReloaded"
NO_USER_AGENT: Final = f"{_ERROR}.NoUserAgent"
NO_SUCH_DISPLAY: Final = f"{_ERROR}.NoSuchDisplay"
NOT_CONNECTED: Final = f"{_ERROR}.NotConnected"
NOT_DONE: Final = f"{_ERROR}.NotDone"
NO_SUCH_COMMAND: Final = f"{_ERROR}.NoSuchCommand"
NOT_EXECUTABLE: Final = f"{_ERROR}.NotExecutable"
DENIED: Final = "org.freedesktop.DBus.Error.AccessDenied"


class Control(Protocol):
    """The seat, as the bus sees it. What cannot be done raises RequestError."""

    @property
    def facts(self) -> SeatFacts:
        """What is known of the seat and the sessions."""

    @property
    def status(self) -> Status:
        """What the stream does."""

    @property
    def is_enabled(self) -> bool:
        """Whether no administrator has paused everything."""

    @property
    def auto_switch(self) -> str:
        """What follows the end of the shown session: "off" or "on-session-end"."""

    def counters(self) -> Counters:
        """Return what was sent so far."""

    def history(self, limit: int) -> Sequence[Event]:
        """Return the newest changes, the oldest of them first; all for 0."""

    def reason_of(self, session_id: str) -> Reason:
        """Return why a session is or is not shown, or would be if it were in front."""

    def is_paused_by_admin(self, session_id: str) -> bool:
        """Whether an administrator has paused this session."""

    def set_enabled(self, *, enabled: bool) -> None:
        """Pause or resume everything."""

    def set_auto_switch(self, value: str) -> None:
        """Choose what follows the end of the shown session."""

    def set_streaming(self, session_id: str, *, enabled: bool, by_owner: bool) -> None:
        """Pause or resume one session."""

    async def activate(self, session_id: str) -> None:
        """Bring a session to the front, and return when it is there."""

    async def switch_to(self, vt: int) -> None:
        """Bring a VT to the front, and return when it is there."""

    def restart_agent(self) -> None:
        """End the shown session's agent, and start another at once."""

    def reload(self) -> None:
        """Read the configuration again and follow it."""


class Run(Protocol):
    """A command that an agent runs; ``ended`` is done when it has ended, not to be cancelled."""

    @property
    def id(self) -> int:
        """A number that no other command has had."""

    @property
    def agent(self) -> UserAgent:
        """Whose it is."""

    @property
    def argv(self) -> Sequence[str]:
        """Its words, or the first of them."""

    @property
    def has_terminal(self) -> bool:
        """Whether it has one of its own, which was made for it."""

    @property
    def pid(self) -> int:
        """Its process."""

    @property
    def started(self) -> float:
        """When, in seconds since 1970."""

    @property
    def ended(self) -> asyncio.Future[Ending]:
        """How it has ended."""

    def end(self) -> None:
        """Let it end, and see that it does."""


class Users(Protocol):
    """The users' agents, as the bus sees them. What cannot be done raises RequestError."""

    @property
    def agents(self) -> Mapping[int, UserAgent]:
        """Those that are connected, by uid."""

    def find(self, user: str) -> UserAgent:
        """Return the agent of a user of that name."""

    async def displays(self, user: str) -> Sequence[UserDisplay]:
        """Return the user's displays."""

    async def screens(self, user: str, display: str) -> Sequence[Screen]:
        """Return the screens of a display that the agent is connected to."""

    async def connect(self, user: str, display: str, *, show: bool) -> str:
        """Let the agent connect to a display; return the session that it belongs to, "" for none.

        ``show`` brings that session to the front, too.
        """

    async def run(self, order: Order, passed: Passed, ask: Callable[[], Awaitable[None]]) -> Run:
        """Have it run with the descriptors ``passed``.

        ``ask`` is called where polkit has to let the caller, and raises RequestError if not.
        """

    async def kill(self, run: Run, number: int) -> None:
        """Send a signal to what runs."""

    async def resize(self, run: Run, size: TerminalSize) -> None:
        """Set the size of the terminal of what runs."""
