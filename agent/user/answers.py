"""What a user's agent does for the host: a table of its commands."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agent.user.commands import Commands, read_request
from agent.user.displays import Displays
from agent.user.program import STREAMS
from agent.user.runs import Runs
from agent.user.served import CHANNEL
from agent.user.terminals import Terminals
from sessiond import __version__
from sessiond.errors import CommandError
from sessiond.transport.passing import Passed
from sessiond.wire.arguments import Argument, Kind, check

_DISPLAY: Final = {"display": Argument(Kind.STR)}
_EXEC: Final = {
    "path": Argument(Kind.STR),
    "arg": Argument(Kind.STRINGS, is_optional=True),
    "env": Argument(Kind.STRINGS, is_optional=True),
    "input-data": Argument(Kind.STR, is_optional=True),
    "capture-output": Argument(Kind.CAPTURE, is_optional=True),
}
_RUN: Final = {
    "id": Argument(Kind.INT),
    "argv": Argument(Kind.STRINGS),
    "service": Argument(Kind.STR),
    "session": Argument(Kind.OBJECT),
    "env": Argument(Kind.OBJECT),
    "cwd": Argument(Kind.STR),
    "terminal": Argument(Kind.OBJECT, is_optional=True),
    "login-shell": Argument(Kind.BOOL, is_optional=True),
}
_SERVE: Final = {
    "id": Argument(Kind.INT),
    "domain": Argument(Kind.INT),
    "port": Argument(Kind.INT),
    "command-line": Argument(Kind.STR),
    "detached": Argument(Kind.BOOL),
}
_TERMINAL: Final = {"path": Argument(Kind.STR)}
_SIGNAL: Final = {"id": Argument(Kind.INT), "signal": Argument(Kind.INT)}
_RESIZE: Final = {name: Argument(Kind.INT) for name in ("id", "columns", "rows")}

Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Command:
    run: Callable[[Arguments], object]  # its value, or an awaitable of that
    arguments: Mapping[str, Argument] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Passing:
    """One that comes with descriptors, which it closes."""

    run: Callable[[Arguments, Passed], Awaitable[object]]
    arguments: Mapping[str, Argument]
    descriptors: int


class Answers:
    """Does the commands, with the parts that know how to."""

    def __init__(
        self, displays: Displays, commands: Commands, runs: Runs, terminals: Terminals
    ) -> None:
        self._displays = displays
        self._commands = commands
        self._table: Final[Mapping[str, _Command]] = {
            "guest-ping": _Command(lambda _: {}),
            "guest-info": _Command(lambda _: self._info()),
            "guest-exec": _Command(lambda a: commands.start(read_request(a)), _EXEC),
            "guest-exec-status": _Command(
                lambda a: commands.status(a["pid"]), {"pid": Argument(Kind.INT)}
            ),
            "query-displays": _Command(lambda _: displays.query()),
            "connect-display": _Command(lambda a: self._connect(a["display"]), _DISPLAY),
            "query-screens": _Command(lambda a: displays.screens(a["display"]), _DISPLAY),
            "virtagent-watch-terminal": _Command(lambda a: terminals.watch(a["path"]), _TERMINAL),
            "virtagent-unwatch-terminal": _Command(
                lambda a: terminals.unwatch(a["path"]), _TERMINAL
            ),
        }

        # For the daemon itself, which lets nobody else ask for them.
        self._passing: Final[Mapping[str, _Passing]] = {
            "run-command": _Passing(runs.run, _RUN, STREAMS),
            "serve-command": _Passing(runs.serve, _SERVE, CHANNEL),
        }
        self._of_daemon: Final[Mapping[str, _Command]] = {
            "signal-command": _Command(runs.signal, _SIGNAL),
            "resize-command": _Command(runs.resize, _RESIZE),
        }

    def answer(
        self, name: str, untrusted_arguments: Mapping[str, Any], passed: Passed
    ) -> object | Awaitable[object]:
        """Return the value of a command, or what is to be awaited for it. Raises CommandError.

        What was ``passed`` with it is closed.
        """
        if name in self._passing:
            return self._pass(self._passing[name], untrusted_arguments, passed)
        passed.close()
        command = self._of_daemon.get(name) or self._table.get(name)
        if command is None:
            raise CommandError(f"The command {name} has not been found", "CommandNotFound")
        return command.run(check(untrusted_arguments, command.arguments))

    async def _pass(
        self, command: _Passing, untrusted_arguments: Mapping[str, Any], passed: Passed
    ) -> object:
        try:
            if len(passed.fds) != command.descriptors:
                raise CommandError(f"it comes with {command.descriptors} descriptors")
            return await command.run(check(untrusted_arguments, command.arguments), passed)
        finally:
            passed.close()

    async def _connect(self, display: str) -> dict[str, object]:
        await self._displays.connect(display)
        return {}

    def _info(self) -> dict[str, object]:
        commands = [
            {"name": name, "enabled": True, "success-response": True} for name in self._table
        ]
        return {"version": __version__, "supported_commands": commands}
