"""Takes connections at a listening socket where every user may connect, without ever spinning."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

from sessiond.transport.drops import Drops

log = logging.getLogger(__name__)

ACCEPTS_AT_ONCE: Final = 16  # then the rest of the loop gets its turn
RETRY: Final = 1.0  # seconds, after a time when no connection could be taken


class Acceptor:
    """Owns a listening socket, and calls ``on_connection(sock)``, which then owns ``sock``.

    That is non-blocking, and close-on-exec. ``drops`` is where such are closed: nobody is taken
    while it is full. ``what`` is who connects, such as "helper". It begins by ``listen``.
    """

    def __init__(
        self,
        listener: socket.socket,
        drops: Drops,
        on_connection: Callable[[socket.socket], None],
        *,
        what: str,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._drops = drops
        self._on_connection = on_connection
        self._what = what
        self._retry: asyncio.TimerHandle | None = None
        self._is_short = False
        self.is_listening = False

    def listen(self) -> None:
        """Take who connects, from now on or, after a failure, soon; not after ``close``."""
        if self._listener.fileno() >= 0 and not self.is_listening and not self._retry:
            self.is_listening = True
            self._loop.add_reader(self._listener, self._accept)

    def pause(self) -> None:
        """Let who connects wait in the kernel's queue."""
        if self.is_listening:
            self.is_listening = False
            self._loop.remove_reader(self._listener)
        if self._retry:
            self._retry.cancel()
            self._retry = None

    def close(self) -> None:
        """Take nobody any more; a second call does nothing."""
        self.pause()
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            if not self.is_listening:
                return
            if self._drops.is_full:
                self._wait("descriptors that were passed take long to close")
                return
            try:
                sock, _ = self._listener.accept()  # close-on-exec (PEP 446)
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._wait(str(error.strerror))
                return
            self._is_short = False
            sock.setblocking(False)
            self._on_connection(sock)

    def _wait(self, why: str) -> None:
        """Look away for a while: what waits in the queue would wake us again and again."""
        if not self._is_short:  # said once, however long it lasts
            log.warning("no %s can be heard now: %s", self._what, why)
        self._is_short = True
        self.pause()
        self._retry = self._loop.call_later(RETRY, self._listen_again)

    def _listen_again(self) -> None:
        self._retry = None
        self.listen()
