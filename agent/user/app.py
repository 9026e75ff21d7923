"""The composition root of ``agent user``: connects to the daemon, again and again, and answers it.

What the host has begun outlives a connection: its commands run on, displays stay connected. What
was begun for others, who wait for it at the daemon, ends with it (``runs``).
"""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Coroutine, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from agent.qrexec.starter import ForkServer
from agent.stream.places import Places
from agent.user.answers import Answers
from agent.user.commands import Commands
from agent.user.displays import Displays
from agent.user.link import Link, NoSocketError, connect
from agent.user.local import LocalServer
from agent.user.logout import LogoutWatch
from agent.user.runs import Runs
from agent.user.terminals import Terminals
from sessiond.errors import CommandError, SessiondError
from sessiond.transport.backoff import LONGEST, Backoff
from sessiond.transport.edge import EdgePoller
from sessiond.transport.names import NameWatch
from sessiond.transport.resizes import listener_command

log = logging.getLogger(__name__)

STEADY: Final = 10.0  # seconds after which a connection counts as a success
LONGEST_AWAY: Final = 600.0  # seconds after the daemon has said that it does not want us
DISPLAYS_CHANGED: Final = "DISPLAYS_CHANGED"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the daemon's socket is, where ours is to be, and where displays are looked for.

    Without a ``starter`` nothing is run for other domains.
    """

    socket: str
    own_socket: Path
    places: Places
    environ: Mapping[str, str]
    starter: ForkServer | None = None


class UserApp:
    """Runs until SIGTERM, SIGINT or its session's end; then ends the commands that run."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._link: Link | None = None
        self._jobs = set[asyncio.Task[None]]()

    async def run(self) -> None:
        """Serve until told to end. Raises SessiondError."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            if signal.getsignal(number) == signal.SIG_IGN:  # by nohup(1), or a shell
                # But not in our commands, as execve(2) has it: each has a caller who may ask for
                # its end.
                signal.signal(number, _ignore)
            elif number != signal.SIGQUIT:
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
        self._news = asyncio.Event()
        with ExitStack() as stack:
            poller = EdgePoller()
            stack.callback(poller.close)
            stack.callback(LogoutWatch(poller, stop.set).close)
            it = self._settings
            displays = Displays(it.places, it.environ, poller, self._displays_changed)
            stack.callback(displays.close)
            local = LocalServer(it.own_socket, self._ask)
            stack.callback(local.close)
            self._watch = NameWatch(it.socket, poller, self._news.set)
            stack.callback(self._watch.close)
            commands = Commands()
            environ = {os.fsencode(k): os.fsencode(v) for k, v in it.environ.items()}
            self._runs = Runs(environ, it.starter, self._tell)
            terminals = Terminals(listener_command, self._begin, self._tell)
            self._answers = Answers(displays, commands, self._runs, terminals)
            async with asyncio.TaskGroup() as self._tasks:
                self._spawn(self._serve())
                try:
                    await stop.wait()
                finally:
                    await asyncio.gather(commands.end(), self._runs.end())
                for job in self._jobs:
                    job.cancel()

    async def _serve(self) -> NoReturn:
        backoff, away = Backoff(), LONGEST
        complaint = ""
        while True:
            try:
                sock = connect(self._settings.socket, frozenset({0, os.geteuid()}))
            except SessiondError as error:
                if str(error) != complaint:
                    complaint = str(error)
                    log.warning("%s; waiting", complaint)
                is_missing = isinstance(error, NoSocketError) and self._watch.is_watching
                await self._pause(None if is_missing else backoff.delay())
                continue
            complaint = ""
            began = asyncio.get_running_loop().time()
            is_refused = await self._converse(Link(sock, self._answers.answer, self._spawn))
            if asyncio.get_running_loop().time() - began > STEADY:
                backoff.reset()
            if is_refused:
                # Not even a new socket is a reason to be back earlier: two agents would fight.
                await asyncio.sleep(away)
                away = min(2 * away, LONGEST_AWAY)
            else:
                away = LONGEST
                await self._pause(backoff.delay())

    async def _converse(self, link: Link) -> bool:
        """Serve a connection to its end; return whether the daemon has refused us."""
        self._link = link
        log.info("connected to %s", self._settings.socket)
        try:
            reason = await link.ended
        finally:
            self._link = None
            link.close()
            self._runs.hang_up()
        log.warning("%s is lost: %s", self._settings.socket, reason)
        return link.is_refused

    async def _pause(self, seconds: float | None) -> None:
        """Wait that long, None for ever, but not after something has happened to the socket."""
        self._news.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    def _spawn(self, job: Awaitable[None]) -> object:
        assert isinstance(job, Coroutine)  # noqa: S101
        return self._begin(job)

    def _begin(self, job: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._tasks.create_task(job)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)
        return task

    def _ask(self, command: str, arguments: Mapping[str, Any]) -> "asyncio.Future[object]":
        if self._link is None:
            raise CommandError("spice-sessiond is not connected")
        return self._link.ask(command, arguments)

    def _displays_changed(self) -> None:
        self._tell(DISPLAYS_CHANGED, {})

    def _tell(self, event: str, data: Mapping[str, Any]) -> None:
        if self._link:
            self._link.tell(event, data)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing, as a handler."""
