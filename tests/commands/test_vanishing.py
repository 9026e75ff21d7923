"""Peers that vanish: at every byte of a data channel, of control, and of a call's answer."""

import getpass
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessiond.wire.exec import Chunk, ExitCode, Hello, Stream, Trigger, pack
from tests.fixtures.child import ROOT
from tests.fixtures.qrexec import Agent, Far, Host
from tests.fixtures.witness import Witness

USER = getpass.getuser()
HELLO = 12
STDIN = HELLO + 8 + len(b"data 1")
SAID_BY_CLIENT = STDIN + 8  # and its end
SAID_BY_SERVICE = HELLO + 8 + len(b"hi") + 8 + len(b"er") + 8 + 8 + 12


@pytest.fixture(scope="module", params=[(), ("--no-fork-server",)], ids=["fork server", "none"])
def agent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:  # fmt: skip  # noqa: E501
    """One for all: whoever vanishes, it has to go on."""
    with Agent(tmp_path_factory.mktemp("vchan"), *request.param) as agent:
        yield agent


@pytest.fixture
def host(agent: Agent) -> Iterator[Host]:
    with Host(agent.socket.parent) as host:
        host.connect()
        yield host
        far = host.start(f"{USER}:true")  # all is well
        host.finish(far)
        assert far.exit_code == 0


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    with Witness(tmp_path / "fifo") as witness:
        yield witness


def started(host: Host, witness: Witness, script: str) -> Far:
    """Return the far end of a command that WITNESS sees; it has begun as soon as it can."""
    return host.start(f"{USER}:exec 9>{witness.path}; echo begun >&9; {script}")


@pytest.mark.parametrize("size", range(SAID_BY_CLIENT + 1))
def test_client_that_vanishes_after_so_many_bytes(host: Host, witness: Witness, size: int) -> None:
    far = started(host, witness, "cat >&9; echo end >&9")
    far.vanish_after_sending = size
    far.feed(b"data 1")
    far.end()
    host.finish(far)
    assert far.vanished
    if size < HELLO:
        assert witness.told == b""  # nothing is started for nobody
    else:
        assert witness.wait_end() == b"begun\n" + b"data 1" * (size >= STDIN) + b"end\n"


@pytest.mark.parametrize("size", range(SAID_BY_SERVICE + 1))
def test_client_that_vanishes_after_hearing_so_many_bytes(
    host: Host, witness: Witness, size: int
) -> None:
    far = started(host, witness, "printf hi; printf er >&2; exit 3")
    far.vanish_after_receiving = size
    far.end()
    host.finish(far)
    assert far.vanished
    assert far.received == size
    assert (far.exit_code == 3) is (size == SAID_BY_SERVICE)
    if size >= HELLO + 8:
        assert witness.wait_end() == b"begun\n"


@pytest.mark.parametrize("size", [HELLO, HELLO + 4, HELLO + 8, HELLO + 9, 65_536, 1_000_000])
@pytest.mark.parametrize("script", ["yes", "yes >&2", "cat /dev/zero; cat /dev/zero"])
def test_writer_ends_when_nobody_reads_any_more(
    host: Host, witness: Witness, script: str, size: int
) -> None:
    far = started(host, witness, script)
    far.vanish_after_receiving = size
    host.finish(far)
    assert witness.wait_end() == b"begun\n"


def test_client_that_vanishes_while_nothing_goes_in_either_direction(
    host: Host, witness: Witness
) -> None:
    far = started(host, witness, "yes")
    far.takes = HELLO  # and nothing of what "yes" says, which takes nothing itself
    far.feed(b"x" * 10_000_000)
    host.attend(lambda: far.sent > 70_000 and witness.told == b"begun\n", also=witness)
    assert far.unsent
    far.vanish()
    host.wait_terminated(far)
    assert witness.wait_end() == b"begun\n"


def test_half_a_message_is_not_heeded(host: Host, witness: Witness) -> None:
    far = started(host, witness, "cat >&9")
    far.feed(b"whole;")
    far.vanish_after_sending = HELLO + 14 + 8 + 5
    far.feed(b"half of it")
    host.finish(far)
    assert witness.wait_end() == b"begun\nwhole;"


def test_message_that_breaks_the_protocol_is_the_channels_end(host: Host, witness: Witness) -> None:
    far = started(host, witness, "cat >&9; echo end >&9")
    far.feed(b"good;")
    host.attend(lambda: b"good;" in witness.told, also=witness)
    far.say_bytes(pack(Hello()))
    host.finish(far)
    assert far.exit_code is None
    assert witness.wait_end() == b"begun\ngood;end\n"


def test_daemon_that_vanishes_at_every_byte(agent: Agent, tmp_path: Path) -> None:
    directory = agent.socket.parent
    with Host(directory) as host, Witness(tmp_path / "fifo") as witness:
        _, request = host.prepared(f"{USER}:echo begun > {witness.path}")
        said = pack(Hello()) + pack(request)
        for size in range(len(said)):
            with Host(directory) as other:
                other.connect_bare()
                other.wait_for(Hello)
                other.say_bytes(said[:size])
        host.connect()
        assert witness.told == b""
        host.say(request)
        host.attend(lambda: witness.told == b"begun\n", also=witness)


def test_commands_outlive_their_daemon(agent: Agent, tmp_path: Path) -> None:
    with Host(agent.socket.parent) as host, Witness(tmp_path / "fifo") as witness:
        host.connect()
        far = started(host, witness, "cat")
        far.feed(b"before, ")
        host.attend(lambda: far.stdout == b"before, ")
        host.vanish()
        far.feed(b"after")
        far.end()
        host.attend(lambda: far.is_closed)
        assert far.stdout == b"before, after"
        assert far.exit_code == 0
        assert witness.wait_end() == b"begun\n"


ANSWER: list[Chunk | ExitCode] = [Chunk(Stream.STDOUT, b"hi"), Chunk(Stream.STDERR, b"er"), Chunk(Stream.STDOUT, b""), Chunk(Stream.STDERR, b""), ExitCode(3)]  # fmt: skip  # noqa: E501
# At each message's end, and inside it.
ENDS = [0, *itertools.accumulate([HELLO, 10, 10, 8, 8, 12])]
SIZES = sorted({*ENDS, *(end - 3 for end in ENDS[1:])})


@pytest.mark.parametrize("size", SIZES)
def test_service_that_vanishes_after_so_many_bytes(agent: Agent, host: Host, size: int) -> None:
    argv = [sys.executable, "-m", "agent", "qrexec-client", "--agent-socket", str(agent.socket)]
    with subprocess.Popen(
        [*argv, "somewhere", "test.Service+x"], cwd=ROOT, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=agent.env,
    ) as client:  # fmt: skip
        call = host.wait_for(Trigger)
        assert (call.service, call.target) == (b"test.Service+x", b"somewhere")
        far = host.grant(call)
        far.vanish_after_sending = size
        for message in ANSWER:
            far.say(message)
        host.finish(far)
        stdout, _ = client.communicate(timeout=20)
    assert far.vanished
    assert stdout == (b"hi" if size >= HELLO + 10 else b"")
    if size < HELLO:
        assert client.returncode == 125  # there never was a channel
    else:
        assert client.returncode == (3 if size == ENDS[-1] else 255)
