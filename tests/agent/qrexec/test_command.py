"""Commands and services as a peer finds them: what starts, with what, and what does not."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Self

import pytest

from agent.qrexec.identity import become
from sessiond.errors import StartError
from tests.agent.qrexec.peer import EXIT, STDERR, STDIN, STDOUT, TIMEOUT
from tests.agent.qrexec.services import ME, service, shell

if TYPE_CHECKING:
    from types import TracebackType

    from tests.agent.qrexec.peer import Forker, Peer
    from tests.agent.qrexec.services import Gate, Services
    from tests.fixtures.witness import Witness

NOT_FOUND = (EXIT, struct.pack("<i", 127))
PROBLEM = (EXIT, struct.pack("<i", 125))
SUCCESS = (EXIT, struct.pack("<i", 0))


def call(forker: Forker, name: str, data: bytes = b"") -> tuple[bytes, bytes, int]:
    """Call a service with DATA as its input; return its outputs and its exit code."""
    peer = forker.start(service(f"{name} domX")).peer.greet()
    feeder = peer.feed(data)
    result = peer.result()
    feeder.join()
    return result


class Listener:
    """A service that listens, until it has one caller."""

    def __init__(self, address: str | tuple[str, int], family: int = socket.AF_UNIX) -> None:
        self._listener = socket.socket(family)
        self._listener.bind(address)
        self._listener.listen(1)
        self.address = self._listener.getsockname()
        self._sock: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()
        if self._sock:
            self._sock.close()

    @property
    def sock(self) -> socket.socket:
        """The connection to its caller."""
        if not self._sock:
            self._listener.settimeout(TIMEOUT)
            self._sock, _ = self._listener.accept()
            self._sock.settimeout(TIMEOUT)
        return self._sock

    def read(self, size: int) -> bytes:
        """Return that many bytes, fewer at the end."""
        data = b""
        while len(data) < size and (received := self.sock.recv(size - len(data))):
            data += received
        return data


# What does not start.


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize(
    ("line", "last"),
    [
        ("no colon", PROBLEM),
        ("", PROBLEM),
        ("nobodywho:true", PROBLEM),
        (":true", PROBLEM),
        (f"{ME}:QUBESRPC ", PROBLEM),
        (f"{ME}:QUBESRPC test.None", PROBLEM),
        (f"{ME}:QUBESRPC  domX", PROBLEM),
        (f"{ME}:QUBESRPC +x domX", PROBLEM),
        (f"{ME}:QUBESRPC {'x' * 256} domX", PROBLEM),
        (f"{ME}:QUBESRPC test.None domX name", PROBLEM),
        (f"{ME}:QUBESRPC test.None domX", NOT_FOUND),
        (f"{ME}:nogui:QUBESRPC test.None+x domX", NOT_FOUND),
        (f"{ME}:QUBESRPC {'x' * 255} domX", NOT_FOUND),
    ],
)
def test_what_cannot_start(
    forker: Forker, line: str, last: tuple[int, bytes], *, detached: bool
) -> None:
    running = forker.start(line, detached=detached)
    ends = [] if detached else [(STDOUT, b""), (STDERR, b"")]
    assert running.peer.greet().receive_all() == [*ends, last]
    running.wait_closed()


@pytest.mark.parametrize("content", [b"\0", b"#!/nonexistent\n", b""])
def test_file_that_the_kernel_does_not_run(
    forker: Forker, services: Services, content: bytes
) -> None:
    services.script("test.Broken", "").write_bytes(content)
    assert call(forker, "test.Broken") == (b"", b"", 125)


@pytest.mark.parametrize("settings", ["wait-for-session = 00\n", "force-user = 'nobodywho'\n"])
def test_wrong_settings(forker: Forker, services: Services, settings: str) -> None:
    services.script("test.Settings", "echo ran")
    services.configure("test.Settings+x", settings)
    assert call(forker, "test.Settings+x") == (b"", b"", 125)
    assert call(forker, "test.Settings+y") == (b"ran\n", b"", 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to be another user")
def test_only_root_runs_commands_of_others() -> None:
    """Whoever else is asked to says so: nothing runs as who it is not meant for."""
    pid = os.fork()
    if not pid:
        os.setresuid(65534, 65534, 65534)
        try:
            become(b"root", {})
        except StartError as error:
            os._exit(error.exit_code)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 125


# What starts.


def test_command_of_a_shell(forker: Forker) -> None:
    """It has our environment, and only that of qrexec's variables which it is meant to have."""
    peer = forker.start(shell("echo $INHERITED; env | grep ^QREXEC_ | sort")).peer.greet()
    peer.feed(b"")
    inherited, pid, path = peer.result()[0].splitlines()
    assert (inherited, pid[:17], path[:20]) == (
        b"yes",
        b"QREXEC_AGENT_PID=",
        b"QREXEC_SERVICE_PATH=",
    )


