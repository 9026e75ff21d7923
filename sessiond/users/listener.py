"""Where the socket that users' agents connect to comes from: systemd, or a file made here."""

import logging
import socket
from collections.abc import Mapping
from typing import Final

from sessiond.transport.drops import refuse_descriptors
from sessiond.transport.fds import OwnedFd
from sessiond.transport.listening import NotListeningError, duplicate_listener, listen_at

log = logging.getLogger(__name__)

NAME: Final = "agent"
"""FileDescriptorName of the socket unit (systemd.socket(5))."""

_MODE: Final = 0o666  # every user may connect: the kernel says who it is


def take_listener(path: str, inherited: Mapping[str, OwnedFd]) -> socket.socket:
    """Return the listening socket: non-blocking, close-on-exec, the caller's to close.

    ``inherited`` is what systemd handed over, by its names; the one that is taken is closed there,
    and one that is no listening Unix socket is left alone. systemd's is taken wherever it listens:
    who waits there would have us started again and again. Raises SocketInUseError or
    SessiondError.
    """
    sock = _from_systemd(inherited)
    if not sock:
        sock = listen_at(path, _MODE)
        log.info("users' agents may connect to %s", path)
    sock.setblocking(False)
    refuse_descriptors(sock)
    return sock


def _from_systemd(inherited: Mapping[str, OwnedFd]) -> socket.socket | None:
    fd = inherited.get(NAME)
    if not fd:
        return None
    try:
        sock = duplicate_listener(fd.fileno())
    except NotListeningError as error:
        log.warning("descriptor %s of systemd is left alone: %s", NAME, error)
        return None
    if not sock:
        log.warning("descriptor %s of systemd is left alone: it is no socket", NAME)
        return None
    fd.close()
    log.info("users' agents may connect to %s, which systemd handed over", sock.getsockname())
    return sock
