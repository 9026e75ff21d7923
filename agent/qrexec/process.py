"""The process of one command: it holds the data channel, and what it starts may signal it.

It is a fork of a process without threads, and never returns from ``run``. Its life line ties it to
who wants the command (``lifeline``).
"""

import contextlib
import logging
import os
import select
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn

from agent.qrexec import command, descendants, lifeline
from agent.qrexec.children import Child
from agent.qrexec.greeting import greet
from agent.qrexec.lifeline import Begun, Closed
from agent.qrexec.pump_service import ServicePump
from agent.qrexec.watch import Deadline, EndedError, Watch
from sessiond.errors import ChannelError, ProtocolError, SessiondError, StartError
from sessiond.transport.duplex import CONNECT_TIMEOUT, FIRST_RETRY, LAST_RETRY, Duplex, Transport
from sessiond.wire.exec import Exec, ExitCode, JustExec, OnData, Place
from sessiond.wire.exec_data import Data, DataRole, State, not_started

log = logging.getLogger(__name__)

SIGNALS: Final = frozenset({
    signal.SIGCHLD, signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP,
})  # fmt: skip
_LINGER: Final = 1.0  # seconds, see _hang_up


@dataclass(frozen=True, slots=True)
class Job:
    """A command, and its data channel where that is connected already."""

    request: Exec | JustExec
    connection: socket.socket | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all commands have in common; no transport, where each comes with its connection."""

    transport: Transport | None
    environment: Mapping[bytes, bytes]


def fork(job: Job, life_line: socket.socket, surroundings: Surroundings, watch: Watch) -> int:
    """Do the job in a new process, and return its id. ``watch`` is that of this process.

    Both sockets, that of the job and ``life_line``, are closed here. Raises OSError.
    """
    # A signal for the child is not to be told to our own watch.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        pid = os.fork()
        if not pid:
            watch.forget()
            _run(job, life_line, surroundings)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        life_line.close()
        if job.connection:
            job.connection.close()


def _run(job: Job, life_line: socket.socket, surroundings: Surroundings) -> NoReturn:
    status = 1
    try:
        close_all_but([life_line, *([job.connection] if job.connection else [])])
        lifeline.say(life_line, Begun(os.getpid()))
        descendants.adopt_orphans()
        status = _do(job, life_line, surroundings)
    except Exception:
        log.exception("the process of a command has failed")
    finally:
        os._exit(status)


def _do(job: Job, life_line: socket.socket, surroundings: Surroundings) -> int:
    with Watch(SIGNALS, life_line=life_line) as watch:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        try:
            Process(job, life_line, surroundings, watch).run()
        except EndedError as error:
            log.debug("%s: to end %s", shown(job.request.place), error)
            descendants.end_all()
        except SessiondError as error:
            log.error("%s: %s", shown(job.request.place), error)  # noqa: TRY400
            return 1
    return 0


def shown(place: Place) -> str:
    """Return how a command is called in the log: nothing of what it is stands there."""
    return f"command at {place.domain}:{place.port}"


class Process:
    """One command, from its data channel to its end."""

    def __init__(
        self, job: Job, life_line: socket.socket, surroundings: Surroundings, watch: Watch
    ) -> None:
        self._job = job
        self._life_line = life_line
        self._surroundings = surroundings
        self._watch = watch
        self._said = Closed()

    def run(self) -> None:
        """Do everything. Raises EndedError, and SessiondError if there is no channel."""
        with self._connected() as connection:
            data = greet(connection, DataRole.SERVICE, self._watch)
            child = self._carry(connection, data)
            self._hang_up(connection, data)
        # Everything that it had of us is closed. Most programs end of that.
        while child and child.status is None:
            child.reap()  # first: its end may have been told while we hung up
            if child.status is None:
                self._watch.wait({})

    def _connected(self) -> Duplex:
        if self._job.connection:
            return Duplex(self._job.connection)
        place, delay = self._job.request.place, FIRST_RETRY
        deadline = Deadline(CONNECT_TIMEOUT)
        while not (connection := self._try_connect(place)):
            if not deadline.left:
                raise ChannelError(f"nobody serves it within {CONNECT_TIMEOUT:.0f} s")
            self._watch.wait({}, delay)
            delay = min(2 * delay, LAST_RETRY)
        return connection

    def _try_connect(self, place: Place) -> Duplex | None:
        if self._surroundings.transport is None:
            raise ChannelError("a command without its connection")
        return self._surroundings.transport.try_connect(place.domain, place.port)

    def _carry(self, connection: Duplex, data: Data) -> Child | None:
        """Start the command and carry its streams; return what may still run."""
        request, environment = self._job.request, self._surroundings.environment
        try:
            prepared = command.prepare(request.command_line, environment, connection, self._watch)
            if isinstance(request, JustExec):
                command.start_detached(prepared, self._watch)
                self._send(connection, data, [ExitCode(0)])
                return None
            streams = command.start(prepared, self._watch)
        except StartError as error:
            log.error("%s: %s", shown(request.place), error)  # noqa: TRY400
            self._send(connection, data, not_started(request, error.exit_code))
            return None
        pump = ServicePump(connection, data, streams, self._watch, prepared.config)
        pump.run()
        self._said = Closed(pump.exit_code)
        return streams.child

    def _send(self, connection: Duplex, data: Data, messages: list[OnData]) -> None:
        for message in messages:
            connection.send(data.send(message))
            if isinstance(message, ExitCode):
                self._said = Closed(message.code)

    def _hang_up(self, connection: Duplex, data: Data) -> None:
        """Let the peer find the end, and who wants the command know.

        A peer may be about to say that it has no more input for us, and would get EPIPE for that.
        """
        while connection.is_blocked and connection.can_send:
            self._watch.wait({connection.fileno(): select.POLLOUT})
            connection.flush()
        connection.end_sending()
        lifeline.say(self._life_line, self._said)
        with contextlib.suppress(ProtocolError):
            deadline = Deadline(_LINGER)
            while data.peer is State.FEEDING and deadline.left:
                self._watch.wait({connection.fileno(): select.POLLIN}, deadline.left)
                received = connection.read()
                if received == b"":
                    break
                for _message in data.receive(received or b""):
                    pass  # too late


def close_all_but(kept: list[socket.socket]) -> None:
    """Close what the process that we were forked from has open, but for our stdio and these."""
    numbers = {0, 1, 2, *(sock.fileno() for sock in kept)}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in numbers:
            with contextlib.suppress(OSError):  # that of the list itself
                os.close(int(name))
