"""From a command line to something that runs: a shell, a program, or a service that listens."""

import errno
import logging
import os
import select
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agent.qrexec import descendants, spawn
from agent.qrexec.children import Child
from agent.qrexec.ends import SocketEnd
from agent.qrexec.identity import Identity, become
from agent.qrexec.outlet import Outlet
from agent.qrexec.pump import Streams
from agent.qrexec.service import (
    WAIT_FOR_SESSION,
    Executable,
    Places,
    TcpService,
    UnixService,
    look_up,
    variables,
)
from agent.qrexec.service_config import ServiceConfig, load
from agent.qrexec.watch import Deadline, Watch
from sessiond.errors import ChannelError, StartError
from sessiond.transport.duplex import Duplex
from sessiond.wire.exec import Stream
from sessiond.wire.exec_command import PROBLEM, CommandLine, ServiceCall, parse_command_line

log = logging.getLogger(__name__)

_SESSION_TIMEOUT: Final = 300.0  # seconds for somebody to log in
_CONNECT_TIMEOUT: Final = 30.0  # seconds for a service to take us
_RETRY: Final = 0.01  # seconds, for a service whose queue is full
_MAX_SUN_PATH: Final = 107  # bytes, unix(7)


@dataclass(frozen=True, slots=True)
class Program:
    """A program with everything but its streams."""

    path: bytes
    argv: Sequence[bytes]
    environment: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Listening:
    """A service that listens, and what it is told before anything else."""

    service: UnixService | TcpService
    descriptor: bytes


@dataclass(frozen=True, slots=True)
class Command:
    """What is to be started, and how it is configured."""

    target: Program | Listening
    config: ServiceConfig


def prepare(
    line: bytes, environment: Mapping[bytes, bytes], connection: Duplex, watch: Watch
) -> Command:
    """Find out what the command line says, and become its user. Raises StartError.

    Waits for the user's session if that is configured; raises ChannelError if the peer of
    ``connection`` does not.
    """
    parsed = parse_command_line(line)
    if not isinstance(parsed.command, ServiceCall):
        identity = become(parsed.user, environment)
        return Command(_shell(parsed.command, identity), ServiceConfig())
    return _prepare_call(parsed, parsed.command, environment, connection, watch)


def _shell(command: bytes, identity: Identity) -> Program:
    argv = (identity.shell_name, b"-c", command)
    return Program(identity.shell, argv, variables(identity.environment))


def _prepare_call(
    line: CommandLine,
    call: ServiceCall,
    environment: Mapping[bytes, bytes],
    connection: Duplex,
    watch: Watch,
) -> Command:
    places = Places.of(environment)
    config = load(call, places.config)
    user = line.user if config.force_user is None else config.force_user
    identity = become(user, environment)
    service = look_up(call, config, places)
    if config.wait_for_session and not line.nogui:
        _wait_for_session(_waiter(call, places, identity), user, connection, watch)
    if isinstance(service, Executable):
        return Command(_program(service, call, identity), config)
    descriptor = b"" if config.skip_descriptor else call.text + b"\0"
    return Command(Listening(service, descriptor), config)


def _program(service: Executable, call: ServiceCall, identity: Identity) -> Program:
    arguments = (service.argument,) if service.argument else ()
    return Program(service.path, (service.path, *arguments), variables(identity.environment, call))


def start(command: Command, watch: Watch) -> Streams:
    """Start it, or connect to it. Raises StartError."""
    target = command.target
    if isinstance(target, Program):
        return spawn.start_with_streams(target.path, target.argv, target.environment)
    end = SocketEnd(_connect(target.service, watch))
    stdin = Outlet(end)
    stdin.put(target.descriptor)
    return Streams({Stream.STDIN: stdin}, {Stream.STDOUT: end})


def start_detached(command: Command, watch: Watch) -> None:
    """Start it without any stream, and leave it alone. Raises StartError."""
    target = command.target
    if isinstance(target, Program):
        spawn.start_without_streams(target.path, target.argv, target.environment)
        return
    with _connect(target.service, watch) as sock:
        sock.sendall(target.descriptor)


# A session.


def _waiter(call: ServiceCall, places: Places, identity: Identity) -> Program | None:
    waiting = ServiceCall(WAIT_FOR_SESSION, call.source)
    try:
        service = look_up(waiting, ServiceConfig(), places)
    except StartError as error:
        log.warning("nothing can tell when there is a session: %s", error)
        return None
    return _program(service, waiting, identity) if isinstance(service, Executable) else None


def _wait_for_session(
    waiter: Program | None, user: bytes, connection: Duplex, watch: Watch
) -> None:
    if waiter is None:
        return
    child = _start_waiter(waiter, user)
    deadline = Deadline(_SESSION_TIMEOUT)
    while child.status is None:
        ready, _ = watch.wait({connection.fileno(): 0}, deadline.left)
        child.reap()
        if ready:
            descendants.end_all()
            raise ChannelError("the peer does not wait for a session any more")
        if not deadline.left:
            descendants.end_all()
            raise StartError(f"no session within {_SESSION_TIMEOUT:.0f} s", PROBLEM)


def _start_waiter(waiter: Program, user: bytes) -> Child:
    reader, writer = os.pipe()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        stdio = {0: reader, 1: nowhere}
        child = spawn.start(waiter.path, waiter.argv, waiter.environment, stdio, is_apart=True)
        os.write(writer, user + b"\n")  # a pipe has room for it
        return child
    finally:
        for fd in (reader, writer, nowhere):
            os.close(fd)


# A service that listens.


def _connect(service: UnixService | TcpService, watch: Watch) -> socket.socket:
    if isinstance(service, TcpService):
        return _try_connect(service.family, (service.host, service.port), watch)
    if len(service.path) <= _MAX_SUN_PATH:
        return _try_connect(socket.AF_UNIX, service.path, watch)
    try:
        fd = os.open(service.path, os.O_PATH)
    except OSError as error:
        raise _not_connected(error) from error
    try:
        return _try_connect(socket.AF_UNIX, f"/proc/self/fd/{fd}", watch)
    finally:
        os.close(fd)


def _try_connect(
    family: socket.AddressFamily, address: bytes | str | tuple[str, int], watch: Watch
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        _finish_connect(sock, address, watch)
    except OSError as error:
        sock.close()
        raise _not_connected(error) from error
    return sock


def _finish_connect(
    sock: socket.socket, address: bytes | str | tuple[str, int], watch: Watch
) -> None:
    deadline = Deadline(_CONNECT_TIMEOUT)
    sock.setblocking(False)
    number = sock.connect_ex(address)
    while number == errno.EAGAIN and deadline.left:  # a Unix socket's queue is full (connect(2))
        watch.wait({}, _RETRY)
        number = sock.connect_ex(address)
    while number == errno.EINPROGRESS and deadline.left:
        ready, _ = watch.wait({sock.fileno(): select.POLLOUT}, deadline.left)
        if ready:
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, os.strerror(number))
    sock.setblocking(True)


def _not_connected(error: OSError) -> StartError:
    return StartError(f"the service does not answer: {error.strerror}", PROBLEM)
