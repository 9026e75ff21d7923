"""Listening Unix sockets: those that were inherited, once they are checked, and our own."""

import fcntl
import os
import socket
import stat
from typing import Final

from sessiond.errors import SessiondError
from sessiond.transport.peer import Peer, peer_of

# The older daemon had 5. A connection that waits here costs us no descriptor, while a peer that
# does not block gets EAGAIN where the queue is full (connect(2)): during a storm a long queue that
# is gone through quickly is better than a short one.
BACKLOG: Final = 128

_ABOVE_STDIO: Final = 3


class NotListeningError(SessiondError):
    """An inherited descriptor is not the socket that is looked for; the text says why."""


class SocketInUseError(SessiondError):
    """Another program listens at the name."""


def duplicate_listener(fd: int) -> socket.socket | None:
    """Return a duplicate of ``fd``, close-on-exec, if that is a listening Unix stream socket.

    None if it is no socket at all. Raises NotListeningError for another socket.
    """
    try:
        duplicate = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE_STDIO)
    except OSError:
        return None  # closed
    try:
        sock = socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        return None
    try:
        _check(sock)
    except BaseException:
        sock.close()
        raise
    return sock


def _check(sock: socket.socket) -> None:
    if sock.family != socket.AF_UNIX:
        raise NotListeningError("it is not a Unix socket")
    if sock.type != socket.SOCK_STREAM:
        raise NotListeningError("it is not a stream socket")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise NotListeningError("it does not listen")


def listener_at(address: bytes | str) -> Peer | None:
    """Return who called listen(2) there (unix(7), SO_PEERCRED); None where nobody can say.

    That is where it does not listen at all, and where its queue is full: it is not waited for.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(address)
        except OSError:
            return None
        return peer_of(sock)


def listen_at(path: str, mode: int) -> socket.socket:
    """Return a new socket that listens at ``path``, of ``mode``; the caller's to close.

    The folder is made where it is missing. What another program has left there is replaced.
    Raises SocketInUseError if one still listens there, or SessiondError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _check_folder(os.path.dirname(path))
        _remove_stale(path)
        sock.bind(path)
        os.chmod(path, mode)  # nobody can connect before it listens
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise SessiondError(f"{path} cannot be listened at: {error.strerror or error}") from None
    except SessiondError:
        sock.close()
        raise
    return sock


def _check_folder(folder: str) -> None:
    """Raise SessiondError where somebody else could put a socket of theirs in place of ours."""
    try:
        os.mkdir(folder, 0o755)
        os.chmod(folder, 0o755)  # noqa: S103 (every user may connect, whatever the umask says)
    except FileExistsError:
        pass
    status = os.stat(folder)
    # In a sticky one only its owner and the file's may do that (inode(7)).
    is_shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX
    if is_shared or status.st_uid not in {0, os.geteuid()}:
        raise SessiondError(f"{folder} is a folder where other users can replace a socket")


def _remove_stale(path: str) -> None:
    if peer := listener_at(path):
        raise SocketInUseError(f"{path} is in use: uid {peer.uid}, pid {peer.pid}, listens there")
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise SessiondError(f"{path} is there already, and is no socket")
    os.unlink(path)
