"""The other end of a command's data channel, in plain bytes, and who forks its process."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from agent.qrexec import lifeline
from agent.qrexec.lifeline import Begun, Closed
from agent.qrexec.process import Job
from agent.qrexec.starter import ForkServer
from sessiond.wire.exec import Exec, JustExec, Place
from tests.fixtures.processes import DIE_WITH_PARENT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from agent.qrexec.lifeline import Word

STDIN: Final = 0x190
STDOUT: Final = 0x191
STDERR: Final = 0x192
EXIT: Final = 0x193
HELLO: Final = 0x300

PLACE: Final = Place(43, 1024)
TIMEOUT: Final = 20.0  # seconds, for what takes a few milliseconds

Message = tuple[int, bytes]

_PIECE: Final = 4096

_ROOT: Final = Path(__file__).parents[3]
_SERVE: Final = """
import os, socket, sys
from agent.qrexec.process import Surroundings
from agent.qrexec.starter import serve
from sessiond.transport.vchan import Vchan
sock = socket.socket(fileno=int(sys.argv[1]))
serve(sock, Surroundings(Vchan.from_environment(os.environ), dict(os.environb)))
"""


class Gone(Exception):  # noqa: N818 (no error: what is waited for)
    """The other end has hung up."""


class Peer:
    """One end of a channel. It waits for what it reads; what it sends it sends whole."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._unsent = memoryview(b"")
        sock.settimeout(TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, kind: int, body: bytes = b"") -> None:
        """Send one message."""
        self.sock.sendall(struct.pack("<II", kind, len(body)) + body)

    def send_hello(self, version: int = 4) -> None:
        """Say which version we speak."""
        self.send(HELLO, struct.pack("<I", version))

    def greet(self, version: int = 4) -> Self:
        """Exchange HELLOs; ours is sent first."""
        self.send_hello(version)
        assert self.receive() == (HELLO, b"\4\0\0\0")
        return self

    def receive(self) -> Message:
        """Return the next message. Raises Gone at the end.

        The header is read in one call, as others do: it has to be there in one piece.
        """
        header = self.sock.recv(8)
        if not header:
            raise Gone
        kind, size = struct.unpack("<II", header)
        body = b""
        while len(body) < size:
            received = self.sock.recv(size - len(body))
            assert received, "the end inside a message"
            body += received
        return kind, body

    def receive_stream(self, kind: int, size: int) -> bytes:
        """Return the next SIZE bytes of a stream, in however many messages they come."""
        text = b""
        while len(text) < size:
            got, body = self.receive()
            assert (got, bool(body)) == (kind, True)
            text += body
        assert len(text) == size
        return text

    def receive_all(self) -> list[Message]:
        """Return everything until the end."""
        messages = []
        with contextlib.suppress(Gone):
            while True:
                messages.append(self.receive())
        return messages

    def result(self) -> tuple[bytes, bytes, int]:
        """Return both outputs and the exit code of a command; each stream has to have ended."""
        texts = {STDOUT: bytearray(), STDERR: bytearray()}
        *messages, (last, code) = self.receive_all()
        assert last == EXIT
        open_streams = set(texts)
        for kind, body in messages:
            assert kind in open_streams
            texts[kind] += body
            if not body:
                open_streams.remove(kind)
        assert not open_streams
        return bytes(texts[STDOUT]), bytes(texts[STDERR]), struct.unpack("<i", code)[0]

    def feed(self, data: bytes, size: int = 65536) -> threading.Thread:
        """Send DATA as a command's input, and its end, beside everything else."""

        def run() -> None:
            for begin in range(0, len(data), size):
                self.send(STDIN, data[begin : begin + size])
            self.send(STDIN)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def fill(self, kind: int = STDIN) -> int:
        """Send chunks of a stream until none is taken for a second; return how much of it that is.

        The last message is made whole by ``finish_fill``.
        """
        message = memoryview(struct.pack("<II", kind, _PIECE) + bytes(_PIECE))
        left, count = message, 0
        self.sock.setblocking(False)
        while select.select([], [self.sock], [], 1.0)[1]:
            with contextlib.suppress(BlockingIOError):
                left = left[self.sock.send(left) :]
            if not left:
                left, count = message, count + 1
        self.sock.settimeout(TIMEOUT)
        self._unsent = left if len(left) < len(message) else message[:0]
        return (count + bool(self._unsent)) * _PIECE

    def finish_fill(self) -> None:
        """Send the rest of what ``fill`` has begun."""
        self.sock.sendall(self._unsent)

    def close(self) -> None:
        """Hang up."""
        self.sock.close()


class Running:
    """A command: the peer of its channel and its life line."""

    def __init__(self, peer: Peer, life_line: socket.socket) -> None:
        self.peer = peer
        self.life_line = life_line
        life_line.settimeout(TIMEOUT)

    def wait_closed(self) -> None:
        """Wait until its channel is told to be closed."""
        assert isinstance(self._hear(), Closed)

    def wait_end(self) -> bool:
        """Wait for the end of its process; return whether it has told that its channel is closed.

        Until then, that is, and after ``wait_closed``.
        """
        return isinstance(self._hear(), Closed) and self._hear() is None

    def _hear(self) -> Word | None:
        while isinstance(word := lifeline.hear(self.life_line), Begun):
            pass
        return word

    def stop(self) -> None:
        """Tell it to end."""
        self.life_line.shutdown(socket.SHUT_WR)


class Forker:
    """A process that forks the handlers of commands, as a user's agent has one."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = subprocess.Popen(
                [*DIE_WITH_PARENT, sys.executable, "-c", _SERVE, str(its.fileno())],
                cwd=_ROOT,
                env={**os.environ, **environment},
                pass_fds=[its.fileno()],
            )
        self.pid = self._process.pid
        self._server = ForkServer(ours, self.pid)
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hang_up()
        self._server.close()
        self._process.returncode = 0  # who waited for it was the server's end

    def start(
        self, command_line: str | bytes, *, detached: bool = False, buffer: int | None = None
    ) -> Running:
        """Start a command whose channel is connected, but not greeted.

        BUFFER is how many bytes of what it says the kernel holds for us.
        """
        line = command_line.encode() if isinstance(command_line, str) else command_line
        request = (JustExec if detached else Exec)(PLACE, line)
        ours, its = socket.socketpair()
        if buffer is not None:
            its.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        life_line = self._server.start(Job(request, its))
        self._open += [ours, life_line]
        return Running(Peer(ours), life_line)

    def hang_up(self) -> None:
        """Close what this end has of all commands: their processes end of that."""
        for sock in self._open:
            sock.close()
        self._open.clear()
