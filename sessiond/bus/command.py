"""``org.spice_space.Sessiond1.Command``: what runs in a user's session, for somebody on the bus."""

import asyncio
from collections.abc import Mapping
from functools import partial
from signal import SIGRTMAX
from typing import Any, Final

from sessiond.bus.access import RUN_COMMAND, Access
from sessiond.bus.control import Run, Users
from sessiond.bus.order import read_size
from sessiond.bus.paths import command_path
from sessiond.errors import RequestError
from sessiond.model import Ending
from sessiond.transport.bus import Bus
from sessiond.transport.objects import Caller, ObjectServer

_INVALID: Final = "org.freedesktop.DBus.Error.InvalidArgs"
_NOT_SUPPORTED: Final = "org.freedesktop.DBus.Error.NotSupported"


class CommandObject:
    """One command; ``caller`` is the unique name of who has it run."""

    interface = "org.spice_space.Sessiond1.Command"

    def __init__(self, run: Run, caller: str, users: Users, access: Access) -> None:
        self._run = run
        self._caller = caller
        self._users = users
        self._access = access

    def properties(self) -> Mapping[str, Any]:
        """Return all of them; they never change."""
        run = self._run
        return {
            "User": run.agent.name,
            "PID": run.pid,
            "Argv": list(run.argv),
            "StartedUSec": int(run.started * 1e6),
        }

    async def Kill(self, caller: Caller, signal: int) -> None:  # noqa: N802
        """Send a signal: for who has it run, whose it is, and whom polkit lets."""
        if not 1 <= signal <= SIGRTMAX:
            raise RequestError(_INVALID, f"a signal is from 1 to {SIGRTMAX}, not {signal}")
        await self._check(caller)
        await self._users.kill(self._run, signal)

    async def Resize(self, caller: Caller, columns: int, rows: int) -> None:  # noqa: N802
        """Set the size of its terminal: for those who may send it a signal."""
        size = read_size(columns, rows)
        if not self._run.has_terminal:
            raise RequestError(_NOT_SUPPORTED, "it has no terminal")
        await self._check(caller)
        await self._users.resize(self._run, size)

    async def _check(self, caller: Caller) -> None:
        if caller.name != self._caller:
            await self._access.check(caller, RUN_COMMAND, owner=self._run.agent.uid)


class Commands:
    """Serves commands while they run, and lets them end when their callers leave the bus."""

    def __init__(self, bus: Bus, objects: ObjectServer, users: Users, access: Access) -> None:
        self._bus = bus
        self._objects = objects
        self._users = users
        self._access = access

    def serve(self, run: Run, caller: Caller) -> str:
        """Serve one that was started for ``caller``; return its path.

        Its end is told later than what the caller of this says before it waits for anything.
        """
        path = command_path(run.id)
        self._objects.add(path, CommandObject(run, caller.name, self._users, self._access))

        def on_owner(owner: str) -> None:
            if not owner:
                run.end()

        self._bus.watch_owner(caller.name, on_owner)
        run.ended.add_done_callback(partial(self._on_end, path))
        run.ended.add_done_callback(lambda _: self._bus.unwatch_owner(caller.name, on_owner))
        return path

    def _on_end(self, path: str, ended: asyncio.Future[Ending]) -> None:
        ending = ended.result()
        self._objects.emit(path, "Exited", ending.code, ending.signal)
        self._objects.remove(path)
