"""The ends of a program's streams that are ours: what it reads from, and what it writes to.

None of the calls here waits: whether there is something to do, poll(2) says.
"""

import abc
import contextlib
import errno
import os
import select
import socket
import stat
from typing import Final

_GONE: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EIO})
"""What says that nobody is at the other end; EIO is a terminal's (tty_ioctl(4), hang-up)."""


class End(abc.ABC):
    """One end of a stream; of both streams, where a program has a socket for its two directions."""

    @abc.abstractmethod
    def fileno(self) -> int:
        """Return the descriptor, for poll(2)."""

    @abc.abstractmethod
    def read_into(self, space: memoryview) -> int | None:
        """Read what is there; return how much, 0 at the end, None if there is nothing yet."""

    @abc.abstractmethod
    def write(self, data: memoryview) -> int:
        """Write what there is room for, and return how much, which may be 0.

        Raises ConnectionError when nobody will read it.
        """

    @abc.abstractmethod
    def end_writing(self) -> None:
        """Tell the reader that nothing more comes."""

    @abc.abstractmethod
    def end_reading(self) -> None:
        """Tell the writer that nobody reads any more."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give it up; a second call does nothing."""


class SocketEnd(End):
    """A stream socket, whose ``MSG_DONTWAIT`` leaves others who share it as they are."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def fileno(self) -> int:
        return self._socket.fileno()

    def read_into(self, space: memoryview) -> int | None:
        try:
            return self._socket.recv_into(space, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            return _end_or_raise(error)

    def write(self, data: memoryview) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _broken(error) from error

    def end_writing(self) -> None:
        """Shut down that direction: the descriptor may still be read."""
        with contextlib.suppress(OSError):  # the other end has gone
            self._socket.shutdown(socket.SHUT_WR)

    def end_reading(self) -> None:
        """Shut down that direction: the writer gets EPIPE."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Shut down what is open, whoever else has the socket, and close it."""
        if self._socket.fileno() >= 0:
            self.end_writing()
            self.end_reading()
            self._socket.close()


class SharedSocketEnd(SocketEnd):
    """A socket that others have, too: it is closed, but not shut."""

    def end_writing(self) -> None:
        self.close()

    def end_reading(self) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()


class FileEnd(End):
    """A pipe, a terminal or a file, which ``close`` closes.

    ``is_blocking``: it is not to be made non-blocking, since others have it, too. Then it is read
    only when poll(2) says that it can be, and written in pieces of which each is asked for.
    """

    def __init__(self, fd: int, *, is_blocking: bool = False) -> None:
        self._fd = fd
        self._is_blocking = is_blocking

    def fileno(self) -> int:
        return self._fd

    def read_into(self, space: memoryview) -> int | None:
        try:
            return os.readv(self._fd, [space])
        except BlockingIOError:
            return None
        except OSError as error:
            return _end_or_raise(error)

    def write(self, data: memoryview) -> int:
        if self._is_blocking:
            if not _is_writable(self._fd):
                return 0
            # That much a pipe that poll(2) calls writable takes without blocking (pipe(7)).
            data = data[: select.PIPE_BUF]
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _broken(error) from error

    def end_writing(self) -> None:
        self.close()

    def end_reading(self) -> None:
        self.close()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def inherited(fd: int) -> End:
    """Return the end that an inherited descriptor is, and takes over.

    Whoever else has it keeps it as it is: nothing of it becomes non-blocking, or is shut.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return SharedSocketEnd(socket.socket(fileno=fd))
    return FileEnd(fd, is_blocking=not stat.S_ISREG(mode))


def open_stdio() -> None:
    """Let no descriptor of ours get a number that is a program's stdio."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def _is_writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


def _end_or_raise(error: OSError) -> int:
    if error.errno in _GONE:
        return 0
    raise error


def _broken(error: OSError) -> OSError:
    return error if isinstance(error, ConnectionError) else BrokenPipeError(*error.args)
