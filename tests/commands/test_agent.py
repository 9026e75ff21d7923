"""The agent as its daemon and its callers in the guest find it.

What tells a good agent from a bad one has these names in the tests: the sockets are there in time,
whole headers, late data sockets, nothing is left, one process to signal for each command, no junk
in the environment, both HELLOs offer 4.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from agent.qrexec.callers import MAX_CALLERS
from agent.qrexec.running import MAX_COMMANDS, Running
from agent.qrexec.starter import Starter
from sessiond.wire.exec import (
    CONTROL_PORT,
    Connect,
    Exec,
    ExitCode,
    Hello,
    Place,
    Refuse,
    Stream,
    Terminated,
    Trigger,
    pack,
    pack_header,
)
from sessiond.wire.exec_data import DataRole
from tests.agent.qrexec.peer import TIMEOUT
from tests.agent.qrexec.services import ME
from tests.fixtures.processes import family
from tests.fixtures.qrexec import AGENT, DOMAIN, Agent, Far, Host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.qrexec.process import Job

PLACE = Place(DOMAIN, 2000)
MODES = {"fork server": (), "none": ("--no-fork-server",)}


@pytest.fixture(params=list(MODES))
def agent(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Agent]:
    with Agent(tmp_path, *MODES[request.param]) as agent:
        yield agent


@pytest.fixture
def host(agent: Agent) -> Iterator[Host]:
    with Host(agent.socket.parent) as host:
        host.connect()
        host.finish(host.start(f"{ME}:true"))  # HELLO has been heard
        yield host


def client(agent: Agent) -> socket.socket:
    """Return a connection to the agent's local socket."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(agent.socket))  # which waits for a place in the queue
    sock.settimeout(TIMEOUT)
    return sock


def trigger(service: bytes = b"test.Service", source: bytes = b"") -> bytes:
    return pack(Trigger(service, b"target", b"SOCKET", source))


# The control channel.


def test_sockets_are_there_in_time(tmp_path: Path) -> None:
    """Half a second after the start, and after HELLO; what a busy machine adds is not counted."""
    with Agent(tmp_path) as agent, Host(tmp_path) as host:
        host.connect_bare()
        assert agent.cpu() < 0.5
        before = agent.cpu()
        assert host.wait_for(Hello) == Hello(4)  # both HELLOs offer 4
        assert not agent.socket.exists()
        host.say_bytes(host._control.send_hello())
        host.finish(host.start(f"{ME}:true"))
        assert agent.socket.stat().st_mode & 0o777 == 0o777  # anybody may call
        assert agent.cpu() - before < 0.5


@pytest.mark.parametrize("version", [2, 3, 4, 5, 1000])
def test_commands_in_every_version(agent: Agent, version: int) -> None:
    with Host(agent.socket.parent, version=version) as host:
        host.connect()
        far = host.start(f"{ME}:printf hi; printf er >&2; exit 3", version=version)
        host.finish(far)
        assert (far.stdout, far.stderr, far.exit_code) == (b"hi", b"er", 3)


@pytest.mark.parametrize(
    "said",
    [
        pack(Hello(1)),
        pack_header(0x300, 5) + bytes(5),
        pack_header(0x300, 0),
        pack(Exec(PLACE, b"root:true")),
        pack(Hello()) + pack_header(0x777, 0),
        pack(Hello()) + pack_header(0x200, 8) + bytes(8),
        pack(Hello()) + pack(Terminated(PLACE)),
        pack(Hello()) + pack(Hello()),
    ],
)
def test_daemon_that_breaks_the_protocol(agent: Agent, said: bytes) -> None:
    with Host(agent.socket.parent) as host:
        host.connect_bare()
        host.say_bytes(said)
        assert agent.wait_exit() == 1
    assert not any("Traceback" in line for line in agent.lines)


def test_second_daemon_at_a_time_is_none(agent: Agent, host: Host) -> None:
    """A vchan has two ends."""
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError, match=r"No such|refused"):
        sock.connect(str(host.path(AGENT, 0, CONTROL_PORT)))
    assert agent.process.poll() is None


def test_commands_outlive_their_daemon(agent: Agent) -> None:
    """Who waits for it is refused, and the next daemon is not told of what is not its own."""
    with Host(agent.socket.parent) as first:
        first.connect()
        old = first.start(f"{ME}:cat")
        old.feed(b"before")
        first.attend(lambda: old.stdout == b"before")
        with client(agent) as sock:
            sock.sendall(trigger())
            first.wait_for(Trigger)
            first.vanish()
            assert sock.recv(1) == b""
        with Host(agent.socket.parent) as second:
            second.connect()
            old.feed(b" and after")
            old.end()
            first.attend(lambda: old.is_closed)
            assert (old.stdout, old.exit_code) == (b"before and after", 0)
            second.finish(second.start(f"{ME}:true"))
            assert second._heard == []


