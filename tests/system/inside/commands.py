"""Runs the commands of the tests inside the container: ``tests.vm.commander`` on a Unix socket.

    python3 -m tests.system.inside.commands SOCKET

Connects once and ends with the connection. It belongs to no logind session.
"""

from __future__ import annotations

import signal
import socket
import sys

from tests.vm.commander import Commander


def main(path: str) -> None:
    """Serve the host that listens at PATH until it hangs up."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        Commander(connection.fileno()).run()


if __name__ == "__main__":
    main(sys.argv[1])
