"""A stand-in for the daemon on a private bus: it serves the contract, and notes what is ordered.

**Not the daemon**: it says what ``told`` says, decides nothing, and fails as the test wants.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from sessiond.bus.contract import find_contract
from sessiond.ctl.client import NAME, ROOT, SESSION, USER_AGENT
from sessiond.errors import RequestError
from sessiond.transport.bus import Bus
from sessiond.transport.objects import Caller, ObjectServer
from tests.sessiond.ctl.told import AGENTS, DISPLAYS, MANAGER, SCREENS, SESSIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

STANDARD = "org.freedesktop.DBus.Error"


class Manager:
    """The root object; ``orders`` notes each call that changes something, as (name, arguments)."""

    interface = f"{NAME}.Manager"

    def __init__(self) -> None:
        self.values = dict(MANAGER)
        self.orders: list[tuple[object, ...]] = []
        self.asked: list[bool] = []
        self.error: RequestError | None = None

    def __getattr__(self, member: str) -> Callable[..., Any]:
        """Return what notes any call of the contract."""
        if member.startswith("_"):
            raise AttributeError(member)

        def note(caller: Caller, *arguments: object) -> None:
            self.order(caller, member, *arguments)

        async def note_setting(caller: Caller, value: object) -> None:
            await asyncio.sleep(0)
            self.order(caller, member, value)

        return note_setting if member.startswith("set_") else note

    def order(self, caller: Caller, *what: object) -> None:
        """Take note, or refuse."""
        if self.error:
            raise self.error
        self.asked.append(caller.is_interactive)
        self.orders.append(what)

    def properties(self) -> Mapping[str, Any]:
        return self.values

    def ListSessions(self, _caller: Caller) -> list[list[Any]]:  # noqa: N802
        return [
            [it["Id"], *it["User"], it["Class"], it["Type"], it["VTNr"], path]
            for path, it in SESSIONS.items()
        ]

    def GetSession(self, _caller: Caller, session_id: str) -> str:  # noqa: N802
        for path, it in SESSIONS.items():
            if it["Id"] == session_id:
                return path
        raise RequestError(f"{NAME}.Error.NoSuchSession", f"there is no session {session_id!r}")

    def GetHistory(self, _caller: Caller, limit: int) -> list[list[Any]]:  # noqa: N802
        events: list[list[Any]] = [[10**15, "", "idle", "host-not-asking", str(n)] for n in (1, 2)]
        return events[-limit:] if limit else events

    def QueryDisplays(self, caller: Caller, user: str) -> list[list[Any]]:  # noqa: N802
        self.order(caller, "QueryDisplays", user)
        return DISPLAYS

    def QueryScreens(self, caller: Caller, *arguments: str) -> list[list[Any]]:  # noqa: N802
        self.order(caller, "QueryScreens", *arguments)
        return SCREENS

    def ConnectDisplay(self, caller: Caller, *arguments: object) -> str:  # noqa: N802
        self.order(caller, "ConnectDisplay", *arguments)
        return f"{ROOT}/session/_310" if ":0" in arguments else "/"


class UserAgent:
    """One user's agent."""

    interface = USER_AGENT

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def properties(self) -> Mapping[str, Any]:
        return self.values


class Session:
    """One session's object."""

    interface = SESSION

    def __init__(self, manager: Manager, values: Mapping[str, Any]) -> None:
        self._manager = manager
        self.values = dict(values)

    def properties(self) -> Mapping[str, Any]:
        return self.values

    def Activate(self, caller: Caller) -> None:  # noqa: N802
        self._manager.order(caller, "Activate", self.values["Id"])

    def SetStreaming(self, caller: Caller, enabled: bool) -> None:  # noqa: N802
        self._manager.order(caller, "SetStreaming", self.values["Id"], enabled)


class FakeDaemon:
    """The service on ``bus``."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._tasks: set[asyncio.Task[None]] = set()
        self.objects = ObjectServer(bus, ROOT, find_contract(), self._spawn)
        self.manager = Manager()
        self.objects.add(ROOT, self.manager)
        for path, values in SESSIONS.items():
            self.objects.add(path, Session(self.manager, values))
        for path, values in AGENTS.items():
            self.objects.add(path, UserAgent(values))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@asynccontextmanager
async def serving(address: str, name: str = NAME) -> AsyncIterator[FakeDaemon]:
    """Serve under the daemon's name."""
    with await Bus.connect(address) as bus:
        daemon = FakeDaemon(bus)
        await bus.request_name(name)
        yield daemon
