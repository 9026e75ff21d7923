"""Has the host's requests done, each to its end, and makes the lines that answer them.

A request that was begun is finished, and written to the journal, whether or not the host is still
there to hear of it.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Final

from sessiond.errors import CommandError, NoAgentError, RefusedError
from sessiond.users.audit import EXEC, Action, Audit, Way
from sessiond.users.commands import ROOT, Commands, Switches
from sessiond.users.router import Forward, Local, route
from sessiond.users.server import UserAgents
from sessiond.wire.qga import Refused, Request, encode_error, encode_return, unwrap

SYNC_DELIMITED: Final = "guest-sync-delimited"

MAX_ANSWER: Final = (10 << 20) - 2048
"""Bytes of a line: at one of 10 MiB, or a KiB less, libvirt gives up the channel (qemu_agent.c)."""

_TOO_LONG: Final = CommandError("the answer is too long")

Done = Callable[[bytes], None]
Finish = Callable[[object, CommandError | None], None]


class Desk:
    """``in_work`` is the number of requests that are not done yet.

    ``spawn`` runs a coroutine in a task that somebody owns. ``may_run(user)`` says whether the
    host may run commands as a user.
    """

    def __init__(
        self,
        agents: UserAgents,
        commands: Commands,
        audit: Audit,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        may_run: Callable[[str], bool],
    ) -> None:
        self.in_work = 0
        self._loop = asyncio.get_running_loop()
        self._agents = agents
        self._commands = commands
        self._audit = audit
        self._spawn = spawn
        self._may_run = may_run

    def do(self, item: Request | Refused, switches: Switches, done: Done) -> None:
        """Do what is asked for and call ``done(line)`` once, at once or later."""
        now = self._loop.time()
        number = item.id if item.has_id else None
        if isinstance(item, Refused):
            action = Action(Way.FROM_HOST, item.user or "", "", number, {}, now)
            self._audit.note(action, item.error)
            done(encode_error(item.error, to=item))
            return
        self.in_work += 1
        asked, user = item, ""
        value: object = None
        error: CommandError | None = None
        try:
            asked = unwrap(item)
            user = asked.user or ""
            task = self._route(asked)
            user = task.user
            value = self._begin(task, switches)
        except CommandError as failed:
            error = failed
            if isinstance(failed, NoAgentError):
                user = failed.user
        action = Action(Way.FROM_HOST, user, asked.command, number, asked.arguments, now)
        finish = partial(self._finish, item, done, action)
        if isinstance(value, asyncio.Future):
            value.add_done_callback(partial(self._on_future, finish))
        elif inspect.isawaitable(value):
            self._spawn(self._wait(value, action, finish))
        else:
            finish(value, error)

    def _route(self, request: Request) -> Local | Forward:
        agents = self._agents.agents
        root = agents[ROOT].name if ROOT in agents else ""
        return route(request, {it.name for it in agents.values()}, root)

    def _begin(self, task: Local | Forward, switches: Switches) -> object:
        """Return the value, or an Awaitable of it. Both raise CommandError."""
        if isinstance(task, Forward):
            if task.command == EXEC and not self._may_run(task.user):
                raise RefusedError(task.user)
            return self._agents.call(task.user, task.command, task.arguments)
        return self._commands.do(task, switches)

    def _on_future(self, finish: Finish, future: "asyncio.Future[object]") -> None:
        if future.cancelled():
            finish(None, CommandError("the daemon ends"))
            return
        try:
            value, error = future.result(), None
        except CommandError as failed:
            value, error = None, failed
        finish(value, error)

    async def _wait(self, value: Awaitable[object], action: Action, finish: Finish) -> None:
        try:
            result, error = await value, None
        except CommandError as failed:
            result, error = None, failed
        except asyncio.CancelledError:
            self.in_work -= 1
            self._audit.note(action, outcome="unfinished")
            raise
        finish(result, error)

    def _finish(
        self,
        item: Request,
        done: Done,
        action: Action,
        value: object,
        error: CommandError | None,
    ) -> None:
        self.in_work -= 1
        line = b""
        if not error:
            is_delimited = item.command == SYNC_DELIMITED
            line = encode_return(value, request=item, delimited=is_delimited)
            error = _TOO_LONG if len(line) > MAX_ANSWER else None
        self._audit.note(action, error)
        done(encode_error(error, to=item) if error else line)
