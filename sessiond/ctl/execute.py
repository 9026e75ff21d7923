"""``exec``: a command in a user's session, with this program's own stdin, stdout and stderr.

The daemon passes the three on, and so no byte of them comes through here. Signals that would end
this program go on to the command, whose end is this program's. One with a terminal of its own is
``interactive``'s.
"""

import asyncio
import contextlib
import os
import signal
from argparse import Namespace
from collections.abc import Sequence
from typing import Any, Final

from sessiond.ctl.ask import password_agent
from sessiond.ctl.client import AGENT_LIMIT, COMMAND, PASSWORD_LIMIT, Client
from sessiond.errors import BusError, SessiondError
from sessiond.transport.bus import Bus
from sessiond.transport.bus_match import Match, Signal
from sessiond.transport.bus_signals import Answer
from sessiond.transport.dbus import Variant

STDIO: Final = (0, 1, 2)
_PASSED_ON: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
_DAEMON_GONE: Final = "spice-sessiond has ended, and the command with it"
_AGENT_GONE: Final = "the user's agent has ended: how the command ends is not known"
_SOON: Final = 1.0  # seconds in which a command that has begun already is known here


def execute(options: Namespace) -> int:
    """Run it to its end; return the exit status. Raises SessiondError."""
    for fd in STDIO:
        _open_if_closed(fd)
    return asyncio.run(_execute(options))


async def _execute(options: Namespace) -> int:
    with await Bus.connect(options.bus, takes_fds=True) as bus:
        client = await Client.find(bus, options.name, may_ask=not options.no_ask_password)
        if options.pty:
            from sessiond.ctl.interactive import Interactive  # noqa: PLC0415 (not for all)

            with Interactive(bus, client) as execution:
                return await execution.run(options)
        return await Execution(bus, client).run(options)


class Execution:
    """One command, by callbacks in the order of arrival; ``run`` is called once."""

    fds: Sequence[int] = STDIO
    """What is passed as stdin, stdout and stderr."""

    def __init__(self, bus: Bus, client: Client) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._bus = bus
        self._client = client
        self._path = ""
        self._early: list[int] = []  # signals that came before it was known
        self._ended: dict[str, list[Any]] = {}  # until it is known which of them is ours
        self._answered = asyncio.Event()
        self._status: asyncio.Future[int] = loop.create_future()

    async def run(self, options: Namespace) -> int:
        """Return the exit status. Raises SessiondError."""
        owner = self._client.owner
        self._bus.watch_owner(owner, self._on_owner)
        match = Match(sender=owner, interface=COMMAND, member="Exited")
        self._bus.subscribe(match, self._on_exited)
        for number in _PASSED_ON:
            if signal.getsignal(number) != signal.SIG_IGN:  # by nohup(1), or a shell
                self._loop.add_signal_handler(number, self._on_signal, number)
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(self._watch_bus(), name="bus")
            try:
                # Nobody is asked about what is one's own.
                is_others = bool(options.user or options.session)
                with password_agent(is_wanted=self._client.may_ask and is_others):
                    self._start(options)
                    await self._answered.wait()
                await self._attend()
            finally:
                watch.cancel()
        return self._status.result()  # outside of the group, which would wrap an error

    def choices(self, options: Namespace) -> dict[str, Variant]:
        """Return RunCommand's options."""
        return {"env": Variant("a{ss}", dict(options.env)), "cwd": Variant("s", options.cwd)}

    def _start(self, options: Namespace) -> None:
        may_ask = self._client.may_ask
        body = [
            *(options.user, options.session, options.service, options.argv),
            self.choices(options),
            *range(len(self.fds)),
        ]
        self._bus.call_nowait(
            self._client.run_command(body),
            self._on_answer,
            limit=AGENT_LIMIT + (PASSWORD_LIMIT if may_ask else 0),
            fds=self.fds,
            interactive=may_ask,
        )

    def _on_answer(self, answer: Answer) -> None:
        if isinstance(answer, Exception):
            self._fail(answer)
            return
        [self._path] = answer
        self._answered.set()
        self._on_begun()
        if self._path in self._ended:
            self._finish(*self._ended[self._path])

    def _on_begun(self) -> None:
        # The command has them now, and shall be the last one: who writes to a stdin that it has
        # closed, or waits for the end of its stdout, waits for nobody else. Words of ours may come.
        nowhere = os.open(os.devnull, os.O_RDWR)
        for fd in STDIO[:2]:
            os.dup2(nowhere, fd)
        os.close(nowhere)
        for number in self._early:
            self._kill(number)

    async def _attend(self) -> None:
        """Return when it is known how this ends."""
        await asyncio.wait([self._status])

    def _on_exited(self, arrived: Signal) -> None:
        if not self._path:
            self._ended[arrived.path] = arrived.body
        elif arrived.path == self._path:
            self._finish(*arrived.body)

    def _on_signal(self, number: int) -> None:
        if self._path:
            self._kill(number)
        else:
            self._early.append(number)
            self._loop.call_later(_SOON, self._give_up, number)

    def _kill(self, number: int) -> None:
        call = self._client.kill(self._path, number)
        self._bus.call_nowait(call, lambda _answer: None)  # what came of it, its end tells

    def _give_up(self, number: int) -> None:
        """End without a command: somebody is asked for a password, or an agent does not answer."""
        if not self._path:
            self._end(128 + number)  # as we leave the bus, it ends

    def _on_owner(self, owner: str) -> None:
        if not owner:
            self._fail(SessiondError(_DAEMON_GONE))

    async def _watch_bus(self) -> None:
        try:
            await self._bus.wait_closed()
        except BusError as error:
            self._fail(error)

    def _finish(self, code: int, killed_by: int) -> None:
        if killed_by:
            self._end(128 + killed_by)
        elif code < 0:
            self._fail(SessiondError(_AGENT_GONE))
        else:
            self._end(code)

    def _end(self, status: int) -> None:
        self._answered.set()
        if not self._status.done():
            self._status.set_result(status)

    def _fail(self, error: Exception) -> None:
        self._answered.set()
        if not self._status.done():
            self._status.set_exception(error)


def _open_if_closed(fd: int) -> None:
    """See that no socket of ours gets the number of a stdio that is closed."""
    with contextlib.suppress(OSError):
        os.fstat(fd)
        return
    nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free (open(2))
    assert nowhere == fd  # noqa: S101
