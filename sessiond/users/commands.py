"""The host's commands that the daemon does itself: one table.

Who may use the host channel may do all of them: the host owns the machine. Where a user's agent
has a part in a command, ``router`` has seen that it is there.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from sessiond import __version__
from sessiond.errors import CommandError, SessiondError
from sessiond.model import Event, SeatFacts, Status
from sessiond.users import system, views
from sessiond.users.displays import Displays
from sessiond.users.router import COMMAND_NOT_FOUND, OF_AGENTS, Local
from sessiond.users.server import UserAgents
from sessiond.wire.arguments import Argument, Kind, check
from sessiond.wire.qga import CALL

ROOT: Final = 0  # its uid


@dataclass(frozen=True, slots=True)
class Seat:
    """What the commands ask and order.

    ``facts()`` and ``status()`` are what is so now; ``history(limit)`` the newest changes, the
    oldest of them first, all for 0. ``activate(session_id)`` returns when the session is in front,
    or raises SessiondError.
    """

    facts: Callable[[], SeatFacts]
    status: Callable[[], Status]
    history: Callable[[int], Sequence[Event]]
    activate: Callable[[str], Awaitable[None]]
    displays: Displays
    agents: UserAgents


@dataclass(slots=True)
class Switches:
    """What the host has switched on, for as long as it is connected."""

    events: bool = False
    requests: bool = False


@dataclass(frozen=True, slots=True)
class _Call:
    """One command to be done; ``arguments`` are checked."""

    seat: Seat
    switches: Switches
    user: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Command:
    """``function`` returns the value, or an Awaitable of it. Both raise CommandError."""

    function: Callable[[_Call], object]
    arguments: Mapping[str, Argument] = field(default_factory=lambda: MappingProxyType({}))


class Commands:
    """Does them."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat

    def do(self, task: Local, switches: Switches) -> object:
        """Return the value of a command, or an Awaitable of it. Both raise CommandError."""
        command = _TABLE.get(task.command)
        if not command:
            text = f"The command {task.command} has not been found"
            raise CommandError(text, COMMAND_NOT_FOUND)
        arguments = check(task.arguments, command.arguments)
        return command.function(_Call(self._seat, switches, task.user, arguments))


def _nothing(_call: _Call) -> object:
    return {}


def _sync(call: _Call) -> object:
    # Who comes right after another may not be known for a new one: virtio does not tell. libvirt
    # says this first, and can take nothing but answers.
    call.switches.events = call.switches.requests = False
    return call.arguments["id"]


def _info(call: _Call) -> object:
    has_root = ROOT in call.seat.agents.agents
    ours = (*_TABLE, CALL)
    enabled = {**dict.fromkeys(ours, True), **dict.fromkeys(OF_AGENTS, has_root)}
    commands = [
        {"name": name, "enabled": is_enabled, "success-response": True}
        for name, is_enabled in sorted(enabled.items())
    ]
    return {"version": __version__, "supported_commands": commands}


def _set_capabilities(call: _Call) -> object:
    switches = call.switches
    switches.events = call.arguments.get("events", switches.events)
    switches.requests = call.arguments.get("requests", switches.requests)
    return {"events": switches.events, "requests": switches.requests}


def _users(call: _Call) -> object:
    return views.users(call.seat.facts())


def _list_users(call: _Call) -> object:
    seat = call.seat
    return views.agents(seat.agents.agents.values(), seat.facts(), seat.status())


def _list_sessions(call: _Call) -> object:
    return views.sessions(call.seat.facts(), call.seat.status())


def _get_status(call: _Call) -> object:
    return views.status(call.seat.status())


def _get_history(call: _Call) -> object:
    limit = call.arguments.get("limit", 0)
    if limit < 0:
        raise CommandError("Parameter 'limit' expects a number of 0 or more")
    return views.history(call.seat.history(limit))


async def _activate(call: _Call) -> object:
    session = call.arguments["session"]
    if session not in call.seat.facts().sessions:
        raise CommandError(f"there is no session '{session}'")
    try:
        await call.seat.activate(session)
    except SessiondError as error:
        raise CommandError(str(error)) from None
    return {}


async def _query_displays(call: _Call) -> object:
    return views.displays(await call.seat.displays.query(call.user))


async def _query_screens(call: _Call) -> object:
    display = call.arguments["display"]
    return views.screens(await call.seat.displays.screens(call.user, display))


async def _connect_display(call: _Call) -> object:
    display, show = call.arguments["display"], call.arguments.get("show", False)
    try:
        session = await call.seat.displays.connect(call.user, display, show=show)
    except CommandError:
        raise
    except SessiondError as error:  # connected, but not shown
        raise CommandError(str(error)) from None
    return {"session": session}


_INT: Final = Argument(Kind.INT)
_STR: Final = Argument(Kind.STR)
_MAYBE_BOOL: Final = Argument(Kind.BOOL, is_optional=True)
_USER: Final = {"username": Argument(Kind.STR, is_optional=True)}

_TABLE: Final[Mapping[str, _Command]] = {
    "guest-ping": _Command(_nothing),
    "guest-sync": _Command(_sync, {"id": _INT}),
    "guest-sync-delimited": _Command(_sync, {"id": _INT}),
    "guest-info": _Command(_info),
    "guest-get-users": _Command(_users),
    "guest-get-host-name": _Command(lambda _call: system.host_name()),
    "guest-get-osinfo": _Command(lambda _call: system.os_info()),
    "guest-get-timezone": _Command(lambda _call: system.timezone()),
    "guest-get-time": _Command(lambda _call: system.clock()),
    "virtagent-set-capabilities": _Command(
        _set_capabilities, {"events": _MAYBE_BOOL, "requests": _MAYBE_BOOL}
    ),
    "virtagent-list-users": _Command(_list_users),
    "virtagent-list-sessions": _Command(_list_sessions),
    "virtagent-get-status": _Command(_get_status),
    "virtagent-get-history": _Command(
        _get_history, {"limit": Argument(Kind.INT, is_optional=True)}
    ),
    "virtagent-activate-session": _Command(_activate, {"session": _STR}),
    "virtagent-query-displays": _Command(_query_displays, _USER),
    "virtagent-query-screens": _Command(_query_screens, {"display": _STR, **_USER}),
    "virtagent-connect-display": _Command(
        _connect_display, {"display": _STR, "show": _MAYBE_BOOL, **_USER}
    ),
}
