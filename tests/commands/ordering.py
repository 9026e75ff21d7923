"""The daemon's end of a connection, as one that has commands run: with descriptors, and ends."""

from __future__ import annotations

import array
import base64
import os
import select
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sessiond.wire import rpc
from tests.agent.qrexec.peer import Peer
from tests.agent.user.daemon import TIMEOUT
from tests.fixtures.processes import family

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.agent.user.daemon import Connection
    from tests.fixtures.witness import Witness

EXITED: Final = "COMMAND_EXITED"

Ending = tuple[int, int]
"""A command's exit code and the signal that has killed it, or 0."""


class Orders:
    """Has commands run by the agent at the other end."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._last_id = 0
        self._last_call = 0
        self._results = dict[int, rpc.Result]()
        self._endings = dict[int, Ending]()

    def ask(self, command: str, fds: Sequence[int] = (), **arguments: object) -> int:
        """Call a command with descriptors, and return the call's id."""
        self._last_call += 1
        names = {name.replace("_", "-"): value for name, value in arguments.items()}
        line = rpc.encode(rpc.Call(command, names, self._last_call, len(fds)))
        send(self.connection.sock, line, fds)
        return self._last_call

    def answer(self, call: int) -> Any:  # noqa: ANN401 (any JSON)
        """Return the value of the answer. Raises CommandError."""
        while call not in self._results:
            self._hear()
        result = self._results.pop(call)
        if result.error:
            raise result.error
        return result.value

    def call(self, command: str, fds: Sequence[int] = (), **arguments: object) -> Any:  # noqa: ANN401
        """Call, and return the answer. Raises CommandError."""
        return self.answer(self.ask(command, fds, **arguments))

    def ask_run(self, fds: Sequence[int], *argv: str, **more: object) -> tuple[int, int]:
        """Have a command run with these streams; return its id and the call's."""
        self._last_id += 1
        arguments: dict[str, object] = {
            "id": self._last_id, "argv": argv, "service": "", "session": {}, "env": {}, "cwd": "",
        }  # fmt: skip
        return self._last_id, self.ask("run-command", fds, **arguments | more)

    def run(self, fds: Sequence[int], *argv: str, **more: object) -> tuple[int, dict[str, Any]]:
        """Have a command run; return its id and the answer. Raises CommandError."""
        number, call = self.ask_run(fds, *argv, **more)
        return number, self.answer(call)

    def serve(self, line: str | bytes, *, detached: bool = False) -> tuple[int, Peer]:
        """Have a command line run over a channel; return its id and the channel's other end."""
        ours, its = socket.socketpair()
        with its:
            number, _ = self.try_serve(its.fileno(), line, detached=detached)
        return number, Peer(ours)

    def try_serve(
        self, fd: int, line: str | bytes, *, detached: bool = False
    ) -> tuple[int, dict[str, Any]]:
        """Have a command line run over whatever this is; return its id and the answer."""
        self._last_id += 1
        text = base64.b64encode(line.encode() if isinstance(line, str) else line).decode()
        answer = self.call(
            "serve-command", [fd],
            id=self._last_id, domain=43, port=1024, command_line=text, detached=detached,
        )  # fmt: skip
        return self._last_id, answer

    def signal(self, number: int, what: int) -> None:
        """Send a command a signal. Raises CommandError."""
        assert self.call("signal-command", id=number, signal=what) == {}

    def ending(self, number: int) -> Ending:
        """Return how a command has ended, which is told once."""
        while number not in self._endings:
            self._hear()
        return self._endings.pop(number)

    def output(self, *argv: str, **more: object) -> bytes:
        """Return what a command that ends well writes, given no input."""
        with null() as nothing, pipe() as (reader, writer):
            number, answer = self.run([nothing, writer, nothing], *argv, **more)
            assert "pid" in answer, answer
            os.close(writer)
            written = b""
            while piece := os.read(reader, 65536):
                written += piece
            assert self.ending(number) == (0, 0)
            return written

    def _hear(self) -> None:
        match self.connection.hear():
            case rpc.Result() as result:
                self._results[result.id] = result
            case rpc.Notice(event=event, data={"id": number, "code": code, "signal": killed_by}):
                assert event == EXITED
                assert number not in self._endings
                self._endings[number] = (code, killed_by)


def send(sock: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    """Send it all, with the descriptors at the first byte."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    sent = sock.sendmsg([data], [rights] if fds else [])
    sock.sendall(data[sent:])


@contextmanager
def null() -> Iterator[int]:
    """Return a descriptor of /dev/null."""
    fd = os.open(os.devnull, os.O_RDWR)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Return a pipe's reader and writer, which may be closed before."""
    reader, writer = os.pipe()
    files = [os.stat(fd).st_ino for fd in (reader, writer)]
    try:
        yield reader, writer
    finally:
        for fd, inode in zip((reader, writer), files, strict=True):
            if _inode(fd) == inode:
                os.close(fd)


def _inode(fd: int) -> int:
    try:
        return os.fstat(fd).st_ino
    except OSError:
        return 0


def holdings(pid: int) -> tuple[int, int]:
    """Return how many descriptors a process has, and how many processes descend from it."""
    return len(os.listdir(f"/proc/{pid}/fd")), len(family(pid)) - 1


def settle(orders: Orders, pid: int, before: tuple[int, int]) -> None:
    """Wait until the agent holds no more: a command's process outlives its channel a little.

    Others are run meanwhile: what is left behind by those before them does not go away.
    """
    for _ in range(1000):
        if holdings(pid) == before:
            return
        orders.output("true")
    raise AssertionError(f"{holdings(pid)} instead of {before}")


def wait_count(witness: Witness, word: bytes, count: int) -> None:
    """Return when a word was told that often."""
    poll = select.poll()
    poll.register(witness.fileno(), select.POLLIN)
    while witness.told.count(word) < count:
        [(_, events)] = poll.poll(TIMEOUT * 1000)
        assert events & select.POLLIN, f"all have ended, and told {witness.told!r}"


def wait_process(pidfd: int) -> None:
    """Return when a process has ended, whoever waits for it."""
    assert select.select([pidfd], [], [], TIMEOUT)[0]
