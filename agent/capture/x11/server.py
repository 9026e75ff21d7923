"""Who serves an X display of this machine: asked of the kernel, without a word to the server."""

import socket
from dataclasses import dataclass

from sessiond.transport.peer import peer_of


@dataclass(frozen=True, slots=True)
class Server:
    """A connection to an X server's socket, and who listens there."""

    sock: socket.socket
    pid: int
    uid: int


def connect_server(path: str, timeout: float) -> Server:
    """Connect to the socket ``path``, or to its abstract twin where there is no such file.

    Raises OSError, at the latest after ``timeout`` seconds.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        try:
            sock.connect(path)
        except FileNotFoundError:
            sock.connect(f"\0{path}")
        sock.settimeout(None)
        peer = peer_of(sock)
    except BaseException:
        sock.close()
        raise
    return Server(sock, peer.pid, peer.uid)