def test_environment_of_a_service(forker: Forker, services: Services) -> None:
    services.script("test.Env", 'echo "$0 $# $1"; env | grep ^QREXEC_ | grep -v _P | sort')
    stdout, _, _ = call(forker, "test.Env+a+b")
    assert stdout.decode().splitlines() == [
        f"{services.second}/test.Env 1 a+b",
        "QREXEC_REMOTE_DOMAIN=domX",
        "QREXEC_REQUESTED_TARGET_TYPE=",
        "QREXEC_SERVICE_ARGUMENT=a+b",
        "QREXEC_SERVICE_FULL_NAME=test.Env+a+b",
    ]
    stdout, _, _ = call(forker, "test.Env")
    assert stdout.decode().splitlines()[:2] == [
        f"{services.second}/test.Env 0 ",
        "QREXEC_REMOTE_DOMAIN=domX",
    ]


def test_only_to_be_started(forker: Forker, services: Services, witness: Witness) -> None:
    services.script("test.Detached", f'read x; echo "$QREXEC_SERVICE_FULL_NAME" >{witness.path}')
    running = forker.start(service("test.Detached+ domX"), detached=True)
    assert running.peer.greet().receive_all() == [SUCCESS]
    witness.wait_told(b"test.Detached+\n")


# A session.


def test_service_waits_for_a_session(forker: Forker, services: Services, gate: Gate) -> None:
    told = gate.path.with_name("told")
    services.script(
        "qubes.WaitForSession",
        f'read user; read go <{gate.path}; echo "$# $user $QREXEC_REMOTE_DOMAIN" >{told}',
    )
    services.script("test.Waits", f"cat {told} -")
    services.configure("test.Waits", f"wait-for-session = 1\nforce-user = '{ME}'\n")
    peer = forker.start(service("test.Waits+x domX")).peer.greet()
    peer.feed(b"input")
    gate.open()
    assert peer.result() == (f"0 {ME} domX\ninput".encode(), b"", 0)


def test_service_that_needs_no_session(forker: Forker, services: Services) -> None:
    services.script("qubes.WaitForSession", "exec sleep 1000")
    services.script("test.NoGui", "echo here")
    services.configure("test.NoGui", "wait-for-session = 1\n")
    peer = forker.start(f"{ME}:nogui:QUBESRPC test.NoGui domX").peer.greet()
    assert peer.result() == (b"here\n", b"", 0)


def test_peer_that_does_not_wait_for_a_session(
    forker: Forker, services: Services, witness: Witness
) -> None:
    """Then nobody does: who waits is ended."""
    services.script(
        "qubes.WaitForSession", f"exec 3>{witness.path}; echo begun >&3; exec sleep 1000"
    )
    services.script("test.Never", "")
    services.configure("test.Never", "wait-for-session = 1\n")
    running = forker.start(service("test.Never domX"))
    running.peer.greet()
    witness.wait_told(b"begun\n")
    running.peer.close()
    witness.wait_end()
    assert not running.wait_end()


@pytest.mark.parametrize("waiter", [None, "exit 1", "not executable"])
def test_who_cannot_wait(forker: Forker, services: Services, waiter: str | None) -> None:
    """What tells of a session is missing or fails: then the service starts."""
    path = services.script("qubes.WaitForSession", waiter or "")
    if waiter is None:
        path.unlink()
    elif waiter != "exit 1":
        path.chmod(0o644)
    services.script("test.Anyway", "echo here")
    services.configure("test.Anyway", "wait-for-session = true\n")
    assert call(forker, "test.Anyway") == (b"here\n", b"", 0)


# Services that listen.


def start_call(forker: Forker, name: str) -> Peer:
    return forker.start(service(f"{name} domX")).peer.greet()


