"""Descriptors that are passed on, and the bytes that they go with.

Who drops the last reference to a descriptor closes it, and that may take as long as its owner
likes (a TCP socket with SO_LINGER, a file of a file system that hangs): what strangers have handed
us is closed beside the loop.
"""

import array
import contextlib
import errno
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

MOST_CLOSING: Final = 64
"""Threads that close at one time. There are none while nothing hangs."""


class Passed:
    """Owns descriptors, which must be close-on-exec; closes them beside the loop.

    That is once, at the latest when it is collected.
    """

    def __init__(self, fds: Iterable[int]) -> None:
        self._fds = tuple(fds)

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors, which stay ours; none after ``close``."""
        return self._fds

    def close(self) -> None:
        """Close them; a second call does nothing."""
        fds, self._fds = self._fds, ()
        close_aside(fds)

    def __del__(self) -> None:
        self.close()


class Outgoing:
    """Bytes that wait to be sent, with the descriptors that go with the first of them."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._taken = 0  # bytes by the socket, ever
        self._passed = deque[_Piece]()

    def __len__(self) -> int:
        """Return how many bytes wait."""
        return len(self._bytes)

    def add(
        self,
        data: bytes,
        passed: Passed | None = None,
        on_refused: Callable[[OSError], None] = lambda _error: None,
    ) -> None:
        """Add what is to be sent as a whole; ``passed`` is closed when it is sent, or cleared.

        Who closes ``passed`` before withdraws it: nothing of it is sent then.

        ``on_refused`` is called, and nothing of it sent, if the kernel takes no more descriptors
        (ETOOMANYREFS, unix(7)).
        """
        if passed and passed.fds:
            begin = self._taken + len(self._bytes)
            self._passed.append(_Piece(begin, len(data), passed, on_refused))
        self._bytes += data

    def send(self, sock: socket.socket, size: int) -> None:
        """Send at most ``size`` bytes. Raises OSError, of which BlockingIOError is one."""
        self._drop_withdrawn()
        piece = self._passed[0] if self._passed else None
        if piece and piece.begin == self._taken:
            self._send_piece(sock, piece, size)
            return
        end = min(size, piece.begin - self._taken) if piece else size
        with memoryview(self._bytes) as view, view[:end] as part:
            count = sock.send(part)
        self._drop(count)

    def _send_piece(self, sock: socket.socket, piece: "_Piece", size: int) -> None:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", piece.passed.fds))
        try:
            with memoryview(self._bytes) as view, view[: min(size, piece.length)] as part:
                count = sock.sendmsg([part], [rights])
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS:
                raise
            self._drop(piece.length)
            self._passed.popleft().passed.close()
            piece.on_refused(error)
            return
        self._drop(count)
        self._passed.popleft().passed.close()

    def _drop_withdrawn(self) -> None:
        while self._passed:
            piece = self._passed[0]
            if piece.begin != self._taken or piece.passed.fds:
                return
            self._drop(piece.length)
            self._passed.popleft()

    def _drop(self, count: int) -> None:
        del self._bytes[:count]
        self._taken += count

    def clear(self) -> None:
        """Send none of it."""
        self._drop(len(self._bytes))
        while self._passed:
            self._passed.popleft().passed.close()


@dataclass(frozen=True, slots=True)
class _Piece:
    begin: int  # of all bytes ever
    length: int
    passed: Passed
    on_refused: Callable[[OSError], None]


class _Closer:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = deque[tuple[int, ...]]()
        self._threads = 0

    def close(self, fds: tuple[int, ...]) -> None:
        with self._lock:
            self._waiting.append(fds)
            if self._threads >= MOST_CLOSING:
                return
            self._threads += 1
        try:
            # A daemon thread, which the program's end does not wait for.
            threading.Thread(target=self._run, name="closer", daemon=True).start()
        except RuntimeError:  # the kernel has none for us: the next one closes these, too
            with self._lock:
                self._threads -= 1

    def _run(self) -> None:
        while fds := self._next():
            for fd in fds:
                with contextlib.suppress(OSError):
                    os.close(fd)

    def _next(self) -> tuple[int, ...]:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return ()


_CLOSER: Final = _Closer()


def close_aside(fds: Iterable[int]) -> None:
    """Close descriptors, soon, in a thread."""
    if numbers := tuple(fds):
        _CLOSER.close(numbers)
