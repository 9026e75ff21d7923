"""Who forks the processes of commands: this process, or one that was forked of it early.

A process that has threads or a loop must not be forked: then a fork server is started before.
"""

import abc
import array
import contextlib
import logging
import os
import select
import signal
import socket
import time
from typing import Final, NoReturn, Self, cast

from agent.qrexec import lifeline
from agent.qrexec.guard import Guard
from agent.qrexec.process import Job, Surroundings, close_all_but, fork
from agent.qrexec.watch import ENDING, Watch
from sessiond.errors import ChannelError
from sessiond.transport.fds import OwnedFd
from sessiond.wire.exec import (
    Exec,
    JustExec,
    MessageReader,
    Type,
    pack,
    parse_for_agent,
)

log = logging.getLogger(__name__)

_MAX_PACKET: Final = 1 << 17  # bytes; the longest request is half of that
_MAX_FDS: Final = 2  # a life line and a connection
_GUARD: Final = b"guard "  # and a pid, instead of a request
_PATIENCE: Final = 2.0  # seconds for a fork server to end
_PAUSE: Final = 0.25  # seconds before another fork server: one that always dies is no load


class Starter(abc.ABC):
    """Starts the process of a command."""

    @abc.abstractmethod
    def start(self, job: Job) -> socket.socket:
        """Start it and return its life line. The job's connection is closed here.

        Raises OSError if there can be no more processes now, and ChannelError if nothing will be
        started any more.
        """

    @abc.abstractmethod
    def fileno(self) -> int | None:
        """Return what is readable once nothing can be started any more; None if that cannot be."""

    @abc.abstractmethod
    def close(self) -> None:
        """Start nothing any more. Those that run go on until their life lines end."""


class Here(Starter):
    """Forks of this process, which has no thread, and whose ``watch`` it is."""

    def __init__(self, surroundings: Surroundings, watch: Watch) -> None:
        self._surroundings = surroundings
        self._watch = watch

    def start(self, job: Job) -> socket.socket:
        ours, its = lifeline.pair()
        try:
            fork(job, its, self._surroundings, self._watch)
        except OSError:
            ours.close()
            raise
        return ours

    def fileno(self) -> None:
        return None

    def close(self) -> None:
        reap()


class ForkServer(Starter):
    """Forks of another process, which is at the other end of ``sock``."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self._sock = sock
        self._pid = pid

    @classmethod
    def fork(cls, surroundings: Surroundings) -> Self:
        """Fork that process of this one, as long as this has neither a thread nor a loop.

        It comes back if it dies: between the two is one who waits for that, and nothing else.
        """
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # What ends whole groups of processes is for us to know, and then the other one is told.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            pid = os.fork()
            if not pid:
                for number in ENDING:
                    signal.signal(number, signal.SIG_IGN)
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                _keep(its, surroundings)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        its.close()
        return cls(ours, pid)

    @property
    def pid(self) -> int:
        """The process of ours that is the fork server, or sees to it that there is one."""
        return self._pid

    def start(self, job: Job) -> socket.socket:
        ours, its = lifeline.pair()
        connection = [job.connection] if job.connection else []
        try:
            socket.send_fds(
                self._sock,
                [pack(job.request)],
                [sock.fileno() for sock in (its, *connection)],
            )
        except OSError as error:
            ours.close()
            raise ChannelError(f"the fork server has gone: {error.strerror}") from error
        finally:
            for sock in (its, *connection):
                sock.close()
        return ours

    def guard(self, pid: int, pidfd: int) -> None:
        """Have a program end that still runs when this process is gone, with its process group.

        It is no command of those above. This never waits; what cannot be guarded runs all the same.
        """
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))
        try:
            self._sock.sendmsg([b"%s%d" % (_GUARD, pid)], [rights], socket.MSG_DONTWAIT)
        except OSError as error:  # it is stopped, or has gone
            log.warning("nobody ends process %d should we be killed: %s", pid, error.strerror)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            with OwnedFd(os.pidfd_open(self._pid)) as pidfd:
                if not select.select([pidfd], [], [], _PATIENCE)[0]:  # somebody has stopped it
                    os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


def reap() -> None:
    """Take note of the children of this process that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _keep(sock: socket.socket, surroundings: Surroundings) -> NoReturn:
    """Have a fork server at ``sock`` until that ends, and then exit."""
    close_all_but([sock])
    while True:
        pid = os.fork()
        if not pid:
            serve(sock, surroundings)
        _, status = os.waitpid(pid, 0)
        if status == 0:
            os._exit(0)
        log.error("the fork server has died, by status %#x", status)
        time.sleep(_PAUSE)


def serve(sock: socket.socket, surroundings: Surroundings) -> NoReturn:
    """Be a fork server, and exit when ``sock`` ends; with another status than 0 if we have failed.

    Signals that end do what they did.
    """
    status = 1
    try:
        with Watch({signal.SIGCHLD}) as watch:
            _fork_until_the_end(sock, surroundings, watch)
        status = 0
    except Exception:
        log.exception("the fork server has failed")
    finally:
        os._exit(status)


def _fork_until_the_end(sock: socket.socket, surroundings: Surroundings, watch: Watch) -> None:
    guard = Guard()
    while True:
        ready, _ = watch.wait({sock.fileno(): select.POLLIN, **guard.wanted})
        reap()
        guard.attend(ready)
        if sock.fileno() not in ready:
            continue
        packet, fds = _receive(sock)
        if not packet:
            guard.end()
            return
        if packet.startswith(_GUARD):
            guard.add(int(packet.removeprefix(_GUARD)), *fds)
            continue
        job, life_line = _job(packet, fds)
        try:
            fork(job, life_line, surroundings, watch)
        except OSError as error:
            log.error("cannot fork: %s", error)  # noqa: TRY400


def _receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """Return the next packet, which is empty at the end, and the descriptors with it."""
    fds = array.array("i")
    space = socket.CMSG_SPACE(_MAX_FDS * fds.itemsize)
    packet, ancillary, _flags, _address = sock.recvmsg(_MAX_PACKET, space, socket.MSG_CMSG_CLOEXEC)
    for _level, _type, data in ancillary:
        fds.frombytes(data)
    return packet, fds.tolist()


def _job(packet: bytes, fds: list[int]) -> tuple[Job, socket.socket]:
    """Return the job that a packet is, and its life line."""
    life_line, *connection = (socket.socket(fileno=fd) for fd in fds)
    reader = MessageReader()
    reader.feed(packet)
    kind, size = cast("tuple[int, int]", reader.next_header())
    body = cast("bytes", reader.take_body(size))
    request = cast("Exec | JustExec", parse_for_agent(Type(kind), body))
    return Job(request, connection[0] if connection else None), life_line
