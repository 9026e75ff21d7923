"""Takes the users' agents' socket from systemd and lets nobody wait there.

No agent of a user is served by this daemon. The socket is there all the same: who connects has to
be let go at once, for a connection that nobody accepts would start the daemon again each time that
it has ended.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from typing import Final

from sessiond.transport.drops import Drops, refuse_descriptors
from sessiond.transport.fds import OwnedFd

log = logging.getLogger(__name__)

NAME: Final = "agent"
"""FileDescriptorName of the socket unit (systemd.socket(5))."""

RETRY: Final = 1.0  # seconds, after a time when no connection could be taken


class Refuser:
    """Owns the listening socket among ``inherited`` (what systemd handed over), if it is there.

    What is taken of it is closed there; what is no listening Unix stream socket is left alone.
    """

    def __init__(self, inherited: Mapping[str, OwnedFd]) -> None:
        self._loop = asyncio.get_running_loop()
        self._drops = Drops()
        self._retry: asyncio.TimerHandle | None = None
        self._listener = _taken(inherited[NAME]) if NAME in inherited else None
        self._listen()

    def close(self) -> None:
        """Let who connects wait, for the next daemon; a second call does nothing."""
        if self._listener:
            self._look_away()
            self._listener.close()
            self._listener = None

    def _listen(self) -> None:
        self._retry = None
        if self._listener:
            self._loop.add_reader(self._listener, self._accept, self._listener)

    def _look_away(self) -> None:
        if self._listener:
            self._loop.remove_reader(self._listener)
        if self._retry:
            self._retry.cancel()

    def _accept(self, listener: socket.socket) -> None:
        """Let one go; the next one is another turn's."""
        if self._drops.is_full:
            self._wait("descriptors that were passed take long to close")
            return
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._wait(str(error.strerror))
            return
        log.debug("a user's agent has connected; it is not served")
        sock.setblocking(False)
        self._drops.close(sock)

    def _wait(self, why: str) -> None:
        """Look away for a while: what waits in the queue would wake us again and again."""
        log.warning("no user's agent can be let go now: %s", why)
        self._look_away()
        self._retry = self._loop.call_later(RETRY, self._listen)


def _taken(fd: OwnedFd) -> socket.socket | None:
    """Return a duplicate of ``fd``, which is closed then, if it is such a socket."""
    duplicate = os.dup(fd.fileno())
    try:
        sock = socket.socket(fileno=duplicate)
    except OSError:  # no socket at all
        os.close(duplicate)
        sock = None
    if sock and _is_listener(sock):
        fd.close()
        sock.setblocking(False)
        refuse_descriptors(sock)
        return sock
    if sock:
        sock.close()
    log.warning("descriptor %s of systemd is left alone: it is no Unix listener", NAME)
    return None


def _is_listener(sock: socket.socket) -> bool:
    is_stream = sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM
    return is_stream and bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
