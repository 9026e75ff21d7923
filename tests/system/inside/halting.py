"""A helper that halts in the middle of its message, once the daemon has read as much.

    python3 -m tests.system.inside.halting DISPLAY XAUTHORITY

Tells its pid then, and goes on at SIGUSR1; ends when the daemon has closed the connection.
"""

from __future__ import annotations

import array
import fcntl
import os
import signal
import socket
import sys
import termios

from sessiond.wire.helper import NAME, Record, pack_record

PATIENCE = 60.0


def main(display: str, xauthority: str) -> None:
    """Tell the first half, halt, tell the rest."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    message = pack_record(Record(display, xauthority))
    half = len(message) // 2
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(NAME)
        sock.sendall(message[:half])
        while unread(sock):
            os.sched_yield()
        print(os.getpid(), flush=True)  # noqa: T201 (its answer)
        signal.sigtimedwait({signal.SIGUSR1}, PATIENCE)
        sock.sendall(message[half:])
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)


def unread(sock: socket.socket) -> int:
    """Return how much of what was sent lies there unread (unix(7), SIOCOUTQ)."""
    size = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, size)  # of the same number
    return size[0]


if __name__ == "__main__":
    main(*sys.argv[1:])
