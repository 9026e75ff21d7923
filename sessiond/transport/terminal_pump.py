"""The bytes between a terminal's master and two descriptors that belong to others, too.

A thread for each direction, which waits for what it has read to be taken before it reads more: so
the one side holds up the other, and at most one piece waits in between. A loop would have to make
those descriptors non-blocking, and they would be so for everybody who has them (open(2)).
"""

import contextlib
import enum
import fcntl
import os
import select
from typing import TYPE_CHECKING, Final

from sessiond.transport.aside import run_aside
from sessiond.transport.fds import OwnedFd
from sessiond.transport.terminal import end_of_input, is_terminal

if TYPE_CHECKING:
    import asyncio

_PIECE: Final = 64 << 10  # bytes that are read at a time
_REST: Final = 1 << 20  # bytes; more than the kernel keeps of a terminal (TTYB_DEFAULT_MEM_LIMIT)
_ITS_END: Final = 0  # what poll(2) tells whether it was asked for or not: errors and hang-ups

_TIOCGPTPEER: Final = 0x5441  # asm-generic/ioctls.h: open a master's terminal (ioctl_tty(2))
# From one look whether all that was typed has been read, to the next: no event tells that.
_FIRST_LOOK: Final = 0.01  # seconds
_LAST_LOOK: Final = 1.0  # seconds


class Outcome(enum.Enum):
    """Why one direction has come to its end."""

    DONE = enum.auto()  # we were told, or the other side of the master has gone
    LOST = enum.auto()  # our own side has gone


class Pump:
    """Owns the ``master`` of a terminal, which becomes non-blocking.

    ``typing`` and ``saying`` are done when the one direction has ended, and the other; they are not
    to be cancelled; each is a BlockingIOError where the kernel has no thread for it. Nobody waits
    for a thread whose own side takes nothing.
    """

    def __init__(self, master: OwnedFd, *, stdin: int, stdout: int) -> None:
        """Begin. Raises OSError."""
        os.set_blocking(master.fileno(), False)
        told, tell = os.pipe()
        self._told, self._tell = OwnedFd(told), OwnedFd(tell)  # at its end once we were told
        self._master = master
        self._stdin = stdin
        self._stdout = stdout
        self._is_terminal = is_terminal(stdin)
        self._is_draining = False
        self._is_over = False
        self.typing: asyncio.Future[Outcome] = run_aside(self._type)
        self.saying: asyncio.Future[Outcome] = run_aside(self._say)

    def drain(self) -> None:
        """Type nothing more, and end ``saying`` when all is written that has been said by now."""
        self._is_draining = True
        self._tell.close()

    def close(self) -> None:
        """Relay nothing more, and let go of the master; a second call does nothing."""
        if self._is_over:
            return
        self._is_over = True
        self._tell.close()
        # A thread may be about to use the number: it finds the end of what it was told by.
        os.dup2(self._told.fileno(), self._master.fileno(), inheritable=False)

    def _say(self) -> Outcome:
        ready = self._poll((self._master.fileno(), select.POLLIN), (self._stdout, _ITS_END))
        rest = _REST
        while rest > 0 and not self._is_over:
            is_draining = self._is_draining  # by now: what is read next is all that there was
            piece = self._read_said()
            if piece is None:
                if is_draining:
                    break
                if self._stdout in dict(ready.poll()):
                    return Outcome.LOST
            elif not piece:
                break
            elif not _write(self._stdout, piece):
                return Outcome.LOST
            elif is_draining:
                rest -= len(piece)
        return Outcome.DONE

    def _read_said(self) -> bytes | None:
        """Return what has been said, None if that is nothing now, b"" at its end."""
        try:
            return os.read(self._master.fileno(), _PIECE)
        except BlockingIOError:
            return None
        except OSError:  # EIO: all who had the terminal have closed it
            return b""

    def _type(self) -> Outcome:
        ready = self._poll((self._stdin, select.POLLIN))
        while not self._is_told(ready.poll()):
            try:
                piece = os.read(self._stdin, _PIECE)
            except BlockingIOError:  # somebody else was quicker, or has made it so
                continue
            except OSError:  # EIO: the terminal has gone, or we are nobody's job there
                piece = b""
            if not piece:
                if self._is_terminal:
                    return Outcome.LOST
                self._type_ends()
            elif not self._type_piece(piece):
                break
        return Outcome.DONE

    def _type_piece(self, piece: bytes) -> bool:
        """Return when all of it is typed; False if that cannot be, or we are told something."""
        ready = self._poll((self._master.fileno(), select.POLLOUT))
        rest = memoryview(piece)
        while rest:
            try:
                rest = rest[os.write(self._master.fileno(), rest) :]
            except BlockingIOError:
                if self._is_told(ready.poll()):
                    return False
            except OSError:  # EIO: all who had the terminal have closed it
                return False
        return True

    def _type_ends(self) -> None:
        """Let whoever reads there find an end, one after the other, until we are told something.

        Where a file or a pipe has ended, each of its readers sees that; at a terminal it is for one
        of them, who may also throw away what was typed before it was asked for.
        """
        told, delay = self._poll(), _FIRST_LOOK
        while not told.poll(delay * 1000):
            with contextlib.suppress(OSError):
                if not self._has_unread():
                    os.write(self._master.fileno(), end_of_input(self._master.fileno()))
            delay = min(2 * delay, _LAST_LOOK)

    def _has_unread(self) -> bool:
        """Whether somebody who reads at the terminal would get something. Raises OSError."""
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
        with OwnedFd(fcntl.ioctl(self._master.fileno(), _TIOCGPTPEER, flags)) as terminal:
            return bool(select.select([terminal], [], [], 0)[0])

    def _poll(self, *events: tuple[int, int]) -> select.poll:
        """Return what waits for these events of descriptors, and for our being told something."""
        poll = select.poll()
        for fd, mask in [(self._told.fileno(), _ITS_END), *events]:
            poll.register(fd, mask)
        return poll

    def _is_told(self, ready: list[tuple[int, int]]) -> bool:
        return any(fd == self._told.fileno() for fd, _events in ready)


def _write(fd: int, piece: bytes) -> bool:
    """Return when all of it is written; False if it cannot be any more."""
    rest = memoryview(piece)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # somebody else has made it so
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()
        except OSError:
            return False
    return True
