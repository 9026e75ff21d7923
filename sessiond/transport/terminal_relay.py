"""A terminal somewhere else, brought to this program's own stdin and stdout.

::

    relay = Relay(master)                      # in a running loop
    with relay:                                # raw from here on
        await asyncio.wait([ended, relay.left], return_when=asyncio.FIRST_COMPLETED)
        if ended.done():                       # somebody knows that the command has ended
            await relay.drain()
    # as it was before, from here on: print what is to be said now
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

from sessiond.transport.fds import OwnedFd
from sessiond.transport.terminal import RawMode, set_window_size, window_size
from sessiond.transport.terminal_pump import Outcome, Pump

KILLED: Final = 128  # what a shell adds to a signal's number for an exit status

_TELL_TO_END: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)


class Relay:
    """Owns a terminal's ``master``, and relays it while it is entered.

    What is read at ``stdin`` is typed there, and what comes from there is written to ``stdout``;
    both stay the caller's, and are used in threads, as they are: they may be terminals, pipes,
    sockets or files, and shared with anybody. What one side does not take, the other is not asked
    for; no more than some KiB wait here.

    If ``stdin`` is a terminal, it is raw meanwhile, also after it was stopped and continued, and
    the size of its window (or ``stdout``'s, where it has none) is the other one's, from the
    beginning on. If it is none, its end is typed as EOF where lines are read.

    Meanwhile SIGINT, SIGQUIT, SIGTERM, SIGHUP (those that are not ignored), SIGWINCH, SIGTSTP and
    SIGCONT are this object's; afterwards they do what they do by default.

    ``left`` is done when it is time to leave, and not to be cancelled; it has the exit status: 128
    and the number of a signal that told us to end, of SIGHUP where our own terminal has gone, of
    SIGPIPE where nobody reads ``stdout`` any more. It is an OSError where the kernel has no threads
    for this. Nothing more is relayed then.
    """

    def __init__(self, master: OwnedFd, *, stdin: int = 0, stdout: int = 1) -> None:
        self._loop = asyncio.get_running_loop()
        self._master = master
        self._fds = (stdin, stdout)
        self._raw: RawMode | None = None
        with contextlib.suppress(OSError):  # it is no terminal, or has gone
            self._raw = RawMode(stdin)
        self._handled = set[signal.Signals]()
        self._pump: Pump | None = None
        self.left: asyncio.Future[int] = self._loop.create_future()

    def __enter__(self) -> Self:
        """Begin. Raises OSError."""
        try:
            self._begin()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put our terminal back as it was, and hang up."""
        self._end()

    async def drain(self) -> None:
        """Return when all is written that the program has said until now: call it at its end.

        Nothing is typed any more. A program that is still there in the background is not waited
        for. It returns early when ``left`` is done.
        """
        if self._pump:
            self._pump.drain()
            ends: list[asyncio.Future[Any]] = [self._pump.saying, self.left]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    def hang_up(self) -> None:
        """Let go of the master; a second call does nothing.

        Where nobody else has it, the kernel tells the programs at the terminal by SIGHUP.
        """
        if self._pump:
            self._pump.close()
        else:
            self._master.close()

    def _begin(self) -> None:
        for number in _TELL_TO_END:
            self._handle(number, self._leave, KILLED + number)
        self._handle(signal.SIGWINCH, self._follow_size)
        if self._raw:
            self._handle(signal.SIGTSTP, self._stop)
            self._handle(signal.SIGCONT, self._resume)
            self._raw.enter()
        self._follow_size()
        stdin, stdout = self._fds
        self._pump = Pump(self._master, stdin=stdin, stdout=stdout)
        self._pump.typing.add_done_callback(lambda done: self._on_end(done, signal.SIGHUP))
        lost = signal.SIGHUP if os.isatty(stdout) else signal.SIGPIPE
        self._pump.saying.add_done_callback(lambda done: self._on_end(done, lost))

    def _end(self) -> None:
        self.hang_up()
        if self._raw:
            self._raw.leave()  # while no signal ends us yet
            self._raw = None  # nor is one that has come already to undo it
        for number in self._handled:
            self._loop.remove_signal_handler(number)
        self._handled.clear()

    def _handle(
        self, number: signal.Signals, handler: Callable[..., None], *arguments: int
    ) -> None:
        if signal.getsignal(number) != signal.SIG_IGN:  # by nohup(1), or a shell
            self._loop.add_signal_handler(number, handler, *arguments)
            self._handled.add(number)

    def _on_end(self, done: "asyncio.Future[Outcome]", number: int) -> None:
        if error := done.exception():
            if not self.left.done():
                self.left.set_exception(error)
            self.hang_up()
        elif done.result() is Outcome.LOST:
            self._leave(KILLED + number)

    def _leave(self, status: int) -> None:
        if not self.left.done():
            self.left.set_result(status)
        self.hang_up()

    def _follow_size(self) -> None:
        size = next((size for fd in self._fds if (size := window_size(fd))), None)
        if size:
            with contextlib.suppress(OSError):  # we have hung up
                set_window_size(self._master.fileno(), size)

    def _stop(self) -> None:
        """Stop as everything does, with the terminal as we found it, until we are continued."""
        if self._raw:
            self._raw.leave()
        self._loop.remove_signal_handler(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)
        self._loop.add_signal_handler(signal.SIGTSTP, self._stop)
        self._resume()

    def _resume(self) -> None:
        if self._raw:
            self._raw.enter()
        self._follow_size()
