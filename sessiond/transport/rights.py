"""A message that brings descriptors (SCM_RIGHTS, unix(7)), for those that come once.

For the earliest boot, too: the standard library alone.
"""

import array
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

DATA: Final = b"\x17"
"""What terminals come with: without a byte Linux passes none. Which byte it is means nothing."""

_SIZE: Final = array.array("i").itemsize
_RIGHTS: Final = (socket.SOL_SOCKET, socket.SCM_RIGHTS)


class Received(NamedTuple):
    """What has come: a stranger's bytes, and descriptors, which are close-on-exec and ours.

    ``is_all``: no more descriptors came, for which there was no room, and nothing else with them.
    """

    data: bytes
    fds: Sequence[int]
    is_all: bool


def send(sock: socket.socket, fds: Sequence[int]) -> None:
    """Send descriptors, which stay ours, with DATA; this never waits. Raises OSError."""
    rights = (*_RIGHTS, array.array("i", fds))
    sock.sendmsg([DATA], [rights], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, size: int, room: int) -> Received:
    """Return up to ``size`` bytes and ``room`` descriptors; this never waits. Raises OSError.

    Because of its padding, room for an odd number has one more.
    """
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    data, ancillary, answered, _ = sock.recvmsg(size, socket.CMSG_SPACE(room * _SIZE), flags)
    fds = array.array("i")
    for level, kind, numbers in ancillary:
        if (level, kind) == _RIGHTS:
            fds.frombytes(numbers[: len(numbers) // _SIZE * _SIZE])
    is_all = not answered & socket.MSG_CTRUNC and len(ancillary) <= 1
    return Received(data, fds.tolist(), is_all)