def test_late_data_socket(agent: Agent, host: Host) -> None:
    """It appears some time after the request."""
    host.say(Exec(PLACE, f"{ME}:exit 5".encode()))
    for _ in range(5):
        host.finish(host.start(f"{ME}:sleep 0.05"))
    far = Far(DataRole.CLIENT, PLACE)
    far.listen(host.path(DOMAIN, AGENT, PLACE.port))
    host._fars.append(far)
    host.finish(far)
    assert far.exit_code == 5
    assert agent.process.poll() is None


# Its end.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left(agent: Agent, host: Host, number: signal.Signals) -> None:
    """Neither a process nor a socket, whatever runs."""
    commands = [
        "sleep 1000", "sleep 1000 & wait", "setsid sleep 1000", "cat", "yes",
        "sh -c 'trap \"\" TERM HUP; sleep 1000 & echo deaf; wait; sleep 1000'",
    ]  # fmt: skip
    fars = [host.start(f"{ME}:echo begun; {command}") for command in commands]
    host.attend(lambda: all(b"begun" in far.stdout for far in fars))
    host.attend(lambda: b"deaf" in fars[-1].stdout)
    host.say(Exec(PLACE, f"{ME}:true".encode()))  # nobody serves that
    with client(agent) as waiting:
        waiting.sendall(trigger())
        host.wait_for(Trigger)
        processes = family(agent.pid)
        assert len(processes) > 2 * len(commands)
        agent.signal(number)
        assert agent.wait_exit() == 0
        assert waiting.recv(1) == b""
    assert not [pid for pid in processes[1:] if Path(f"/proc/{pid}").exists() and not zombie(pid)]
    assert not agent.socket.exists()
    assert not host.path(AGENT, 0, CONTROL_PORT).exists()
    assert not any("Traceback" in line for line in agent.lines)


