"""Calls a service from inside: the client of the agent's local socket, and its exit status."""

import os
import select
import signal
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.qrexec import spawn
from agent.qrexec.children import Child
from agent.qrexec.ends import End, SocketEnd, inherited
from agent.qrexec.greeting import greet
from agent.qrexec.outlet import Outlet
from agent.qrexec.pump import Streams
from agent.qrexec.pump_client import ClientPump
from agent.qrexec.watch import Deadline, Watch
from sessiond.errors import ChannelError, StartError, UsageError
from sessiond.transport.duplex import CONNECT_TIMEOUT, Duplex, Transport
from sessiond.wire.buffer import Bytes
from sessiond.wire.exec import (
    LOCAL_IDENT,
    PLACE_SIZE,
    Chunk,
    Place,
    Stream,
    Trigger,
    pack,
    parse_place,
)
from sessiond.wire.exec_command import REFUSED
from sessiond.wire.exec_data import Data, DataRole

_SHOWN: Final = frozenset(b"\t\n\r\b\a") | frozenset(range(0x20, 0x7F))
_FILTER: Final = bytes(code if code in _SHOWN else ord("_") for code in range(256))


@dataclass(frozen=True, slots=True)
class Call:
    """What is called and by what: without a ``program`` our own stdin and stdout are carried.

    ``one_socket``: our stdin is a socket that is for both. The filters, which put ``_`` for what a
    terminal might act on, are on for a terminal where they are None.
    """

    path: Path  # of the agent's socket
    target: bytes
    service: bytes
    source: bytes = b""
    program: Sequence[bytes] = ()
    prefix: bytes = b""
    one_socket: bool = False
    filter_stdout: bool | None = None
    filter_stderr: bool | None = None


class RefusedError(StartError):
    """The call is refused."""

    def __init__(self) -> None:
        super().__init__("Request refused", REFUSED)


def call(request: Call, transport: Transport) -> int:
    """Make the call and return the exit status.

    It is the remote one; a local program's only if that is 0. Raises UsageError for what is no
    call, StartError if it is refused or the program is not started, and what else may go wrong.
    """
    _check(request)
    saved = _save_stdio(request)
    with _connected(request.path) as agent:
        place = _ask(agent, request)
        with Watch({signal.SIGCHLD, signal.SIGUSR1}) as watch:
            return _carry(request, saved, _accepted(transport, place, watch), watch)


def _check(request: Call) -> None:
    if request.one_socket:
        if request.program:
            raise UsageError("one socket for both directions, and a program")
        if not stat.S_ISSOCK(os.fstat(0).st_mode):
            raise UsageError("one socket for both directions, but stdin is none")


def _connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        raise ChannelError(f"no agent at {path}: {error.strerror or error}") from error
    return sock


def _ask(agent: socket.socket, request: Call) -> Place:
    """Return where we have to serve the data. Raises RefusedError."""
    # In other times a keyword began with another character.
    target = request.target.replace(b"$", b"@")
    trigger = pack(Trigger(request.service, target, LOCAL_IDENT, request.source))
    answer = b""
    try:
        agent.sendall(trigger)
        while len(answer) < PLACE_SIZE and (received := agent.recv(PLACE_SIZE - len(answer))):
            answer += received
    except ConnectionError:
        answer = b""  # an agent that hangs up on what it has not read
    except OSError as error:
        raise ChannelError(f"the agent does not answer: {error.strerror}") from error
    if len(answer) < PLACE_SIZE:
        raise RefusedError
    return parse_place(answer)


def _carry(request: Call, saved: Mapping[bytes, bytes], connection: Duplex, watch: Watch) -> int:
    with connection:
        data = greet(connection, DataRole.CLIENT, watch)
        streams = _streams(request, saved)
        _send_prefix(connection, data, request.prefix)
        pump = ClientPump(connection, data, streams, watch)
        pump.run()
    local = streams.child.wait() if streams.child else 0
    return pump.remote_status or local


def _accepted(transport: Transport, place: Place, watch: Watch) -> Duplex:
    deadline = Deadline(CONNECT_TIMEOUT)
    with transport.listen(place.domain, place.port) as listener:
        while not (connection := listener.accept()):
            if not deadline.left:
                raise ChannelError(f"nobody comes within {CONNECT_TIMEOUT:.0f} s")
            watch.wait({listener.fileno(): select.POLLIN}, deadline.left)
    return connection


def _send_prefix(connection: Duplex, data: Data, prefix: bytes) -> None:
    for begin in range(0, len(prefix), data.max_chunk):
        piece = prefix[begin : begin + data.max_chunk]
        connection.send(data.send(Chunk(Stream.STDIN, piece)))


def _streams(request: Call, saved: Mapping[bytes, bytes]) -> Streams:
    filter_stderr = os.isatty(2) if request.filter_stderr is None else request.filter_stderr
    stderr = Outlet(inherited(os.dup(2)), change=_filtered if filter_stderr else bytes)
    if request.program:
        child, stdin, stdout = _start(request.program, saved)
        inputs = {Stream.STDOUT: Outlet(stdin), Stream.STDERR: stderr}
        return Streams(inputs, {Stream.STDIN: stdout}, child)
    source = SocketEnd(socket.socket(fileno=0)) if request.one_socket else inherited(0)
    sink = source if request.one_socket else inherited(1)
    filter_stdout = os.isatty(1) if request.filter_stdout is None else request.filter_stdout
    stdout_outlet = Outlet(sink, change=_filtered if filter_stdout else bytes)
    return Streams({Stream.STDOUT: stdout_outlet, Stream.STDERR: stderr}, {Stream.STDIN: source})


def _save_stdio(request: Call) -> dict[bytes, bytes]:
    """Leave our own stdio to the local program under other numbers, which its environment tells.

    To be called before anything else is open: not every shell knows numbers of two digits.
    """
    if not request.program:
        return {}
    numbers = (0, 1, 2) if b"PASS_LOCAL_STDERR" in os.environb else (0, 1)
    saved = {}
    for number in numbers:
        fd = os.dup(number)
        os.set_inheritable(fd, True)
        saved[b"SAVED_FD_%d" % number] = b"%d" % fd
    return saved


def _start(program: Sequence[bytes], saved: Mapping[bytes, bytes]) -> tuple[Child, End, End]:
    """Start the local program; return it, and our ends of its stdin and its stdout."""
    environment = {**os.environb, **saved, b"QREXEC_AGENT_PID": b"%d" % os.getpid()}
    stdin, its_stdin = socket.socketpair()
    stdout, its_stdout = socket.socketpair()
    stdio = {0: its_stdin.fileno(), 1: its_stdout.fileno()}
    argv = [os.path.basename(program[0]), *program[1:]]
    with its_stdin, its_stdout:
        child = spawn.start(program[0], argv, environment, stdio, is_apart=False)
    return child, SocketEnd(stdin), SocketEnd(stdout)


def _filtered(data: Bytes) -> bytes:
    return bytes(data).translate(_FILTER)
