"""The master of a terminal, handed over from the program that made it to who is to use it.

Over a connected Unix stream socket comes one byte, and with it one descriptor (SCM_RIGHTS,
unix(7)).
"""

import contextlib
import fcntl
import os
import socket
import stat
from typing import Final

from sessiond.errors import SessiondError
from sessiond.transport import rights
from sessiond.transport.fds import OwnedFd
from sessiond.transport.passing import close_aside

_TIOCGPTN: Final = 0x80045430  # asm-generic/ioctls.h: which one a master's terminal is
_MASTERS: Final = os.makedev(5, 2)  # linux/major.h, TTYAUX_MAJOR: /dev/ptmx
_ROOM: Final = 8  # descriptors, for more than there may be: all of them come, or none


def send_master(sock: socket.socket, master: int) -> None:
    """Hand over a terminal's master, which stays ours as well; this never waits.

    Raises SessiondError for what is no Unix stream socket, where nobody is at its other end, and
    where it takes nothing now.
    """
    if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
        raise SessiondError("it is no Unix stream socket")  # others drop descriptors without a word
    try:
        rights.send(sock, [master])
    except OSError as error:
        raise SessiondError(f"nobody takes it there: {error.strerror}") from error


def receive_master(sock: socket.socket) -> OwnedFd:
    """Return the master that was sent, close-on-exec; this never waits.

    Whoever sent it is not trusted: raises SessiondError for what is not one byte with one
    descriptor, and that a terminal's master; all else that came is closed. Likewise where nothing
    has come, or the other end is gone.
    """
    try:
        untrusted = rights.receive(sock, len(rights.DATA), _ROOM)
    except OSError as error:
        raise SessiondError(f"no terminal has come: {error.strerror}") from error
    fds = untrusted.fds
    is_one = untrusted.data and untrusted.is_all and len(fds) == 1
    if not is_one or not _is_master(fds[0]):
        close_aside(fds)
        raise SessiondError("what has come is no terminal")
    return OwnedFd(fds[0])


def _is_master(fd: int) -> bool:
    # The device first: what an ioctl does to a file of somebody else's is for them to say (FUSE).
    it = os.fstat(fd)
    if not (stat.S_ISCHR(it.st_mode) and it.st_rdev == _MASTERS):
        return False
    with contextlib.suppress(OSError):
        fcntl.ioctl(fd, _TIOCGPTN, bytes(4))
        return True
    return False
