"""The daemon, as a client on its bus calls it.

The only place of this program that knows the daemon's names. ``Client`` finds out who owns the
name and speaks to that process alone: all answers are of one daemon, and none is started by asking.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sessiond.errors import BusCallError
from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_match import DRIVER
from sessiond.transport.dbus import Variant

NAME: Final = "org.spice_space.Sessiond1"
ROOT: Final = "/org/spice_space/Sessiond1"
MANAGER: Final = "org.spice_space.Sessiond1.Manager"
SESSION: Final = "org.spice_space.Sessiond1.Session"
USER_AGENT: Final = "org.spice_space.Sessiond1.UserAgent"
COMMAND: Final = "org.spice_space.Sessiond1.Command"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
DRIVER_PATH: Final = "/org/freedesktop/DBus"
NO_OWNER: Final = "org.freedesktop.DBus.Error.NameHasNoOwner"

READ_LIMIT: Final = 10.0  # seconds; it answers in a millisecond
ORDER_LIMIT: Final = 25.0  # polkit and logind have 5 each
AGENT_LIMIT: Final = 75.0  # as orders; a user's agent has 30 for each of two questions
PASSWORD_LIMIT: Final = 125.0  # and so much more: the daemon gives a person 120

Properties = dict[str, Any]
"""An object's properties by their names in the contract, as they came: of any version's types."""


@dataclass(frozen=True, slots=True)
class Client:
    """The daemon behind ``owner``, a unique name. ``may_ask``: for a password, when one is needed.

    Whatever it refuses is raised as BusCallError, a lost connection as BusError.
    """

    bus: Bus
    owner: str
    may_ask: bool = True

    @classmethod
    async def find(cls, bus: Bus, name: str, *, may_ask: bool = True) -> "Client":
        """Return the daemon that owns ``name``; NameHasNoOwner if none does."""
        [owner] = await bus.call(driver("GetNameOwner", name), limit=READ_LIMIT)
        return cls(bus, str(owner), may_ask)

    async def manager(self) -> Properties:
        """Return the Manager's properties."""
        return await self._get_all(ROOT, MANAGER)

    async def session(self, session_id: str) -> Properties:
        """Return the properties of one session."""
        return await self._get_all(await self.session_path(session_id), SESSION)

    async def sessions(self) -> dict[str, Properties]:
        """Return the properties of all sessions, by their objects' paths."""
        return await self._objects(SESSION)

    async def user_agents(self) -> dict[str, Properties]:
        """Return the properties of all users' agents, by their objects' paths."""
        return await self._objects(USER_AGENT)

    async def session_ids(self) -> list[str]:
        """Return the ids of all sessions."""
        [rows] = await self._read(ROOT, MANAGER, "ListSessions")
        return [str(row[0]) for row in rows]

    async def session_path(self, session_id: str) -> str:
        """Return the path of a session's object."""
        [path] = await self._read(ROOT, MANAGER, "GetSession", "s", session_id)
        return str(path)

    async def history(self, limit: int) -> list[list[Any]]:
        """Return time, session, State, Reason and ReasonText of the newest changes; all for 0."""
        [events] = await self._read(ROOT, MANAGER, "GetHistory", "u", limit)
        return list(events)

    async def order(self, member: str, signature: str = "", *body: object) -> None:
        """Call a method of the Manager that changes something."""
        await self._change(Call(self.owner, ROOT, MANAGER, member, signature, body))

    async def displays(self, user: str) -> list[list[Any]]:
        """Return name, session, type and whether that is active, of a user's displays."""
        [rows] = await self._ask_agent("QueryDisplays", "s", user)
        return list(rows)

    async def screens(self, user: str, display: str) -> list[list[Any]]:
        """Return output, x, y, width, height and whether it is primary, of a display's screens."""
        [rows] = await self._ask_agent("QueryScreens", "ss", user, display)
        return list(rows)

    async def connect_display(self, user: str, display: str, *, show: bool) -> str:
        """Let a user's agent connect to a display; return its session's path, "/" for none."""
        [path] = await self._ask_agent("ConnectDisplay", "ssb", user, display, show)
        return str(path)

    def run_command(self, body: Sequence[Any]) -> Call:
        """Return the call that has a command run."""
        return Call(self.owner, ROOT, MANAGER, "RunCommand", "sssasa{sv}hhh", body)

    def kill(self, path: str, number: int) -> Call:
        """Return the call that sends a signal to the command of that object."""
        return Call(self.owner, path, COMMAND, "Kill", "i", [number])

    async def set_manager(self, name: str, signature: str, value: object) -> None:
        """Set a property of the Manager."""
        body = [MANAGER, name, Variant(signature, value)]
        await self._change(Call(self.owner, ROOT, PROPERTIES, "Set", "ssv", body))

    async def set_streaming(self, session_id: str, *, enabled: bool) -> None:
        """Pause or resume one session."""
        path = await self.session_path(session_id)
        await self._change(Call(self.owner, path, SESSION, "SetStreaming", "b", [enabled]))

    async def _ask_agent(self, member: str, signature: str, *body: object) -> Sequence[Any]:
        call = Call(self.owner, ROOT, MANAGER, member, signature, body)
        return await self._change(call, AGENT_LIMIT)

    async def _change(self, call: Call, limit: float = ORDER_LIMIT) -> Sequence[Any]:
        limit += PASSWORD_LIMIT if self.may_ask else 0
        return await self.bus.call(call, limit=limit, interactive=self.may_ask)

    async def _objects(self, interface: str) -> dict[str, Properties]:
        [objects] = await self._read(ROOT, OBJECT_MANAGER, "GetManagedObjects")
        return {path: found[interface] for path, found in objects.items() if interface in found}

    async def _get_all(self, path: str, interface: str) -> Properties:
        [values] = await self._read(path, PROPERTIES, "GetAll", "s", interface)
        return dict(values)

    async def _read(
        self, path: str, interface: str, member: str, signature: str = "", *body: object
    ) -> Sequence[Any]:
        call = Call(self.owner, path, interface, member, signature, body)
        return await self.bus.call(call, limit=READ_LIMIT)


def driver(member: str, name: str = "") -> Call:
    """Return a call of the bus itself, about a name on it."""
    body = [name] if name else []
    return Call(DRIVER, DRIVER_PATH, DRIVER, member, "s" if name else "", body)


async def owner_of(bus: Bus, name: str) -> str:
    """Return the unique name of who owns a name, "" for nobody. Raises BusError, BusCallError."""
    try:
        [owner] = await bus.call(driver("GetNameOwner", name), limit=READ_LIMIT)
    except BusCallError as error:
        if error.name == NO_OWNER:
            return ""
        raise
    return str(owner)
