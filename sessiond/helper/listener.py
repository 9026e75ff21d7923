"""Where the socket that helpers connect to comes from.

Inherited as descriptor 0 (inetd's wait mode), handed over by systemd, or made here: the first that
is the right one. What became of $LISTEN_FDS is the caller's.
"""

import errno
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Final

from sessiond.errors import SessiondError, UsageError
from sessiond.transport.drops import refuse_descriptors
from sessiond.transport.fds import OwnedFd
from sessiond.transport.listening import (
    BACKLOG,
    NotListeningError,
    SocketInUseError,
    duplicate_listener,
    listener_at,
)
from sessiond.transport.peer import Peer

log = logging.getLogger(__name__)

NAME: Final = "helper"
"""FileDescriptorName of the socket unit (systemd.socket(5))."""

_STDIN: Final = 0


class SocketTakenError(SocketInUseError):
    """It is a user's, or nobody can say whose: every user may take an abstract name."""


def take_listener(name: str, inherited: Mapping[str, OwnedFd]) -> socket.socket:
    """Return the listening socket: non-blocking, close-on-exec, the caller's to close.

    ``name`` is an abstract one, such as @name; ``inherited`` is what systemd handed over, by its
    names. What is taken of it is closed there; what is not the right socket is left alone. Raises
    UsageError, SocketInUseError, SocketTakenError, or SessiondError.
    """
    if not name.startswith("@") or len(name) < 2:
        raise UsageError(f"{name!r} is not the name of an abstract socket, such as @name")
    address = b"\0" + os.fsencode(name[1:])
    sock = _from_stdin(address) or _from_systemd(address, inherited) or _made(name, address)
    sock.setblocking(False)
    refuse_descriptors(sock)
    return sock


def _from_stdin(address: bytes) -> socket.socket | None:
    try:
        sock = _checked(_STDIN, address)
    except NotListeningError as error:
        log.info("descriptor 0 is left alone: %s", error)
        return None
    if sock:
        # As descriptor 0 it would be the standard input of whatever is started.
        with OwnedFd(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) as nothing:
            os.dup2(nothing.fileno(), _STDIN)
        log.info("listening on the socket that was inherited as descriptor 0")
    return sock


def _from_systemd(address: bytes, inherited: Mapping[str, OwnedFd]) -> socket.socket | None:
    for name, fd in _by_likelihood(inherited):
        try:
            sock = _checked(fd.fileno(), address)
        except NotListeningError as error:
            # Others have names of their own, and are for others.
            level = logging.WARNING if name == NAME else logging.DEBUG
            log.log(level, "descriptor %s of systemd is left alone: %s", name, error)
            continue
        if sock:
            fd.close()
            log.info("listening on the socket %s that systemd handed over", name)
            return sock
    return None


def _by_likelihood(inherited: Mapping[str, OwnedFd]) -> Iterator[tuple[str, OwnedFd]]:
    yield from ((name, fd) for name, fd in inherited.items() if name == NAME)
    yield from ((name, fd) for name, fd in inherited.items() if name != NAME)


def _checked(fd: int, address: bytes) -> socket.socket | None:
    """Return a duplicate of ``fd`` if that is the right socket, None if it is no socket at all.

    Raises NotListeningError for another socket.
    """
    sock = duplicate_listener(fd)
    if not sock:
        return None
    # The whole name as the kernel knows it: one that was padded with NULs is another one.
    bound = sock.getsockname()
    if bound != address:
        sock.close()
        raise NotListeningError(f"its address is {bound!r}, not {address!r}")
    return sock


def _made(name: str, address: bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise _in_use(name, listener_at(address)) from None
        raise SessiondError(f"{name} cannot be listened at: {error.strerror or error}") from None
    log.info("listening on %s", name)
    return sock


def _in_use(name: str, peer: Peer | None) -> SocketInUseError:
    if peer and peer.uid in {0, os.geteuid()}:
        text = (
            f"{name} is in use: another spice-sessiond, or a spice-streaming-agent, listens "
            "there (`ss -xlp` tells which)"
        )
        return SocketInUseError(text)
    whose = f"uid {peer.uid}, pid {peer.pid}" if peer else "a program that does not say whose it is"
    remedy = "end that program (`ss -xlp` tells more), then `spice-sessionctl reload`"
    return SocketTakenError(f"{name} was taken by {whose}: {remedy}")
