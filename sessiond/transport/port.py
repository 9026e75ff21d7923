"""Opens a stream port: a virtio character device, a pty or a Unix socket, by its path."""

import errno
import os
import select
import socket
import stat
import termios
import tty
from dataclasses import dataclass

from sessiond.errors import PortBusyError, PortError, PortMissingError
from sessiond.transport.fds import OwnedFd

_REASONS = {
    errno.EBUSY: "busy: another program has it open",
    errno.ENOENT: "missing: no such file",
    errno.ENXIO: "gone: the device was unplugged",
    errno.ENODEV: "gone: the device was unplugged",
    errno.EAGAIN: "busy: its listener takes no more connections",
    errno.EACCES: "not accessible: permission denied",
    errno.ECONNREFUSED: "not served: nobody listens on this socket",
}
_KINDS = {
    errno.EBUSY: PortBusyError,
    errno.EAGAIN: PortBusyError,
    errno.ENOENT: PortMissingError,
}


@dataclass(frozen=True, slots=True)
class OpenPort:
    """An opened port: non-blocking, close-on-exec.

    ``waits_for_host``: on a virtio port an end of file before the first byte only says that the
    host's side is not open yet (Linux, drivers/char/virtio_console.c); elsewhere it is the end.
    """

    fd: OwnedFd
    path: str
    waits_for_host: bool


def open_port(path: str) -> OpenPort:
    """Open ``path`` for both ways. Raises PortError with the path and what is wrong with it."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISSOCK(mode):
            return OpenPort(_connect(path), path, waits_for_host=False)
        if not stat.S_ISCHR(mode):
            raise PortError(f"port {path} is neither a character device nor a socket")
        fd = OwnedFd(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
        if not _can_be_watched(fd):
            raise PortError(f"port {path} is no port: the kernel cannot wait for anything there")
        if not os.isatty(fd.fileno()):
            return OpenPort(fd, path, waits_for_host=True)
        # Without raw mode the terminal layer would echo and translate the host's bytes.
        tty.setraw(fd.fileno(), termios.TCSANOW)
        return OpenPort(fd, path, waits_for_host=False)
    except (OSError, termios.error) as error:
        number = error.args[0] if error.args else 0
        reason = _REASONS.get(number, f"not usable: {error.args[-1] if error.args else error}")
        raise _KINDS.get(number, PortError)(f"port {path} is {reason}") from error


def adopt_port(fd: OwnedFd, path: str) -> OpenPort:
    """Return an open port that somebody else has opened as ``open_port`` does."""
    mode = os.fstat(fd.fileno()).st_mode
    os.set_blocking(fd.fileno(), False)
    is_device = stat.S_ISCHR(mode) and not os.isatty(fd.fileno())
    return OpenPort(fd, path, waits_for_host=is_device)


def _can_be_watched(fd: OwnedFd) -> bool:
    with select.epoll() as epoll:
        try:
            epoll.register(fd.fileno(), 0)
        except PermissionError:  # epoll_ctl(2): such as /dev/null
            return False
    return True


def _connect(path: str) -> OwnedFd:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        sock.connect(path)  # a Unix socket connects at once or not at all
        return OwnedFd(sock.detach())
