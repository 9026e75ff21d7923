"""The X displays of a user: what the daemon knows of them, and what the user's agent adds.

Which display belongs to which session, the daemon's own facts say. The agent, whose word is
untrusted, says what else is there and what it has open.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sessiond.errors import CommandError, NoDisplayError, NotConnectedError
from sessiond.model import Display, Screen, SeatFacts, Session, UserDisplay
from sessiond.users.server import UserAgents

MAX_ITEMS: Final = 64  # displays, or screens of one, that an agent may name
MAX_OUTPUT: Final = 64  # characters of an output's name
_PLACES: Final = range(-(1 << 15), 1 << 15)  # INT16 (X protocol, RRCrtcInfo)
_SIZES: Final = range(1, 1 << 16)  # CARD16
_QUOTED: Final = 32  # characters of what was asked for, in an error
_GREETER: Final = "greeter"  # logind's Class

# Of this machine alone: what ssh has forwarded is another one's. Any screen of it is the display.
_NAME: Final = re.compile(r":(0|[1-9][0-9]{0,4})(\.[0-9]{1,2})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Told:
    """What an agent says of a display; the name is one that ``display_name`` returns."""

    display: str
    is_connected: bool


def display_name(untrusted: str) -> str:
    """Return the display's name without its screen, such as ``:0``; "" for another text."""
    match = _NAME.fullmatch(untrusted)
    return f":{match[1]}" if match else ""


def merge(
    uid: int, facts: SeatFacts, opened: Mapping[str, Display], told: Iterable[Told]
) -> list[UserDisplay]:
    """Return the displays of a user, by their numbers.

    ``opened`` are the displays that the sessions' stream agents have open, by session: an X display
    goes before what logind says. A display of another user's session, or of a greeter's, is not the
    user's, whoever serves it and whatever the agent says. A session that is closing has none: its
    processes may linger long after its display, which another may have by now.
    """
    names = _names(facts.sessions.values(), opened)
    own = {name: it for name, it in names if it.uid == uid and it.cls != _GREETER}
    others = {name for name, it in names if it.uid != uid or it.cls == _GREETER}
    is_connected = {
        it.display: it.is_connected for it in told if it.display in own or it.display not in others
    }
    return [
        _display(name, own.get(name), is_connected=is_connected.get(name, False))
        for name in sorted(own.keys() | is_connected.keys(), key=lambda name: int(name[1:]))
    ]


def _names(sessions: Iterable[Session], opened: Mapping[str, Display]) -> list[tuple[str, Session]]:
    """Return the sessions by display; of several of one display the last is the one to take."""
    by_rank = sorted(sessions, key=lambda it: (it.active, it.since))
    x_displays = {key: it.name for key, it in opened.items() if it.backend == "x11"}
    named = (
        (display_name(x_displays.get(it.id, it.display)), it)
        for it in by_rank
        if it.state != "closing"
    )
    return [(name, it) for name, it in named if name]


def _display(name: str, session: Session | None, *, is_connected: bool) -> UserDisplay:
    if not session:
        return UserDisplay(name, is_connected=is_connected)
    return UserDisplay(name, session.id, session.type, session.active, is_connected)


class Displays:
    """Asks users' agents about displays.

    ``facts()`` and ``opened()`` are what is so now, the latter as for ``merge``;
    ``activate(session_id)`` brings a session to the front, or raises SessiondError. Every method
    raises NoAgentError, or CommandError where the agent fails, does not answer, or answers
    nonsense.
    """

    def __init__(
        self,
        agents: UserAgents,
        facts: Callable[[], SeatFacts],
        opened: Callable[[], Mapping[str, Display]],
        activate: Callable[[str], Awaitable[None]],
    ) -> None:
        self._agents = agents
        self._facts = facts
        self._opened = opened
        self._activate = activate

    async def query(self, user: str) -> list[UserDisplay]:
        """Return the user's displays, by their numbers."""
        uid = self._agents.find(user).uid
        untrusted = await self._agents.call(user, "query-displays", {})
        try:
            told = _told(untrusted)
        except ValueError as error:
            raise _nonsense(user, "query-displays", error) from None
        return merge(uid, self._facts(), self._opened(), told)

    async def screens(self, user: str, display: str) -> list[Screen]:
        """Return the screens of a display that the user's agent has open."""
        found = await self._find(user, display)
        if not found.is_connected:
            raise NotConnectedError(found.name)
        arguments = {"display": found.name}
        untrusted = await self._agents.call(user, "query-screens", arguments)
        try:
            return [_screen(it) for it in _items(untrusted)]
        except ValueError as error:
            raise _nonsense(user, "query-screens", error) from None

    async def connect(self, user: str, display: str, *, show: bool) -> str:
        """Have the user's agent open a display, and return its session's id, "" for none.

        One that is open already is well. With ``show`` that session is brought to the front
        then; where that fails, the display stays open, and what ``activate`` raises is raised.
        """
        found = await self._find(user, display)
        if show and not found.session:
            text = f"display '{found.name}' of user '{user}' has no session that could be shown"
            raise CommandError(text)
        await self._agents.call(user, "connect-display", {"display": found.name})
        if show:
            await self._activate(found.session)
        return found.session

    async def _find(self, user: str, display: str) -> UserDisplay:
        name = display_name(display)
        for it in await self.query(user):
            if it.name == name:
                return it
        raise NoDisplayError(user, (name or display)[:_QUOTED])


def _nonsense(user: str, command: str, error: ValueError) -> CommandError:
    return CommandError(f"the agent of user '{user}' answered {command} with nonsense: {error}")


# What an agent says, checked. All raise ValueError, with what is wrong.


def _told(untrusted: object) -> list[Told]:
    return [
        Told(_own_display(_text(it, "display")), _flag(it, "connected")) for it in _items(untrusted)
    ]


def _own_display(untrusted: str) -> str:
    if not (name := display_name(untrusted)):
        raise ValueError("display")
    return name


def _screen(untrusted: Mapping[str, Any]) -> Screen:
    output = _text(untrusted, "output")
    if not 0 < len(output) <= MAX_OUTPUT or not output.isprintable():
        raise ValueError("output")
    return Screen(
        output,
        _number(untrusted, "x", _PLACES),
        _number(untrusted, "y", _PLACES),
        _number(untrusted, "width", _SIZES),
        _number(untrusted, "height", _SIZES),
        _flag(untrusted, "primary"),
    )


def _items(untrusted: object) -> list[Mapping[str, Any]]:
    if not isinstance(untrusted, list) or len(untrusted) > MAX_ITEMS:
        raise ValueError("no list, or a long one")
    if not all(isinstance(it, dict) for it in untrusted):
        raise ValueError("an item is no object")
    return untrusted


def _text(untrusted: Mapping[str, Any], member: str) -> str:
    value = untrusted.get(member)
    if not isinstance(value, str):
        raise ValueError(member)  # noqa: TRY004 (what is wrong is the line)
    return value


def _flag(untrusted: Mapping[str, Any], member: str) -> bool:
    value = untrusted.get(member)
    if not isinstance(value, bool):
        raise ValueError(member)  # noqa: TRY004 (likewise)
    return value


def _number(untrusted: Mapping[str, Any], member: str, wanted: range) -> int:
    value = untrusted.get(member)
    if type(value) is not int or value not in wanted:
        raise ValueError(member)
    return value
