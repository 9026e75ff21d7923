"""Where the host speaks: a port that is opened again and again, or a socket that it connects to.

Either gives one opened port at a time, and the next one when it is told that there may be one.
Waiting costs nothing: the kernel says when there is something to be had.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Final, Protocol

from sessiond.errors import PortError, PortMissingError
from sessiond.transport.accept import Acceptor
from sessiond.transport.drops import Drops
from sessiond.transport.edge import EdgePoller
from sessiond.transport.fds import OwnedFd
from sessiond.transport.listening import listen_at
from sessiond.transport.opener import PortOpener
from sessiond.transport.port import OpenPort

log = logging.getLogger(__name__)

LISTEN: Final = "unix:"
_MODE: Final = 0o600  # who may write there can do everything

OnOpen = Callable[[OpenPort], None]


class Place(Protocol):
    """Calls its ``on_open(port)``, which then owns the port, once after each ``open``."""

    def open(self) -> None:
        """Give a port, now or as soon as there is one. Raises SessiondError if that is never."""

    def open_again(self, *, has_worked: bool) -> None:
        """Do so after the last one has ended; ``has_worked``: the host has said something there."""

    def close(self) -> None:
        """Give none any more."""


def find_place(name: str, poller: EdgePoller, on_open: OnOpen) -> Place:
    """Return the place of this name: "unix:" and a path to listen at, or a device's path."""
    if name.startswith(LISTEN):
        return ListeningPlace(name.removeprefix(LISTEN), on_open)
    return PortPlace(name, poller, on_open)


class PortPlace:
    """A virtio port, a pty or a socket of another's.

    A virtio port stays open from host to host. To close it would throw away what the next one has
    said by then (Linux, drivers/char/virtio_console.c: port_fops_release).
    """

    def __init__(self, path: str, poller: EdgePoller, on_open: OnOpen) -> None:
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._on_open = on_open
        self._opener = PortOpener(path, poller, self._take, _complain)
        self._again: asyncio.Handle | None = None
        self._kept: OwnedFd | None = None

    def open(self) -> None:
        """Open it, now or as soon as that is possible."""
        self._opener.open()

    def _take(self, port: OpenPort) -> None:
        log.debug("port %s is open", self._path)
        if port.waits_for_host:
            self._kept = port.fd
            self._give()
        else:
            self._on_open(port)

    def _give(self) -> None:
        assert self._kept  # noqa: S101 (who calls us)
        try:
            fd = OwnedFd(os.dup(self._kept.fileno()))
        except OSError as error:
            log.warning("the host channel waits: %s", error.strerror)
            self.open_again(has_worked=False)
            return
        self._on_open(OpenPort(fd, self._path, waits_for_host=True))

    def open_again(self, *, has_worked: bool) -> None:
        """Do so at once after a host that has spoken: they come and go. Else after a while."""
        if has_worked:
            self._opener.reset()
            self._again = self._loop.call_soon(self._give if self._kept else self.open)
        else:
            self._forget_port()
            self._opener.open_later()

    def close(self) -> None:
        """Open it no more; a second call does nothing."""
        self._opener.rest()
        if self._again:
            self._again.cancel()
        self._forget_port()

    def _forget_port(self) -> None:
        if self._kept:
            self._kept.close()
            self._kept = None


def _complain(error: PortError) -> None:
    # Many machines have no such port, and want none.
    level = logging.INFO if isinstance(error, PortMissingError) else logging.WARNING
    log.log(level, "the host channel waits: %s", error)


class ListeningPlace:
    """A Unix socket of ours. One peer is heard at a time; the next ones wait unanswered."""

    def __init__(self, path: str, on_open: OnOpen) -> None:
        self._path = path
        self._on_open = on_open
        self._acceptor: Acceptor | None = None

    def open(self) -> None:
        """Begin to listen. Raises SocketInUseError or SessiondError."""
        listener = listen_at(self._path, _MODE)
        listener.setblocking(False)
        log.info("the host channel listens at %s", self._path)
        self._acceptor = Acceptor(listener, Drops(), self._take, what="host")
        self._acceptor.listen()

    def open_again(self, *, has_worked: bool) -> None:  # noqa: ARG002 (each peer is another one)
        """Hear the next one."""
        if self._acceptor:
            self._acceptor.listen()

    def close(self) -> None:
        """Hear nobody any more; a second call does nothing."""
        if self._acceptor:
            self._acceptor.close()

    def _take(self, sock: socket.socket) -> None:
        assert self._acceptor  # noqa: S101 (who calls us)
        self._acceptor.pause()
        self._on_open(OpenPort(OwnedFd(sock.detach()), self._path, waits_for_host=False))
