"""A byte stream to one peer, and who brings one about: the small interface behind qrexec.

A ``Duplex`` never blocks, and buffers nothing that was read: not to read is to hold up the sender.
It is for a loop around poll(2), in the process of a command; ``wait_readable`` and
``wait_writable`` make it one for asyncio.
"""

import abc
import asyncio
import contextlib
import socket
from types import TracebackType
from typing import Final, Self

from sessiond.errors import ChannelError

READ_SIZE: Final = (64 << 10) + 8  # the longest chunk of a stream with its header, in one piece
MAX_UNSENT: Final = 1 << 20
"""Bytes. Two chunks and some short messages wait at most, in who stops while it is blocked."""

CONNECT_TIMEOUT: Final = 120.0  # seconds; as long as qrexec's own programs try
# From one attempt to the next, doubling: no event tells that somebody serves it now.
FIRST_RETRY: Final = 0.0005  # seconds
LAST_RETRY: Final = 0.025  # likewise: few wake-ups, and no delay that anybody notices

_GONE: Final = (BrokenPipeError, ConnectionResetError)


class Duplex:
    """Owns a connected stream socket.

    A peer that goes away is no error: what it had sent is still read, then comes the end; what is
    sent to it from then on is dropped.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._unsent = bytearray()
        self.can_send = True  # False once the peer takes nothing more

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor, which stays ours; -1 after ``close``."""
        return self._sock.fileno()

    @property
    def is_blocked(self) -> bool:
        """Whether something waits to be sent: wait until it is writable, then ``flush``."""
        return bool(self._unsent)

    def read(self, size: int = READ_SIZE) -> bytes | None:
        """Return at most ``size`` bytes; None if there are none now, b"" at the end."""
        try:
            return self._sock.recv(size)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            return b""

    def send(self, *pieces: bytes | bytearray | memoryview) -> None:
        """Send them in one go, as far as the peer takes them; the rest waits for ``flush``.

        Raises ChannelError if more than ``MAX_UNSENT`` bytes would wait.
        """
        if not self.can_send:
            return
        sent = 0 if self._unsent else self._try_send(pieces)
        for piece in pieces:
            if sent < len(piece) and self.can_send:
                self._unsent += memoryview(piece)[sent:]
            sent = max(0, sent - len(piece))
        if len(self._unsent) > MAX_UNSENT:
            raise ChannelError(f"a peer leaves over {MAX_UNSENT} bytes unread")

    def flush(self) -> bool:
        """Send of what waits as much as the peer takes; return whether nothing waits any more."""
        if self._unsent:
            del self._unsent[: self._try_send((self._unsent,))]
        return not self._unsent

    def end_sending(self) -> None:
        """Let the peer find the end behind what was sent; it is still heard."""
        self.can_send = False
        self._unsent.clear()
        with contextlib.suppress(OSError):  # it has gone
            self._sock.shutdown(socket.SHUT_WR)

    def detach(self) -> socket.socket:
        """Give the socket away, with what is still unread in it; nothing may wait to be sent.

        That is for who has handed it on: ``close`` hangs up for every process that has it.
        """
        return socket.socket(fileno=self._sock.detach())

    def close(self) -> None:
        """Hang up; what has been sent stays readable for the peer. A second call does nothing.

        What waits for ``flush`` is lost.
        """
        if self._sock.fileno() < 0:
            return
        self.can_send = False
        self._unsent.clear()
        try:
            # With bytes unread at close(2), the peer would get ECONNRESET instead of an end (Linux,
            # net/unix/af_unix.c: unix_release_sock). None can come after the shutdown.
            self._sock.shutdown(socket.SHUT_RDWR)
            while self.read():
                pass
        except OSError:
            pass  # it was not connected any more
        finally:
            self._sock.close()

    def _try_send(self, pieces: tuple[bytes | bytearray | memoryview, ...]) -> int:
        try:
            return self._sock.sendmsg(pieces)
        except BlockingIOError:
            return 0
        except _GONE:
            self.can_send = False
            self._unsent.clear()
            return 0


class Listener(abc.ABC):
    """Waits for one peer."""

    @abc.abstractmethod
    def fileno(self) -> int:
        """Return the descriptor, readable when the peer has come."""

    @abc.abstractmethod
    def accept(self) -> Duplex | None:
        """Return the connection, None if nobody has come. There is no second one.

        After that the listener is closed. Raises ChannelError if it cannot be taken.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Take nobody any more; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Transport(abc.ABC):
    """How other domains are reached; each connection has a server's and a client's end."""

    @abc.abstractmethod
    def listen(self, domain: int, port: int) -> Listener:
        """Serve ``port`` for ``domain``. Raises ChannelError."""

    @abc.abstractmethod
    def try_connect(self, domain: int, port: int) -> Duplex | None:
        """Return a connection to the domain's port, None if it does not serve it yet.

        Raises ChannelError for what does not get better by waiting.
        """

    async def wait_connected(self, domain: int, port: int) -> Duplex:
        """Return a connection as soon as there is one; the caller says how long that may take.

        Raises ChannelError.
        """
        delay = FIRST_RETRY
        while not (connection := self.try_connect(domain, port)):
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY)
        return connection


async def wait_readable(of: Duplex | Listener) -> None:
    """Return when there is something to read or accept, or the peer is gone."""
    loop = asyncio.get_running_loop()
    fd, ready = of.fileno(), loop.create_future()
    loop.add_reader(fd, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def wait_writable(of: Duplex) -> None:
    """Return when the peer takes something again, or is gone."""
    loop = asyncio.get_running_loop()
    fd, ready = of.fileno(), loop.create_future()
    loop.add_writer(fd, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_writer(fd)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
