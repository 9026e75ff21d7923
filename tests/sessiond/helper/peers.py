"""Helpers of the older protocol, honest and other, as processes of their own."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

OK: Final = bytes.fromhex(
    "0101023a30021d2f72756e2f757365722f313030302f67646d2f58617574686f72697479"
)
"""h.ok of the sheet: DISPLAY :0 and an XAUTHORITY."""

NOBODY: Final = 65534
ROOT: Final = Path(__file__).parents[3]

_CONNECT: Final = """
import ctypes, fcntl, os, socket, sys, termios
sock = socket.socket(socket.AF_UNIX)
def connect():
    sock.connect(sys.argv[1].replace("@", chr(0), 1))
"""

_number = itertools.count()


def fresh_name() -> str:
    """Return the name of an abstract socket that nobody else uses."""
    return f"@spice-sessiond-test-{os.getpid()}-{next(_number)}"


def address(name: str) -> bytes:
    """Return the name as the kernel knows it."""
    return name.replace("@", "\0", 1).encode()


@contextlib.contextmanager
def peer(
    name: str, code: str, *, uid: int | None = None, fds: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run CODE, which may call ``connect()`` to connect ``sock`` to the socket NAME.

    It has stdin and stdout as pipes, and is killed at the end if it still runs.
    """
    argv = [os.path.realpath(sys.executable), "-I", "-S", "-c", _CONNECT + code, name]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=uid, cwd="/", pass_fds=fds
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def wait_line(child: subprocess.Popen[bytes]) -> bytes:
    """Return the next line that the child prints."""
    assert child.stdout
    return child.stdout.readline()


def accept(listener: socket.socket) -> socket.socket:
    """Return the next connection, however long it takes."""
    listener.setblocking(True)
    return listener.accept()[0]