def zombie(pid: int) -> bool:
    """Return whether it has ended, and only its parent does not know yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2][0] == "Z"
    except OSError:
        return True


def test_told_to_end_before_there_is_a_daemon(agent: Agent) -> None:
    agent.wait_line("waiting for a daemon")
    agent.signal(signal.SIGTERM)
    assert agent.wait_exit() == 0


@pytest.mark.parametrize("variable", ["VCHAN_SOCKET_DIR", "VCHAN_DOMAIN"])
def test_what_it_cannot_serve(tmp_path: Path, variable: str) -> None:
    with Agent(tmp_path, extra={variable: "/nonexistent"}) as agent:
        assert agent.wait_exit() == 1
        assert len(agent.lines) == 1


def test_local_socket_that_cannot_be_made(tmp_path: Path) -> None:
    with Agent(tmp_path, "--agent-socket=/nonexistent/x") as agent, Host(tmp_path) as host:
        host.connect()
        assert agent.wait_exit() == 1
        assert "cannot listen at /nonexistent/x" in agent.lines[-1]


def test_fork_server_that_is_killed(tmp_path: Path) -> None:
    """Another takes its place, and the commands that run go on."""
    with Agent(tmp_path) as agent, Host(tmp_path) as host:
        host.connect()
        far = host.start(f"{ME}:echo begun; exec cat")
        host.attend(lambda: far.stdout == b"begun\n")
        _, _keeper, server, *_ = family(agent.pid)
        os.kill(server, signal.SIGKILL)
        another = host.start(f"{ME}:exit 3")
        host.finish(another)
        assert another.exit_code == 3
        far.feed(b"more\n")
        host.attend(lambda: far.stdout == b"begun\nmore\n")


# Calls from inside.


@pytest.mark.parametrize("version", [2, 3, 4])
def test_call_is_passed_on(agent: Agent, version: int) -> None:
    """In the daemon's version, under an ident of the agent's."""
    with Host(agent.socket.parent, version=version) as host:
        host.connect()
        host.finish(host.start(f"{ME}:true"))
        with client(agent) as sock:
            source = b"toto" if version == 4 else b""
            sock.sendall(trigger(b"test.Service+x", source))
            call = host.wait_for(Trigger)
            assert (call.service, call.target, call.source) == (
                b"test.Service+x",
                b"target",
                source,
            )
            assert call.ident.startswith(b"SOCKET")
            assert call.ident[6:].isdigit()
            host.say(Connect(PLACE, call.ident))
            assert sock.recv(100) == struct.pack("<II", DOMAIN, PLACE.port)
            assert not select.select([sock], [], [], 0)[0]  # it is not hung up
        host.wait_for(Terminated, lambda message: message.place == PLACE)


@pytest.mark.parametrize(("version", "size"), [(2, 64), (2, 70), (2, 1000)])
def test_call_that_the_daemon_cannot_be_told(agent: Agent, version: int, size: int) -> None:
    """Is refused, and others are not."""
    with Host(agent.socket.parent, version=version) as host:
        host.connect()
        host.finish(host.start(f"{ME}:true"))
        with client(agent) as sock:
            sock.sendall(trigger(b"x" * size))
            assert sock.recv(1) == b""
        with client(agent) as sock:
            sock.sendall(trigger(b"x" * 63))
            assert host.wait_for(Trigger).service == b"x" * 63


def test_refused_call(agent: Agent, host: Host) -> None:
    with client(agent) as first, client(agent) as second:
        first.sendall(trigger(b"first"))
        refused = host.wait_for(Trigger)
        second.sendall(trigger(b"second"))
        granted = host.wait_for(Trigger)
        host.say(Refuse(refused.ident))
        assert first.recv(1) == b""
        host.say(Connect(PLACE, granted.ident))
        assert len(second.recv(100)) == 8


def test_answers_to_nobody(agent: Agent, host: Host) -> None:
    """Who has gone is told of as soon as there is something to be told."""
    with client(agent) as sock:
        sock.sendall(trigger())
        call = host.wait_for(Trigger)
    with client(agent) as other:
        other.sendall(trigger())  # whoever comes next is not taken for the first
        host.wait_for(Trigger)
        host.say(Connect(PLACE, call.ident))
        host.wait_for(Terminated, lambda message: message.place == PLACE)
        for ident in (call.ident, b"", b"SOCKET", b"SOCKET1x", b"\xff" * 31):
            host.refuse(Trigger(b"s", b"t", ident))
            host.say(Connect(Place(1, 1), ident))
            host.wait_for(Terminated, lambda message: message.place == Place(1, 1))
        host.finish(host.start(f"{ME}:true"))
        assert not select.select([other], [], [], 0)[0]


@pytest.mark.parametrize(
    "said",
    [
        b"\0" * 4,
        pack_header(0x213, 0),
        pack_header(0x213, 1 << 31),
        pack_header(0x212, 100) + bytes(100),
        pack_header(0x213, 162) + b"x" * 162,
        trigger() + b"x",
    ],
)
def test_client_that_says_nonsense(agent: Agent, host: Host, said: bytes) -> None:
    with client(agent) as nonsense, client(agent) as silent, client(agent) as sock:
        nonsense.sendall(said)
        if len(said) >= 8:
            assert nonsense.recv(1) == b""
        sock.sendall(trigger())
        host.refuse(host.wait_for(Trigger))
        assert sock.recv(1) == b""
        assert not select.select([silent], [], [], 0)[0]


def test_call_in_pieces(agent: Agent, host: Host) -> None:
    with client(agent) as slow:
        for at, byte in enumerate(trigger(b"slow")):
            slow.sendall(bytes([byte]))
            if not at % 32:
                with client(agent) as quick:
                    quick.sendall(trigger(b"quick"))
                    assert host.wait_for(Trigger).service == b"quick"
        assert host.wait_for(Trigger).service == b"slow"


def test_too_many_clients(agent: Agent, host: Host) -> None:
    """Who has been silent for the longest makes room; while all wait, nobody else is taken."""
    socks = [client(agent) for _ in range(MAX_CALLERS)]
    try:
        for sock in socks[1:]:
            sock.sendall(trigger())
        for _ in socks[1:]:
            host.wait_for(Trigger)
        with client(agent) as last:
            last.sendall(trigger(b"last"))
            assert host.wait_for(Trigger).service == b"last"
            assert socks[0].recv(1) == b""
            with client(agent) as late:
                assert late.recv(1) == b""
    finally:
        for sock in socks:
            sock.close()
    host.finish(host.start(f"{ME}:true"))


class Tireless(Starter):
    """Starts nothing, and keeps the other ends."""

    def __init__(self) -> None:
        self.ends: list[socket.socket] = []

    def start(self, job: Job) -> socket.socket:  # noqa: ARG002
        ours, its = socket.socketpair()
        self.ends.append(its)
        return ours

    def fileno(self) -> None:
        return None

    def close(self) -> None:
        for end in self.ends:
            end.close()


def test_too_many_commands() -> None:
    """One more has ended at once."""
    ended: list[Place] = []
    starter = Tireless()
    running = Running(starter, ended.append)
    for port in range(MAX_COMMANDS + 1):
        running.start(Exec(Place(1, port), b""))
    assert ended == [Place(1, MAX_COMMANDS)]
    starter.close()
    running.attend(running.wanted)
    assert len(ended) == MAX_COMMANDS + 1
    running.end()
    assert not running.wanted


class Tired(Tireless):
    """Cannot start anything."""

    def start(self, job: Job) -> socket.socket:  # noqa: ARG002
        raise BlockingIOError("Resource temporarily unavailable")


def test_no_process_is_left_for_a_command(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[Place] = []
    Running(Tired(), ended.append).start(Exec(PLACE, b""))
    assert ended == [PLACE]
    assert "cannot start a process" in caplog.text


def test_agent_and_client_together(agent: Agent, host: Host) -> None:
    """A call from a command, as it is made."""
    far = host.start(
        f"{ME}:exec {sys.executable} -m agent qrexec-client "
        f"--agent-socket {agent.socket} there test.Service+x"
    )
    call = host.wait_for(Trigger)
    service = host.grant(call)
    far.feed(b"question")
    far.end()
    host.attend(lambda: Stream.STDIN in service.ended)
    assert bytes(service.output[Stream.STDIN]) == b"question"
    service.feed(b"answer")
    service.end(Stream.STDOUT)
    service.say(ExitCode(9))
    host.finish(far)
    host.wait_terminated(service)
    assert (far.stdout, far.stderr, far.exit_code) == (b"answer", b"", 9)
