"""The caller's program: as those who start it see it, between an agent's socket and a data channel.

The requirements are numbered as in ``test_pump``.
"""

from __future__ import annotations

import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Final, Self

import pytest

from tests.agent.qrexec.peer import EXIT, HELLO, STDERR, STDIN, STDOUT, TIMEOUT, Peer
from tests.fixtures.child import ROOT
from tests.fixtures.processes import end_process, wait_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from tests.agent.qrexec.services import Gate

PROGRAM: Final = (sys.executable, "-m", "agent", "qrexec-client")
DOMAIN: Final = 42
TARGET: Final = 43
PORT: Final = 1024


class Caller:
    """The client program, and what it talks to: an agent's socket, and who is called."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._agent = socket.socket(socket.AF_UNIX)
        self._agent.bind(str(directory / "agent"))
        self._agent.listen(1)
        self._agent.settimeout(TIMEOUT)
        self.sock: socket.socket | None = None  # its connection to the agent
        self._peer: Peer | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._agent.close()
        if self.sock:
            self.sock.close()
        if self._peer:
            self._peer.close()
        if self.process:
            end_process(self.process, patience=0)
            for pipe in filter(
                None, (self.process.stdin, self.process.stdout, self.process.stderr)
            ):
                pipe.close()

    def start(
        self,
        *argv: str,
        stdin: int = subprocess.PIPE,
        stdout: int = subprocess.PIPE,
        environment: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start the program with these arguments."""
        place = {"VCHAN_DOMAIN": str(DOMAIN), "VCHAN_SOCKET_DIR": str(self.directory)}
        self.process = subprocess.Popen(
            [*PROGRAM, f"--agent-socket={self.directory}/agent", *argv],
            cwd=ROOT,
            env={**os.environ, **place, **(environment or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
        return self.process

    def called(self) -> tuple[int, bytes]:
        """Return what the agent is asked for."""
        self.sock, _ = self._agent.accept()
        return Peer(self.sock).receive()

    def refuse(self) -> None:
        """Hang up."""
        assert self.sock
        self.sock.close()

    def grant(self) -> Peer:
        """Let the call be; return the far end of its data channel, not greeted."""
        assert self.sock
        self.sock.sendall(struct.pack("<II", TARGET, PORT))
        path = self.directory / f"vchan.{DOMAIN}.{TARGET}.{PORT}.sock"
        deadline = time.monotonic() + TIMEOUT
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(str(path))
            except OSError:
                sock.close()
                assert time.monotonic() < deadline
            else:
                self._peer = Peer(sock)
                return self._peer

    def call(self, *argv: str, stdin: int = subprocess.PIPE, stdout: int = subprocess.PIPE) -> Peer:
        """Start the program, take its call and exchange HELLOs."""
        self.start(*argv, stdin=stdin, stdout=stdout)
        assert self.called() == (0x213, trigger())
        return self.grant().greet()

    def output(self) -> bytes:
        """Return its whole stdout."""
        assert self.process
        assert self.process.stdout
        return self.process.stdout.read()

    def errors(self) -> bytes:
        """Return its whole stderr."""
        assert self.process
        assert self.process.stderr
        return self.process.stderr.read()

    def status(self) -> int:
        """Wait for its end and return its exit status."""
        assert self.process
        assert wait_process(self.process, TIMEOUT)
        return self.process.wait()


@pytest.fixture
def caller(tmp_path: Path) -> Iterator[Caller]:
    with Caller(tmp_path) as caller:
        yield caller


def trigger(target: str = "target", service: str = "test.Service", source: str = "") -> bytes:
    names = struct.pack("<64s64s32s", source.encode(), target.encode(), b"SOCKET")
    return names + service.encode() + b"\0"


CALL = ("target", "test.Service")


def exit_with(peer: Peer, code: int) -> None:
    peer.send(EXIT, struct.pack("<i", code))


def received(peer: Peer, size: int) -> bytes:
    return peer.receive_stream(STDIN, size)


# Calls.


def test_call_with_our_own_stdio(caller: Caller) -> None:
    """Requirement 5: the exit status is the remote one."""
    peer = caller.call(*CALL)
    assert caller.process
    assert caller.process.stdin
    caller.process.stdin.write(b"to it")
    caller.process.stdin.close()
    assert received(peer, 5) == b"to it"
    assert peer.receive() == (STDIN, b"")
    peer.send(STDERR, b"complaint\n")
    peer.send(STDOUT, b"from it\n")
    peer.send(STDOUT)
    assert caller.output() == b"from it\n"
    exit_with(peer, 42)
    assert caller.status() == 42
    assert caller.errors() == b"complaint\n"
    assert peer.receive_all() == []


@pytest.mark.parametrize(
    ("argv", "body"),
    [
        (["--source-qube=toto", *CALL], trigger(source="toto")),
        (["--source-qube", "toto", *CALL], trigger(source="toto")),
        (["--buffer-size=1000", "$dispvm", "s+a b"], trigger("@dispvm", "s+a b")),
        (["", "s"], trigger("", "s")),
    ],
)
def test_what_is_called(caller: Caller, argv: list[str], body: bytes) -> None:
    caller.start(*argv)
    assert caller.called() == (0x213, body)


def test_hello_is_said_at_once(caller: Caller) -> None:
    """Requirement 16: as every program does."""
    caller.start(*CALL)
    caller.called()
    peer = caller.grant()
    assert peer.receive() == (HELLO, b"\4\0\0\0")


@pytest.mark.parametrize("program", [(), ("/bin/touch", "flag")])
def test_refused(caller: Caller, program: tuple[str, ...]) -> None:
    """Requirement 14: the local program is not started, and the caller learns it."""
    flag = caller.directory / "flag"
    caller.start(*CALL, *(argument.replace("flag", str(flag)) for argument in program))
    caller.called()
    caller.refuse()
    assert caller.status() == 126
    assert (caller.output(), caller.errors()) == (b"", b"Request refused\n")
    assert not flag.exists()


@pytest.mark.parametrize(
    ("argv", "status", "complaint"),
    [
        (["--agent-socket=/nonexistent", *CALL], 125, b"no agent at /nonexistent: No such file"),
        (["x" * 64, "s"], 125, b"over 63"),
        (["t", "s" * 65000], 125, b""),
        (["--use-stdin-socket", *CALL], 2, b"stdin is none"),
        (["--use-stdin-socket", *CALL, "/bin/true"], 2, b"and a program"),
        (["t"], 2, b"required: SERVICE"),
        (["--unknown", *CALL], 2, b"--unknown"),
    ],
)
def test_what_is_no_call(caller: Caller, argv: list[str], status: int, complaint: bytes) -> None:
    caller.start(*argv)
    assert caller.status() == status
    errors = caller.errors()
    assert complaint in errors
    assert errors.count(b"\n") == 1
    assert b"Traceback" not in errors


@pytest.mark.parametrize("code", [0, 1, 125, 126, 127, 137, 255])
def test_remote_status(caller: Caller, code: int) -> None:
    """Requirement 8: what is open is ended, although nobody has ended our stdin."""
    peer = caller.call(*CALL)
    peer.send(STDOUT)
    exit_with(peer, code)
    assert peer.receive_all() == [(STDIN, b"")]
    assert caller.status() == code
    assert caller.output() == b""


@pytest.mark.parametrize("code", [-1, 256, 1 << 30])
def test_status_that_no_process_has(caller: Caller, code: int) -> None:
    """It is not to be taken for success."""
    exit_with(caller.call(*CALL), code)
    assert caller.status() == 255


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\0\0"])
def test_status_that_is_too_short(caller: Caller, body: bytes) -> None:
    """Requirement 21: is 255."""
    peer = caller.call(*CALL)
    peer.send(EXIT, body)
    assert caller.status() == 255


@pytest.mark.parametrize("program", [(), ("/bin/cat",)])
def test_lost_before_a_status(caller: Caller, program: tuple[str, ...]) -> None:
    """Requirement 7: the worst of it is that the exit code is lost."""
    peer = caller.call(*CALL, *program)
    peer.send(STDOUT, b"data\n")
    if program:
        assert received(peer, 5) == b"data\n"
    peer.close()
    assert caller.status() == 255
    assert caller.output() == (b"" if program else b"data\n")


def test_status_is_read_although_nothing_can_be_sent(caller: Caller) -> None:
    """Requirement 6: the peer takes nothing any more, but what it had said counts."""
    peer = caller.call(*CALL)
    assert caller.process
    assert caller.process.stdin
    os.kill(caller.process.pid, signal.SIGSTOP)
    peer.send(STDOUT, b"last words")
    exit_with(peer, 7)
    caller.process.stdin.write(b"nobody reads this")
    caller.process.stdin.close()
    peer.close()
    os.kill(caller.process.pid, signal.SIGCONT)
    assert caller.status() == 7
    assert caller.output() == b"last words"


def test_peer_that_takes_no_more_and_still_talks(caller: Caller) -> None:
    """Requirement 6: an error in sending is not the end."""
    peer = caller.call(*CALL)
    peer.sock.shutdown(socket.SHUT_RD)
    assert caller.process
    assert caller.process.stdin
    caller.process.stdin.write(b"nobody reads this")
    caller.process.stdin.close()
    peer.send(STDOUT, b"still here")
    peer.send(STDOUT)
    assert caller.output() == b"still here"
    exit_with(peer, 9)
    assert caller.status() == 9


def test_output_that_nobody_has_read_yet(caller: Caller) -> None:
    """Requirements 1, 2 and 8: its sender waits, its input is carried, and nothing is lost."""
    peer = caller.call(*CALL)
    assert caller.process
    assert caller.process.stdin
    sent = peer.fill(STDOUT)
    assert sent < 2_000_000
    caller.process.stdin.write(b"said meanwhile")
    caller.process.stdin.flush()
    assert received(peer, 14) == b"said meanwhile"

    def go_on() -> None:
        peer.finish_fill()
        peer.send(STDOUT, b"the end")
        exit_with(peer, 3)

    sender = threading.Thread(target=go_on)
    sender.start()
    assert caller.output() == bytes(sent) + b"the end"
    sender.join()
    assert caller.status() == 3


def test_reader_of_our_output_that_has_gone(caller: Caller) -> None:
    """The rest is dropped, and the status counts."""
    reader, writer = os.pipe()
    peer = caller.call(*CALL, stdout=writer)
    os.close(writer)
    peer.send(STDOUT, b"x")
    assert os.read(reader, 10) == b"x"
    os.close(reader)
    for _ in range(20):
        peer.send(STDOUT, bytes(65536))
    peer.send(STDOUT)
    exit_with(peer, 4)
    assert caller.status() == 4
    assert caller.errors() == b""


def test_output_that_cannot_be_written(caller: Caller) -> None:
    """It is said that something is lost."""
    with open("/dev/full", "wb") as full:
        peer = caller.call(*CALL, stdout=full.fileno())
    peer.send(STDOUT, b"x")
    exit_with(peer, 0)
    assert caller.status() == 0
    assert b"No space left" in caller.errors()


# A local program.


def test_local_program(caller: Caller) -> None:
    """Requirement 15: it does not learn the remote exit code, its caller does."""
    peer = caller.call(*CALL, "/bin/cat")
    peer.send(STDOUT, b"data\n")
    peer.send(STDOUT)
    assert received(peer, 5) == b"data\n"
    assert peer.receive() == (STDIN, b"")
    exit_with(peer, 42)
    assert peer.receive_all() == []
    assert caller.status() == 42
    assert (caller.output(), caller.errors()) == (b"", b"")


@pytest.mark.parametrize(
    ("program", "status"),
    [(["/bin/false"], 1), (["/bin/sh", "-c", "kill -9 $$"], 137), (["/bin/true"], 0)],
)
def test_local_program_that_fails(caller: Caller, program: list[str], status: int) -> None:
    """Requirement 5: that counts where the remote one has not."""
    peer = caller.call(*CALL, *program)
    assert peer.receive() == (STDIN, b"")
    peer.send(STDOUT)
    exit_with(peer, 0)
    assert caller.status() == status


def test_local_program_that_cannot_be_started(caller: Caller) -> None:
    peer = caller.call(*CALL, "/nonexistent", "-x")
    assert peer.receive_all() == []
    assert caller.status() == 125
    assert b"cannot start /nonexistent" in caller.errors()


def test_what_a_local_program_finds(caller: Caller) -> None:
    """Its name, our pid, and our own stdio under other numbers."""
    script = "echo $0 $# >&$SAVED_FD_1; cat <&$SAVED_FD_0; echo $QREXEC_AGENT_PID $SAVED_FD_2"
    peer = caller.call(*CALL, "/bin/sh", "-c", script, "name", "--option", "-t")
    assert caller.process
    assert caller.process.stdin
    caller.process.stdin.write(b"own stdin\n")
    caller.process.stdin.close()
    text = f"own stdin\n{caller.process.pid}\n".encode()
    assert received(peer, len(text)) == text
    exit_with(peer, 0)
    assert caller.output() == b"name 2\n"


def test_local_stderr_is_passed_if_asked_for(caller: Caller) -> None:
    caller.start(
        *CALL, "/bin/sh", "-c", "echo saved >&$SAVED_FD_2", environment={"PASS_LOCAL_STDERR": "1"}
    )
    caller.called()
    peer = caller.grant().greet()
    assert peer.receive() == (STDIN, b"")
    exit_with(peer, 0)
    assert caller.errors() == b"saved\n"


def test_local_program_with_one_socket(caller: Caller) -> None:
    """Requirement 9, at the caller's end."""
    script = 'kill -USR1 $QREXEC_AGENT_PID; echo hello >&0; read x; echo "received: $x" >&0'
    peer = caller.call(*CALL, "/bin/sh", "-c", script)
    assert received(peer, 6) == b"hello\n"
    peer.send(STDOUT, b"x\n")
    peer.send(STDOUT)
    assert received(peer, 12) == b"received: x\n"
    assert peer.receive() == (STDIN, b"")
    exit_with(peer, 42)
    assert caller.status() == 42


def test_local_program_with_one_socket_after_its_end(caller: Caller, gate: Gate) -> None:
    """Requirement 11, at the caller's end."""
    script = (
        f"echo hello; read x; cat; kill -USR1 $QREXEC_AGENT_PID; echo $x >&0; read y <{gate.path}"
    )
    peer = caller.call(*CALL, "/bin/sh", "-c", script)
    assert received(peer, 6) == b"hello\n"
    peer.send(STDOUT, b"again\n")
    peer.send(STDOUT)
    assert received(peer, 6) == b"again\n"
    gate.open()
    assert peer.receive() == (STDIN, b"")
    exit_with(peer, 42)
    assert caller.status() == 42


def test_signal_without_a_local_program(caller: Caller) -> None:
    """Requirement 10: nobody asks for one socket, and nothing happens."""
    peer = caller.call(*CALL)
    assert caller.process
    caller.process.send_signal(signal.SIGUSR1)
    peer.send(STDOUT, b"alive")
    exit_with(peer, 3)
    assert caller.output() == b"alive"
    assert caller.status() == 3


# Stdin and stdout that are one socket.


@pytest.mark.parametrize("is_ended_first", [False, True])
def test_one_socket_for_stdio(caller: Caller, *, is_ended_first: bool) -> None:
    remote, local = socket.socketpair()
    with remote, local:
        local.settimeout(TIMEOUT)
        peer = caller.call(
            "--use-stdin-socket", *CALL, stdin=remote.fileno(), stdout=remote.fileno()
        )
        peer.send(STDOUT, b"stdout data\n")
        assert local.recv(100) == b"stdout data\n"
        local.sendall(b"stdin data\n")
        assert received(peer, 11) == b"stdin data\n"
        if is_ended_first:
            local.shutdown(socket.SHUT_WR)
            assert peer.receive() == (STDIN, b"")
        peer.send(STDOUT)
        # Although we have the other end of it, too: it is shut.
        assert local.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            remote.send(b"a")
        if not is_ended_first:
            exit_with(peer, 42)
            assert peer.receive() == (STDIN, b"")
        else:
            exit_with(peer, 42)
        assert caller.status() == 42


def test_two_sockets_for_stdio_are_not_shut(caller: Caller) -> None:
    """Others may have them, and use them when we have gone."""
    remote, local = socket.socketpair()
    with remote, local:
        peer = caller.call(*CALL, stdin=subprocess.DEVNULL, stdout=remote.fileno())
        peer.send(STDOUT, b"data")
        exit_with(peer, 0)
        assert caller.status() == 0
        remote.sendall(b" and more")
        local.settimeout(TIMEOUT)
        assert local.recv(100) == b"data and more"


def test_stdio_stays_as_it_was(caller: Caller) -> None:
    """A shell that has the same terminal or pipe would not expect it to be non-blocking."""
    reader, writer = os.pipe()
    peer = caller.call(*CALL, stdin=reader)
    os.write(writer, b"x")
    assert received(peer, 1) == b"x"
    assert os.get_blocking(reader)
    os.close(reader)
    os.close(writer)
    assert peer.receive() == (STDIN, b"")
    exit_with(peer, 0)
    assert caller.status() == 0


def test_prefix(caller: Caller) -> None:
    data = "x" * 100_000
    peer = caller.call(f"--prefix-data={data}", *CALL, stdin=subprocess.DEVNULL)
    assert received(peer, 100_000) == data.encode()
    assert peer.receive() == (STDIN, b"")


# Filters.

EVERYTHING = bytes(range(256))
SHOWN = b"".join(bytes([c]) if 0x20 <= c < 0x7F or c in b"\t\n\r\b\a" else b"_" for c in EVERYTHING)


@pytest.mark.parametrize(
    ("options", "stdout", "stderr"),
    [
        ([], EVERYTHING, EVERYTHING),
        (["-t"], SHOWN, EVERYTHING),
        (["-T"], EVERYTHING, SHOWN),
        (["--filter-escape-chars-stdout", "--filter-escape-chars-stderr"], SHOWN, SHOWN),
        (["-tT", "--no-filter-escape-chars-stdout"], EVERYTHING, SHOWN),
        (["-tT", "--no-filter-escape-chars-stderr"], SHOWN, EVERYTHING),
    ],
)
def test_filters(caller: Caller, options: list[str], stdout: bytes, stderr: bytes) -> None:
    peer = caller.call(*options, *CALL)
    peer.send(STDOUT, EVERYTHING)
    peer.send(STDERR, EVERYTHING)
    exit_with(peer, 0)
    assert (caller.output(), caller.errors()) == (stdout, stderr)


@pytest.mark.parametrize(
    ("option", "shown"), [("-T", b"_[0m"), ("--no-filter-escape-chars-stdout", b"\x1b[0m")]
)
def test_terminal_is_protected(caller: Caller, option: str, shown: bytes) -> None:
    """Unless it is not wanted."""
    master, slave = pty.openpty()
    peer = caller.call(option, *CALL, stdin=slave, stdout=slave)
    os.close(slave)
    peer.send(STDOUT, b"\x1b[0m")
    exit_with(peer, 0)
    assert caller.status() == 0
    assert os.read(master, 100) == shown
    os.close(master)


def test_terminal_that_hangs_up(caller: Caller) -> None:
    """Is the end of the input."""
    master, slave = pty.openpty()
    peer = caller.call(*CALL, stdin=slave)
    os.close(slave)
    os.close(master)
    assert peer.receive() == (STDIN, b"")
    exit_with(peer, 5)
    assert caller.status() == 5
