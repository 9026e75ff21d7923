"""The master of a terminal, handed over from the program that made it to who is to use it.

Over a connected Unix stream socket comes one byte, and with it one descriptor (SCM_RIGHTS,
unix(7)).
"""

import array
import contextlib
import fcntl
import socket
from collections.abc import Iterable
from typing import Final

from sessiond.errors import SessiondError
from sessiond.transport.fds import OwnedFd
from sessiond.transport.passing import close_aside

DATA: Final = b"\x17"
"""The byte, which nobody heeds: without one, no descriptor comes (unix(7))."""

_TIOCGPTN: Final = 0x80045430  # asm-generic/ioctls.h: which one a master's terminal is
_INT: Final = array.array("i").itemsize
_ROOM: Final = socket.CMSG_SPACE(8 * _INT)  # for more than there may be: all of them come, or none


def send_master(sock: socket.socket, master: int) -> None:
    """Hand over a terminal's master, which stays ours as well; this never waits.

    Raises SessiondError for what is no Unix stream socket, where nobody is at its other end, and
    where it takes nothing now.
    """
    if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        raise SessiondError("it is no Unix stream socket")  # others drop descriptors without a word
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))
    try:
        sock.sendmsg([DATA], [rights], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError as error:
        raise SessiondError(f"nobody takes it there: {error.strerror}") from error


def receive_master(sock: socket.socket) -> OwnedFd:
    """Return the master that was sent, close-on-exec; this never waits.

    Whoever sent it is not trusted: raises SessiondError for what is not one byte with one
    descriptor, and that a terminal's master; all else that came is closed. Likewise where nothing
    has come, or the other end is gone.
    """
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    try:
        data, untrusted_ancillary, answered, _ = sock.recvmsg(len(DATA), _ROOM, flags)
    except OSError as error:
        raise SessiondError(f"no terminal has come: {error.strerror}") from error
    untrusted_fds = _descriptors(untrusted_ancillary)
    is_whole = data and not answered & socket.MSG_CTRUNC and len(untrusted_ancillary) == 1
    if not is_whole or len(untrusted_fds) != 1 or not _is_master(untrusted_fds[0]):
        close_aside(untrusted_fds)
        raise SessiondError("what has come is no terminal")
    return OwnedFd(untrusted_fds[0])


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) // _INT * _INT])
    return fds.tolist()


def _is_master(fd: int) -> bool:
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, _TIOCGPTN, bytes(_INT))
        return True
    return False
