"""The hand-over of a terminal: its addresses, its one message, and whom each side trusts.

Understood by the programs that did this first: abstract addresses as long as ``sun_path`` is, and
one byte with three descriptors, standard input, output and error.
"""

import array
import errno
import fcntl
import os
import socket
from collections.abc import Sequence
from typing import Final

from sessiond.errors import SessiondError
from sessiond.transport.peer import Peer

MESSAGE: Final = b"\x17"
"""Without a byte Linux passes no descriptors; which it is means nothing."""
COUNT: Final = 3
_SUN_PATH: Final = 108  # bytes; sys/un.h
_FD_SIZE: Final = array.array("i").itemsize
_RIGHTS: Final = (socket.SOL_SOCKET, socket.SCM_RIGHTS)


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


def send(sock: socket.socket, fds: Sequence[int]) -> None:
    """Send descriptors, in one message. Raises OSError where the peer is gone."""
    rights = (*_RIGHTS, array.array("i", fds))
    sock.sendmsg([MESSAGE], [rights], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)


def receive(sock: socket.socket) -> list[int]:
    """Return the COUNT descriptors of a message, all above 2 and close-on-exec; the caller's.

    Raises HandoverError for everything else than exactly that; nothing of it stays open then.
    """
    # One more of each than is wanted: the padding of three has room for a fourth anyway.
    room = socket.CMSG_SPACE((COUNT + 1) * _FD_SIZE)
    try:
        untrusted_data, control, flags, _ = sock.recvmsg(
            len(MESSAGE) + 1, room, socket.MSG_CMSG_CLOEXEC
        )
    except OSError as error:
        raise HandoverError(f"nothing came: {error.strerror or error}") from None
    fds = _descriptors(control)
    fault = _fault(len(untrusted_data), len(fds), flags)
    del untrusted_data
    if fault or len(control) != 1:
        for fd in fds:
            os.close(fd)
        raise HandoverError(fault or "more came than a terminal")
    return [above_stdio(fd) for fd in fds]


def _descriptors(control: Sequence[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in control:
        if (level, kind) == _RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _FD_SIZE])
    return fds.tolist()


def _fault(size: int, count: int, flags: int) -> str:
    if not size:
        return "the other side went away"
    if size != len(MESSAGE):
        return f"{size} bytes came, not {len(MESSAGE)}"
    if flags & socket.MSG_CTRUNC or count != COUNT:
        return f"{count} descriptors came{', and more' * bool(flags & socket.MSG_CTRUNC)}"
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
