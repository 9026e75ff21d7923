"""The hand-over of a terminal: its addresses, its one message, and whom each side trusts.

Understood by the programs that did this first: abstract addresses as long as ``sun_path`` is, and
one byte with three descriptors, standard input, output and error.
"""

import errno
import fcntl
import os
import socket
from typing import Final

from sessiond.errors import SessiondError
from sessiond.transport import rights
from sessiond.transport.peer import Peer

COUNT: Final = 3
_SUN_PATH: Final = 108  # bytes; sys/un.h


class HandoverError(SessiondError):
    """There is no terminal to be had: nobody offers one, or not as it should be."""


def addresses(name: str) -> tuple[bytes, ...]:
    """Return where a terminal of that name is offered: the address as long as it is, then padded.

    The padded one is that of programs which pass the whole structure's size. They differ but for a
    name that leaves no room.
    """
    address = b"\0" + os.fsencode(name)
    return tuple(dict.fromkeys((address, address.ljust(_SUN_PATH, b"\0"))))


def is_trusted(peer: Peer) -> bool:
    """Return whether who is at the other end may have our terminal, or give us one.

    An abstract address has no permissions: everybody may listen there first, or connect.
    """
    return peer.uid in {0, os.geteuid()}


def receive(sock: socket.socket) -> list[int]:
    """Return the COUNT descriptors of a message, all above 2 and close-on-exec; the caller's.

    Raises HandoverError for everything else than exactly that; nothing of it stays open then.
    """
    try:
        # One more of each than is wanted.
        untrusted = rights.receive(sock, len(rights.DATA) + 1, COUNT + 1)
    except OSError as error:
        raise HandoverError(f"nothing came: {error.strerror or error}") from None
    if fault := _fault(untrusted):
        for fd in untrusted.fds:
            os.close(fd)
        raise HandoverError(fault)
    return [above_stdio(fd) for fd in untrusted.fds]


def _fault(untrusted: rights.Received) -> str:
    if not untrusted.data:
        return "the other side went away, or does not trust us"
    if len(untrusted.data) != len(rights.DATA):
        return f"{len(untrusted.data)} bytes came, not {len(rights.DATA)}"
    if not untrusted.is_all or len(untrusted.fds) != COUNT:
        more = "" if untrusted.is_all else " and more"
        return f"{len(untrusted.fds)}{more} descriptors came, not {COUNT}"
    return ""


def above_stdio(fd: int) -> int:
    """Return the descriptor, or in its place a duplicate that is none of 0, 1, 2; close-on-exec.

    Those numbers are free where a program was started without them.
    """
    if fd >= COUNT:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, COUNT)
    os.close(fd)
    return moved


def stream_socket() -> socket.socket:
    """Return a new socket, which does not block, with a number above 2."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock = socket.socket(fileno=above_stdio(sock.detach()))
    sock.setblocking(False)
    return sock


def listen(name: str) -> list[socket.socket]:
    """Return sockets that listen at all addresses of a name. Raises HandoverError."""
    listeners: list[socket.socket] = []
    try:
        for address in addresses(name):
            listeners.append(stream_socket())
            listeners[-1].bind(address)
            listeners[-1].listen()
    except OSError as error:
        for listener in listeners:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            raise HandoverError(f"a terminal is offered as {name!r} already") from None
        raise HandoverError(f"cannot listen as {name!r}: {error.strerror}") from None
    return listeners
