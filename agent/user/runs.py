"""What the daemon lets this agent run: ``run-command`` and ``serve-command``.

``signal-command`` and ``resize-command`` are for what runs.

Each is known by the id that the daemon has given it, and belongs to the connection that it was
asked for on: when that is lost, all of them end, for who wanted them is out of reach.

A command that is started is answered by ``{"pid": PID}``, and then there is one notice of its end,
``COMMAND_EXITED`` with ``{"id": ID, "code": CODE, "signal": NUMBER}``: the signal is 0 unless the
command was killed by one, and then the code is 128 and that number. One that cannot be started is
answered by ``{"error-code": CODE, "text": TEXT}``: the code is 127 for what does not exist, 126 for
what is there and cannot be run, and 125 for everything else. An error is for a call that is wrong.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from agent.qrexec.starter import ForkServer
from agent.user import program, served
from agent.user.program import Program, Started
from agent.user.running import ENDING, GRACE, Running
from agent.user.served import Served
from sessiond.errors import CommandError, StartError
from sessiond.transport.aside import run_aside
from sessiond.transport.passing import Passed
from sessiond.wire.exec_command import PROBLEM

log = logging.getLogger(__name__)

EXITED: Final = "COMMAND_EXITED"
MAX_RUNNING: Final = 320  # more than the daemon asks for; each has a descriptor of ours

_SIGNALS: Final = frozenset(map(int, signal.valid_signals()))
_PATIENCE: Final = 10.0  # seconds for a process to begin
_LAST_WORD: Final = 1.0  # seconds from being killed to being gone

T = TypeVar("T")
Tell = Callable[[str, Mapping[str, Any]], None]


class _Wanted:
    """One that is being started: it is to end at once if it is not known any more by then."""


class Runs:
    """All of them. ``tell`` sends a notice; without a ``starter`` nothing of qrexec is served."""

    def __init__(
        self, environ: Mapping[bytes, bytes], starter: ForkServer | None, tell: Tell
    ) -> None:
        self._environ = environ
        self._starter = starter
        self._tell = tell
        self._known = dict[int, Running | _Wanted]()  # by the daemon's ids
        self._running = set[Running]()  # also those of an earlier connection
        self._starting = set[asyncio.Future[Any]]()
        self._is_over = False

    async def run(self, arguments: Mapping[str, Any], streams: Passed) -> dict[str, object]:
        """Do ``run-command``: a program gets these streams. Raises CommandError."""
        request = program.read_request(arguments)
        start = partial(program.start, request, self._environ, self._starter, streams)
        return await self._begin(arguments["id"], partial(self._run, start))

    async def serve(self, arguments: Mapping[str, Any], channel: Passed) -> dict[str, object]:
        """Do ``serve-command``: over this channel. Raises CommandError."""
        request = served.read_request(arguments)
        if not self._starter:
            raise CommandError("this agent serves no commands of other domains")
        start = partial(served.start, request, self._starter, channel)
        return await self._begin(arguments["id"], partial(self._serve, start))

    def signal(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        """Do ``signal-command``. Raises CommandError."""
        number, what = arguments["id"], arguments["signal"]
        running = self._find(number)
        if what not in _SIGNALS:
            raise CommandError("there is no such signal")
        if isinstance(running, Running):
            running.signal(what)
        elif what in ENDING:
            del self._known[number]
        else:
            raise CommandError("it is not started yet")
        return {}

    def resize(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        """Do ``resize-command``. Raises CommandError."""
        running = self._find(arguments["id"])
        size = program.read_size(arguments)
        if not isinstance(running, Running):
            raise CommandError("it is not started yet")
        running.resize(size)
        return {}

    def hang_up(self) -> None:
        """Have all of them end, and tell nobody: the connection is lost."""
        self._known.clear()
        for running in self._running:
            running.hang_up()

    async def end(self) -> None:
        """End all of them, as far as that can be, and wait for it. No other one begins."""
        self._is_over = True
        if self._starting:
            await asyncio.wait(self._starting, timeout=GRACE)
        self.hang_up()
        if self._running:
            ends = [running.gone for running in self._running]
            await asyncio.wait(ends, timeout=GRACE + _LAST_WORD)
        for running in [*self._running]:  # of another user now, or on a dead mount
            running.close()

    def _find(self, number: int) -> Running | _Wanted:
        if number not in self._known:
            raise CommandError("there is no such command")
        return self._known[number]

    async def _begin(
        self, number: int, start: Callable[[], Awaitable[Running]]
    ) -> dict[str, object]:
        if self._is_over:
            raise CommandError("this agent is ending")
        if number in self._known:
            raise CommandError("there is such a command already")
        if len(self._starting) + len(self._running) >= MAX_RUNNING:
            raise CommandError(f"{MAX_RUNNING} commands run already")
        wanted = self._known[number] = _Wanted()
        try:
            running = await start()
        except StartError as error:
            log.info("a command is not started: %s", error)
            if self._known.get(number) is wanted:
                del self._known[number]
            return {"error-code": error.exit_code, "text": str(error)}
        # Nothing is waited for from here to the answer, which comes before what it tells.
        log.info("command %d is begun, as process %d", number, running.pid)
        running.watch(partial(self._exited, number, running))
        if self._known.get(number) is not wanted:
            running.hang_up()
            raise CommandError("it is not wanted any more")
        self._known[number] = running
        return {"pid": running.pid}

    async def _run(self, start: Callable[[], Started]) -> Running:
        return self._added(Program(await self._aside(start)))

    async def _serve(self, start: Callable[[], socket.socket]) -> Running:
        running = Served(await self._aside(start))
        self._added(running)
        try:
            async with asyncio.timeout(_PATIENCE):
                await running.begun
        except TimeoutError:
            running.close()
            raise StartError("it does not begin", PROBLEM) from None
        return running

    async def _aside(self, start: Callable[[], T]) -> T:
        starting = run_aside(start)
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        try:
            return await starting
        except BlockingIOError as error:  # the kernel has no thread for us
            raise StartError(f"cannot start it: {error.strerror}", PROBLEM) from error

    def _added(self, running: Running) -> Running:
        self._running.add(running)
        running.gone.add_done_callback(lambda _: self._running.discard(running))
        return running

    def _exited(self, number: int, running: Running, code: int, killed_by: int) -> None:
        if self._known.get(number) is running:
            del self._known[number]
            self._tell(EXITED, {"id": number, "code": code, "signal": killed_by})
