"""Reading and closing where the peer may have passed descriptors, which nobody wants here.

Who drops the last reference to a descriptor closes it, and that may take as long as its owner
likes (a TCP socket with SO_LINGER): any user could stop the loop, by a message that the kernel
discards. So they are refused where the kernel can, else noticed by peeking, and left to a thread.
"""

import contextlib
import logging
import queue
import socket
import threading
from typing import Final

from sessiond.errors import ProtocolError

log = logging.getLogger(__name__)

MAX_WAITING: Final = 63
"""Connections with descriptors that are not closed yet, before nobody is accepted any more."""

_SO_PASSRIGHTS: Final = 83  # asm-generic/socket.h, since Linux 6.16
_SIZE: Final = 4096


def refuse_descriptors(listener: socket.socket) -> None:
    """Have the kernel answer EPERM to who passes descriptors, if it can, from now on."""
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)


def may_pass_descriptors(sock: socket.socket) -> bool:
    """Whether descriptors may come with what comes out of a connection."""
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS))
    except OSError:
        return True


def read_nowait(sock: socket.socket, size: int) -> bytes:
    """Return what arrived, b"" at the end; BlockingIOError when there is nothing.

    Raises ProtocolError, and reads nothing, if descriptors are among it.
    """
    # Without room for control data the kernel tells that there is some (recvmsg(2)).
    peeked, _, flags, _ = sock.recvmsg(size, 0, socket.MSG_PEEK)
    if flags & socket.MSG_CTRUNC:
        raise ProtocolError("it passes descriptors")
    return sock.recv(len(peeked)) if peeked else b""


class Drops:
    """Closes sockets: at once where that cannot take long, else in a thread of its own."""

    def __init__(self) -> None:
        self._queue = queue.SimpleQueue[socket.socket]()
        self._thread: threading.Thread | None = None
        self._waiting = 0  # changed by both threads, under the lock
        self._lock = threading.Lock()

    @property
    def is_full(self) -> bool:
        """Whether as many wait as may: the thread has met one that takes long."""
        return self._waiting >= MAX_WAITING

    def close(self, sock: socket.socket) -> None:
        """Close a connection; for the peer it is closed when this returns."""
        try:
            sock.shutdown(socket.SHUT_RDWR)  # so that nothing more can come
            while read_nowait(sock, _SIZE):
                pass
        except ProtocolError:
            self._hand_over(sock)
        except OSError:
            sock.close()
        else:
            sock.close()

    def _hand_over(self, sock: socket.socket) -> None:
        with self._lock:
            self._waiting += 1
        self._queue.put(sock)
        if not self._thread:
            # A daemon thread, which the program's end does not wait for.
            self._thread = threading.Thread(target=self._run, name="drops", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._queue.get().close()
            with self._lock:
                self._waiting -= 1
