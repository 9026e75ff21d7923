"""vchan over Unix sockets, as qubes-core-vchan-socket has it.

A stream socket with a name, and bytes as they are. Its name says who serves whom; domains are only
numbers, and whoever may open the directory may be any of them.
"""

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Final, Self

from sessiond.errors import ChannelError
from sessiond.transport.duplex import Duplex, Listener, Transport
from sessiond.transport.peer import peer_of

log = logging.getLogger(__name__)

DIRECTORY: Final = Path("/var/run/vchan")

# Not there, no longer or not yet served, or too many wait for it.
_LATER: Final = (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN)


class Vchan(Transport):
    """What one domain, ``domain``, serves and reaches; the sockets are in ``directory``.

    ``peers`` are the uids of those who may be other domains, None for everybody.
    """

    def __init__(
        self, domain: int, directory: Path = DIRECTORY, peers: Container[int] | None = None
    ) -> None:
        self._domain = domain
        self._directory = directory
        self._peers = peers

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return what $VCHAN_DOMAIN, 0 without it, and $VCHAN_SOCKET_DIR say.

        Raises ChannelError for a domain that is no number.
        """
        domain = environment.get("VCHAN_DOMAIN", "0")
        try:
            number = int(domain)
        except ValueError:
            raise ChannelError(f"$VCHAN_DOMAIN is {domain!r}, which is no number") from None
        return cls(number, Path(environment.get("VCHAN_SOCKET_DIR", DIRECTORY)))

    def listen(self, domain: int, port: int) -> Listener:
        """Serve ``port`` for ``domain``. Raises ChannelError.

        A socket of that name goes away first, whoever serves it.
        """
        return _VchanListener(self._path(self._domain, domain, port), self._peers)

    def try_connect(self, domain: int, port: int) -> Duplex | None:
        """Return a connection to the domain's port, None if it does not serve it yet.

        Raises ChannelError for what does not get better by waiting.
        """
        path = self._path(domain, self._domain, port)
        sock = None
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.connect(str(path))
            _check_peer(sock, self._peers)
        except (OSError, _StrangerError) as error:
            if sock:
                sock.close()
            if isinstance(error, OSError) and error.errno in _LATER:
                return None
            raise _not_usable(path, error) from error
        return Duplex(sock)

    def _path(self, server: int, client: int, port: int) -> Path:
        return self._directory / f"vchan.{server}.{client}.{port}.sock"


class _VchanListener(Listener):
    def __init__(self, path: Path, peers: Container[int] | None) -> None:
        self._path = path
        self._peers = peers
        try:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise _not_usable(path, error) from error
        try:
            path.unlink(missing_ok=True)
            self._sock.bind(str(path))
            self._sock.listen(1)
            self._file = _identity(path)
        except OSError as error:
            self._sock.close()
            raise _not_usable(path, error) from error

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self) -> Duplex | None:
        try:
            accepted, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:  # nothing that goes away by itself: no descriptor is left
            raise _not_usable(self._path, error) from error
        try:
            _check_peer(accepted, self._peers)
        except _StrangerError as error:
            log.warning("vchan %s: %s", self._path, error)
            accepted.close()
            return None
        self.close()
        return Duplex(accepted)

    def close(self) -> None:
        if self._sock.fileno() < 0:
            return
        self._sock.close()
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._file:  # not a successor's
                self._path.unlink()


class _StrangerError(Exception):
    """It is no peer."""


def _check_peer(sock: socket.socket, peers: Container[int] | None) -> None:
    """Raise _StrangerError for a peer that is none of these."""
    if peers is not None and (uid := peer_of(sock).uid) not in peers:
        raise _StrangerError(f"uid {uid} is no other domain")


def _not_usable(path: Path, error: Exception) -> ChannelError:
    what = isinstance(error, OSError) and error.strerror
    return ChannelError(f"vchan {path}: {what or error}")


def _identity(path: Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