def test_unix_socket(forker: Forker, services: Services) -> None:
    """First it is told who calls what, then it gets the input; it has no stderr."""
    with Listener(str(services.second / "test.Unix+arg")) as listener:
        peer = start_call(forker, "test.Unix+arg")
        peer.send(STDIN, b"stdin data")
        peer.send(STDIN)
        assert listener.read(1000) == b"test.Unix+arg domX\0stdin data"
        listener.sock.sendall(b"stdout data")
        listener.sock.close()
        assert peer.receive_all() == [
            (STDERR, b""), (STDOUT, b"stdout data"), (STDOUT, b""), SUCCESS,
        ]  # fmt: skip


def test_unix_socket_with_a_long_path(forker: Forker, services: Services) -> None:
    name = "test." + "x" * 200
    short = services.second / "short"
    with Listener(str(short)) as listener:
        short.rename(services.second / name)
        peer = start_call(forker, name)
        assert listener.read(len(name)) == name.encode()
        listener.sock.close()
        peer.send(STDIN)
        assert peer.receive_all()[-1] == SUCCESS


def test_unix_socket_that_nobody_serves(forker: Forker, services: Services) -> None:
    with Listener(str(services.second / "test.Dead")):
        pass
    assert call(forker, "test.Dead") == (b"", b"", 125)


def test_more_than_a_socket_takes(forker: Forker, services: Services) -> None:
    with Listener(str(services.second / "test.Much")) as listener:
        peer = start_call(forker, "test.Much")
        feeder = peer.feed(bytes(5_000_000))
        assert len(listener.read(10_000_000)) == 5_000_000 + len("test.Much domX\0")
        feeder.join()
        listener.sock.close()
        assert peer.result() == (b"", b"", 0)


def test_service_that_says_no_more_and_still_listens(forker: Forker, services: Services) -> None:
    with Listener(str(services.second / "test.Half")) as listener:
        peer = start_call(forker, "test.Half")
        assert listener.read(15) == b"test.Half domX\0"
        listener.sock.shutdown(socket.SHUT_WR)
        assert [peer.receive(), peer.receive()] == [(STDERR, b""), (STDOUT, b"")]
        peer.send(STDIN, b"more")
        assert listener.read(4) == b"more"
        listener.sock.close()
        assert peer.receive_all() == [SUCCESS]


@pytest.mark.parametrize("flag", ["client", "service"])
def test_service_that_is_done_with(forker: Forker, services: Services, flag: str) -> None:
    """As soon as the client, or the service itself, has said all: the other end is closed."""
    name = f"test.Done{flag}"
    services.configure(name, f"skip-service-descriptor = true\nexit-on-{flag}-eof = true\n")
    with Listener(str(services.second / name)) as listener:
        peer = start_call(forker, name)
        peer.send(STDIN, b"stdin data")
        assert listener.read(10) == b"stdin data"
        if flag == "client":
            peer.send(STDIN)
        else:
            listener.sock.shutdown(socket.SHUT_WR)
        assert peer.receive_all() == [(STDERR, b""), (STDOUT, b""), SUCCESS]
        assert listener.read(1) == b""


def test_socket_service_that_is_only_to_be_started(forker: Forker, services: Services) -> None:
    """It is told, and that is all."""
    with Listener(str(services.second / "test.Told+")) as listener:
        running = forker.start(service("test.Told a"), detached=True)
        assert running.peer.greet().receive_all() == [SUCCESS]
        assert listener.read(1000) == b"test.Told a\0"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_tcp(forker: Forker, services: Services, family: socket.AddressFamily) -> None:
    host = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}[family]
    link = services.second / "test.Tcp"
    if not link.is_symlink():
        link.symlink_to("/dev/tcp")
    with Listener((host, 0), family) as listener:
        name = f"test.Tcp+{host.replace(':', '+')}+{listener.address[1]}"
        peer = start_call(forker, name)
        peer.send(STDIN, b"stdin data")
        peer.send(STDIN)
        assert listener.read(1000) == f"{name} domX\0stdin data".encode()
        listener.sock.sendall(b"stdout data")
        listener.sock.close()
        assert peer.result() == (b"stdout data", b"", 0)


def test_tcp_that_nobody_serves(forker: Forker, services: Services) -> None:
    with Listener(("127.0.0.1", 0), socket.AF_INET) as listener:
        port = listener.address[1]
    (services.second / "test.NoTcp").symlink_to(f"/dev/tcp/127.0.0.1/{port}")
    assert call(forker, "test.NoTcp") == (b"", b"", 125)
