"""A non-blocking byte channel on an edge-triggered loop: one reader and one writer."""

import asyncio
import contextlib
import errno
import logging
import os
import select
from collections.abc import Callable
from typing import Final, Protocol

from sessiond.transport.edge import READABLE, EdgePoller
from sessiond.transport.port import OpenPort

log = logging.getLogger(__name__)

READ_SIZE: Final = 1 << 20  # as much as a link holds: most frames come in one piece
READS_AT_ONCE: Final = 16  # then the rest of the loop gets its turn
WRITE_SIZE: Final = 32 << 10  # a virtio port takes no more at once
WRITES_AT_ONCE: Final = 64  # in one system call; the kernel allows 1024

_ONLY_DATA: Final = select.EPOLLIN | select.EPOLLOUT
_GONE: Final = select.EPOLLHUP | select.EPOLLERR
# One for all channels, which are read one after the other: what is read into memory of its own
# each time is returned to the kernel and faulted in again, for every frame.
_SCRATCH: Final = bytearray(READ_SIZE)

_LOST: Final = {
    errno.EIO: "the host hung up",
    errno.ECONNRESET: "the host hung up",
    errno.EPIPE: "the host hung up",
    errno.ENODEV: "the port was unplugged",
}


class ChannelHandler(Protocol):
    """Who hears of what happens on a channel. Nothing is called after ``on_lost``."""

    def on_bytes(self, data: memoryview) -> None:
        """Take what arrived; ``data`` is only valid until this returns."""

    def on_writable(self) -> None:
        """Try again what would have blocked."""

    def on_lost(self, reason: str) -> None:
        """Take note that the peer is gone or the descriptor failed; the channel is closed."""


class Channel:
    """Owns the descriptor of an opened port; reading goes on while writing is blocked.

    With ``on_half_end`` a peer that has only ended its own sending (shutdown(2)) is not lost until
    it is gone: the function is called instead.
    """

    def __init__(
        self,
        port: OpenPort,
        poller: EdgePoller,
        handler: ChannelHandler,
        on_half_end: Callable[[], None] | None = None,
    ) -> None:
        self._port = port
        self._fd = port.fd.fileno()
        self._poller = poller
        self._handler = handler
        self._on_half_end = on_half_end
        # A virtio port gives one of the host's buffers a read, however many there are (Linux,
        # drivers/char/virtio_console.c: fill_readbuf).
        self._gives_all = not port.waits_for_host
        self._heard = False
        self._reads_soon = False
        self._closed = False
        self._is_paused = False
        self.is_blocked = False
        poller.watch(self._fd, self._on_events)

    def fileno(self) -> int:
        """Return the descriptor, which stays the channel's."""
        return self._fd

    def write_nowait(self, data: memoryview, size: int = WRITE_SIZE) -> int:
        """Write at most ``size`` bytes; return how many were taken.

        0 means that it would block: ``on_writable`` comes later. When the peer is gone,
        ``on_lost`` is called soon, and 0 is returned.
        """
        return self._write([data[:size]])

    def write_pieces(self, data: memoryview, size: int) -> list[int]:
        """Write all of ``data``, ``size`` bytes at once; return how many each write has taken.

        Where that is not all, the rest is as with ``write_nowait`` when it takes nothing. A virtio
        port sees a write for each piece; the system calls are fewer (writev(2)).
        """
        taken: list[int] = []
        begin = 0
        while begin < len(data):
            part = data[begin : begin + size * WRITES_AT_ONCE]
            count = self._write([part[at : at + size] for at in range(0, len(part), size)])
            if not count:
                break
            begin += count
            whole, rest = divmod(count, size)
            taken += [size] * whole + [rest] * bool(rest)
        return taken

    def _write(self, pieces: list[memoryview]) -> int:
        if self._closed or self.is_blocked:
            return 0
        try:
            return os.writev(self._fd, pieces)
        except BlockingIOError:
            self.is_blocked = True
            self._poller.watch_writable(self._fd, wanted=True)
        except OSError as error:
            self.is_blocked = True
            asyncio.get_running_loop().call_soon(self._write_failed, _reason(error))
        return 0

    def read_rest(self) -> None:
        """Hand on what is there to be read, without waiting for the loop to say so."""
        self._read()

    def pause(self) -> None:
        """Read nothing until ``resume``; a peer that goes is lost at once, with what it said."""
        self._is_paused = True

    def resume(self) -> None:
        """Read again, from the loop's next turn on."""
        if self._is_paused:
            self._is_paused = False
            self._read_soon()

    def close(self) -> None:
        """Close the port without a word to the handler; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._poller.forget(self._fd)
            self._port.fd.close()

    def _on_events(self, events: int) -> None:
        if self._is_paused and events & _GONE:
            self._skip()
            self._lose("the host hung up")
        elif events & READABLE and not self._reads_soon:
            self._read(may_have_ended=bool(events & ~_ONLY_DATA))
        if events & select.EPOLLOUT and self.is_blocked and not self._closed:
            self.is_blocked = False
            self._handler.on_writable()
            if not self.is_blocked and not self._closed:
                self._poller.watch_writable(self._fd, wanted=False)

    def _read(self, *, may_have_ended: bool = True) -> None:
        for _ in range(READS_AT_ONCE):
            if self._closed or self._is_paused:
                return
            try:
                count = os.readv(self._fd, [_SCRATCH])
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(_reason(error))
                return
            if not count:
                if self._heard or not self._port.waits_for_host:
                    self._end()
                return
            self._heard = True
            with memoryview(_SCRATCH) as view:
                self._handler.on_bytes(view[:count])
            is_all = count < READ_SIZE and self._gives_all
            if is_all and not may_have_ended:
                return  # what comes later is another edge (epoll(7))
        self._read_soon()

    def _skip(self) -> None:
        """Leave nothing to who has the port next: who said it is gone."""
        with contextlib.suppress(OSError):  # that there is no more, among others
            while self._port.waits_for_host and os.readv(self._fd, [_SCRATCH]):
                pass

    def _read_soon(self) -> None:
        # Only one such call at a time, however many events a busy peer causes until then.
        if not self._reads_soon:
            self._reads_soon = True
            asyncio.get_running_loop().call_soon(self._read_on)

    def _read_on(self) -> None:
        self._reads_soon = False
        self._read()

    def _end(self) -> None:
        """Take an end of file: poll(2) says which half it is of.

        A virtio port has no halves, and its next host may be there already.
        """
        if self._on_half_end and not self._port.waits_for_host:
            poll = select.poll()
            poll.register(self._fd, 0)
            if not poll.poll(0):  # neither POLLHUP nor POLLERR
                self._on_half_end()
                return
        self._lose("the host hung up")

    def _write_failed(self, reason: str) -> None:
        self._read()  # what the peer said before it went
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        if not self._closed:
            self.close()
            self._handler.on_lost(reason)


def _reason(error: OSError) -> str:
    return _LOST.get(error.errno or 0, f"the port failed: {error.strerror}")
