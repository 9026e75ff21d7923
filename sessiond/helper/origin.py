"""Who a helper is, by the kernel's word alone: nothing of it is in the message.

The pid decides which VT a helper is on, and so must be that of the process that connected, not
of one that has got its number since. What a wrong one could do is little: uid and VT are compared
by the caller, and the uid is the socket's.
"""

import errno
import os
import signal
import socket
import time
from dataclasses import dataclass
from typing import Final

from sessiond.errors import ProtocolError, SessiondError
from sessiond.transport.fds import OwnedFd
from sessiond.transport.peer import Peer, peer_of

_SO_PEERPIDFD: Final = 77  # asm-generic/socket.h, since Linux 6.5
_STAT_SIZE: Final = 2048  # 52 numbers and a name; less than 1 KiB
_TTY_MAJOR: Final = 4
_LAST_VT: Final = 63  # minor 64 is ttyS0
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class PeerGoneError(SessiondError):
    """The process that connected has ended and was waited for: nobody can say what it was."""


@dataclass(frozen=True, slots=True)
class Stat:
    """Of /proc/PID/stat (proc(5)): ``start`` is in clock ticks since boot."""

    session: int
    tty: int
    start: int


@dataclass(frozen=True, slots=True)
class Origin:
    """A helper's process: ``vt`` is 0 where its controlling terminal is none, or no VT.

    ``leader`` is the pid of its kernel session's leader, 0 for one that we cannot see. ``start``
    and ``leader_start`` are when they began, as in ``Stat``; that of a leader which has ended is 0.
    """

    uid: int
    gid: int
    pid: int
    start: int
    vt: int
    leader: int
    leader_start: int


def parse_stat(text: bytes) -> Stat:
    """Raises ProtocolError: that is nothing that a kernel wrote."""
    # The name is the user's choice and may hold anything, ")" too; what follows it cannot.
    _, bracket, rest = text.rpartition(b")")
    fields = rest.split() if bracket else []
    try:
        return Stat(session=int(fields[3]), tty=int(fields[4]), start=int(fields[19]))
    except (ValueError, IndexError):
        raise ProtocolError("/proc tells nothing sensible of its process") from None


def vt_of(tty_nr: int) -> int:
    """Return the number of the VT, 0 for any other terminal, and for none."""
    number = tty_nr & 0xFFFFFFFF  # it is printed as a signed one
    # new_encode_dev() of linux/kdev_t.h
    major = number >> 8 & 0xFFF
    minor = number & 0xFF | number >> 12 & 0xFFF00
    return minor if major == _TTY_MAJOR and 1 <= minor <= _LAST_VT else 0


def origin_of(sock: socket.socket) -> Origin:
    """Look up who connected; to be called soon after accept(2).

    Nothing is read that a user's process can delay: ``stat`` is the kernel's own, other than
    ``environ`` and ``cmdline``. Raises PeerGoneError, or ProtocolError for a process that cannot
    be who connected.
    """
    now = int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS)
    peer = peer_of(sock)
    if peer.pid <= 0:
        raise ProtocolError("its process is in another PID namespace")
    with _pidfd(sock, peer) as pidfd:
        owner, stat = _look_up(peer.pid)
        # Nobody else gets the leader's number while there is a process in its session.
        leader_start = start_of(stat.session)
        _check_unchanged(pidfd)
    if owner != peer.uid:
        raise ProtocolError(f"its process belongs to uid {owner} now")
    # Where the kernel has no SO_PEERPIDFD, a number that was reused before we came cannot be told
    # for sure; a process that is younger than its own connection can.
    if stat.start > now:
        raise PeerGoneError("its process has ended, and another has its number")
    vt = vt_of(stat.tty)
    return Origin(peer.uid, peer.gid, peer.pid, stat.start, vt, stat.session, leader_start)


def start_of(pid: int) -> int:
    """Return when a process began, as in ``Stat``: with its pid it says which one it is.

    0 if there is none of that number.
    """
    try:
        return _look_up(pid)[1].start
    except SessiondError:
        return 0


def _pidfd(sock: socket.socket, peer: Peer) -> OwnedFd:
    """Return what stands for the process itself; the kernel makes both close-on-exec."""
    try:
        return OwnedFd(sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise _gone() from None  # EINVAL, ESRCH or ENODATA, as kernels differ
    try:
        return OwnedFd(os.pidfd_open(peer.pid))
    except OSError:
        raise _gone() from None


def _look_up(pid: int) -> tuple[int, Stat]:
    """Return the owner of the process, and its stat."""
    try:
        # Both of one process: the folder's descriptor stays with it, not with the number.
        with OwnedFd(os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as place:
            owner = os.fstat(place.fileno()).st_uid
            flags = os.O_RDONLY | os.O_CLOEXEC
            with OwnedFd(os.open("stat", flags, dir_fd=place.fileno())) as file:
                return owner, parse_stat(os.read(file.fileno(), _STAT_SIZE))
    except OSError:
        raise _gone() from None


def _check_unchanged(pidfd: OwnedFd) -> None:
    """Raise PeerGoneError if the process no longer has its number.

    One that has ended but was not yet waited for still has it, and a terminal: a helper that
    sends and ends at once. So this asks for more than a pidfd that polls as readable does.
    """
    try:
        signal.pidfd_send_signal(pidfd.fileno(), 0)
    except PermissionError:
        pass  # it exists: without privileges, in a test
    except OSError:
        raise _gone() from None


def _gone() -> PeerGoneError:
    return PeerGoneError("its process has ended")
