"""Who is at the other end of a Unix socket, by the kernel's word alone."""

import socket
import struct
from typing import Final, NamedTuple

_PEERCRED: Final = struct.Struct("iII")


class Peer(NamedTuple):
    """SO_PEERCRED, of the moment of connect(2); of listen(2) for who connects (unix(7))."""

    pid: int
    uid: int
    gid: int


def peer_of(sock: socket.socket) -> Peer:
    """Return who it is; a pid of 0 is one of another PID namespace."""
    level, option = socket.SOL_SOCKET, socket.SO_PEERCRED
    return Peer(*_PEERCRED.unpack(sock.getsockopt(level, option, _PEERCRED.size)))
