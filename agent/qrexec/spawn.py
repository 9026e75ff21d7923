"""Starting a program, without a moment in which anything else is forked of us."""

import os
import signal
import socket
from collections.abc import Mapping, Sequence
from typing import Final

from agent.qrexec.children import Child
from agent.qrexec.ends import FileEnd, SocketEnd
from agent.qrexec.outlet import Outlet
from agent.qrexec.pump import Streams
from sessiond.errors import StartError
from sessiond.wire.exec import Stream
from sessiond.wire.exec_command import PROBLEM

# What is ignored stays so in a program: the first two by Python, the last in the background of a
# shell. The other signals that a shell ignores have been handled here.
_AS_BY_DEFAULT: Final = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGQUIT)


def start(
    program: bytes,
    argv: Sequence[bytes],
    environment: Mapping[bytes, bytes],
    stdio: Mapping[int, int],
    *,
    is_apart: bool,
) -> Child:
    """Start a program with these descriptors, under the numbers that are their keys.

    ``is_apart``: in a session of its own, without our terminal. Raises StartError.
    """
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in stdio.items()]
    try:
        pid = os.posix_spawn(
            program,
            list(argv),
            dict(environment),
            file_actions=actions,
            setsid=is_apart,
            setsigmask=(),
            setsigdef=_AS_BY_DEFAULT,
        )
    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
        raise StartError(f"cannot start {os.fsdecode(program)}: {error}", PROBLEM) from error
    return Child(pid)


def start_with_streams(
    program: bytes, argv: Sequence[bytes], environment: Mapping[bytes, bytes]
) -> Streams:
    """Start a program whose streams are ours. Raises StartError.

    Its input and its output are sockets, so that it can ask for one of them to be both. What it
    complains to is a pipe: programs open that again by its name in /proc, as a socket cannot be.
    """
    stdin, its_stdin = socket.socketpair()
    stdout, its_stdout = socket.socketpair()
    stderr, its_stderr = os.pipe()
    os.set_blocking(stderr, False)
    outputs = {Stream.STDOUT: SocketEnd(stdout), Stream.STDERR: FileEnd(stderr)}
    stdio = {0: its_stdin.fileno(), 1: its_stdout.fileno(), 2: its_stderr}
    try:
        child = start(program, argv, environment, stdio, is_apart=True)
    except StartError:
        for end in (SocketEnd(stdin), *outputs.values()):
            end.close()
        raise
    finally:
        its_stdin.close()
        its_stdout.close()
        os.close(its_stderr)
    return Streams({Stream.STDIN: Outlet(SocketEnd(stdin))}, {**outputs}, child)


def start_without_streams(
    program: bytes, argv: Sequence[bytes], environment: Mapping[bytes, bytes]
) -> Child:
    """Start a program that reads nothing and whose words nobody hears. Raises StartError."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        return start(program, argv, environment, dict.fromkeys(range(3), nowhere), is_apart=True)
    finally:
        os.close(nowhere)
