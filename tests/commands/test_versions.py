"""Peers of every version: what they are told on control, and how much at once on a data channel."""

import getpass
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessiond.wire.exec import (
    Chunk,
    ExitCode,
    Hello,
    Refuse,
    Stream,
    Trigger,
    Type,
    pack,
    pack_header,
)
from tests.fixtures.child import ROOT
from tests.fixtures.qrexec import Agent, Host

USER = getpass.getuser()
SIZES = {2: 4096, 3: 65536, 4: 65536}

versions = pytest.mark.parametrize("version", SIZES)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with Agent(tmp_path_factory.mktemp("vchan")) as agent:
        yield agent


@pytest.fixture
def host(agent: Agent) -> Iterator[Host]:
    with Host(agent.socket.parent) as host:
        yield host.connect()


@versions
def test_chunks_are_as_long_as_the_version_allows(host: Host, version: int) -> None:
    far = host.start(f"{USER}:cat; cat /proc/self/maps >&2", version=version)
    data = bytes(range(256)) * 4096
    far.feed(data, chunk=SIZES[version])
    far.end()
    host.finish(far)
    assert far.data.version == version
    assert far.stdout == data
    assert far.stderr
    assert far.exit_code == 0
    assert max(len(m.data) for m in far.messages if isinstance(m, Chunk)) <= SIZES[version]


@versions
def test_longer_chunk_is_the_channels_end(host: Host, version: int) -> None:
    far = host.start(f"{USER}:echo ready; cat", version=version)
    host.attend(lambda: far.stdout == b"ready\n")
    far.say_bytes(pack_header(Type.DATA_STDIN, SIZES[version] + 1))
    host.finish(far)
    assert far.exit_code is None


@versions
def test_just_exec_has_an_exit_code_and_nothing_else(host: Host, version: int) -> None:
    far = host.start(f"{USER}:echo not heard; exit 3", version=version, just=True)
    host.finish(far)
    assert far.exit_code == 0
    assert len(far.messages) == 1


@versions
def test_call_is_told_as_the_daemons_version_has_it(agent: Agent, version: int) -> None:
    """A daemon hangs up on a call in the form of another version: ours raises an error."""
    with Host(agent.socket.parent, version=version) as host:
        host.connect()
        clients = [called(agent) for _ in range(2)]
        granted, refused = (host.wait_for(Trigger) for _ in clients)
        assert (granted.service, granted.target) == (b"test.Service+x", b"somewhere")
        host.refuse(refused)
        far = host.grant(granted)
        far.feed(b"granted")
        far.end(Stream.STDOUT)
        far.end(Stream.STDERR)
        host.attend(lambda: Stream.STDIN in far.ended)
        far.say(ExitCode(7))
        host.finish(far)
        assert far.output[Stream.STDIN] == b"input"
        told = sorted((client.communicate(timeout=20)[1], client.returncode) for client in clients)
        assert told[1] == (b"granted", 7)
        assert told[0][1] == 126
        assert b"input" not in told[0][0]  # its program was not started


def called(agent: Agent) -> subprocess.Popen[bytes]:
    """Start a client whose program says "input", and tells us what it hears."""
    argv = [sys.executable, "-m", "agent", "qrexec-client", "--agent-socket", str(agent.socket)]
    return subprocess.Popen(
        [*argv, "somewhere", "test.Service+x", "/bin/sh", "-c", "printf input; exec >&-; cat >&2"],
        cwd=ROOT, env=agent.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("first", [
    bytes.fromhex("000300000400000001000000"),  # version 1
    bytes.fromhex("0003000008000000") + bytes(8),  # a longer HELLO
    pack(Refuse(b"SOCKET1")),  # none
    bytes.fromhex("0103000000000000"),  # what no version has
])  # fmt: skip
def test_agent_ends_with_a_daemon_that_breaks_the_protocol(tmp_path: Path, first: bytes) -> None:
    with Agent(tmp_path) as agent, Host(tmp_path) as host:
        host.connect_bare()
        host.wait_for(Hello)
        host.say_bytes(first)
        host.wait_gone()
        assert agent.wait_exit() == 1


def test_newer_daemon_is_welcome(agent: Agent) -> None:
    with Host(agent.socket.parent, version=5) as host:
        host.connect()
        far = host.start(f"{USER}:exit 5")
        host.finish(far)
        assert far.exit_code == 5
