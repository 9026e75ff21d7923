"""The daemon as a qrexec agent: a real daemon, real agents of users, and the host's programs."""

from __future__ import annotations

import contextlib
import signal
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from sessiond.wire.exec import (
    LOCAL_IDENT,
    Chunk,
    Connect,
    ExitCode,
    Hello,
    Place,
    Stream,
    Terminated,
    Trigger,
    pack,
)
from tests.commands.guest import Guest
from tests.fixtures.qrexec import AGENT, DOMAIN, Far, Host, vanish_all
from tests.fixtures.user_agent import ALICE, BOB, IS_ROOT, UserAgent
from tests.fixtures.witness import Witness

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

needs_two_users = pytest.mark.skipif(not IS_ROOT, reason="without root everybody is us")
COUNT: Final = 200
HELLO: Final = 12  # bytes


@pytest.fixture(scope="module")
def guest_of_module() -> Iterator[Guest]:
    with Guest() as guest:
        guest.service("test.Echo", "cat; echo said $1 for $QREXEC_REMOTE_DOMAIN")
        guest.service("test.Forbidden", "echo never")
        guest.service("test.Broken", "exit 0", mode=0o644)
        yield guest


@pytest.fixture
def guest(guest_of_module: Guest) -> Guest:
    return guest_of_module


@pytest.fixture(scope="module")
def alice(guest_of_module: Guest) -> Iterator[UserAgent]:
    # One for all: nobody may connect as often as there are tests.
    with guest_of_module.user(ALICE) as agent:
        yield agent


@pytest.fixture
def host(guest: Guest) -> Iterator[Host]:
    with guest.host() as host:
        yield host
        if not host.is_gone:  # all is well
            assert run(host, "nobody who exists:true").exit_code == 125


@pytest.fixture
def witness() -> Iterator[Witness]:
    with tempfile.TemporaryDirectory() as folder, Witness(Path(folder) / "fifo") as witness:
        Path(folder).chmod(0o755)
        witness.path.chmod(0o666)
        yield witness


def run(host: Host, line: str, given: bytes = b"", *, version: int = 4, just: bool = False) -> Far:
    """Run a command to its end."""
    far = host.start(line, version=version, just=just)
    far.feed(given, chunk=4096)
    far.end()
    host.finish(far)
    return far


def started(host: Host, witness: Witness, script: str) -> Far:
    """Start a command of alice's that WITNESS sees."""
    return host.start(f"{ALICE}:exec 9>{witness.path}; echo begun >&9; {script}")


# Commands.


@pytest.mark.parametrize("version", [2, 3, 4])
def test_a_command_runs_as_its_user(host: Host, alice: UserAgent, version: int) -> None:
    far = run(
        host, f"{ALICE}:id -u; cat; echo well >&2; exit 3", b"from the host\n", version=version
    )
    assert far.stdout == f"{alice.uid}\nfrom the host\n".encode()
    assert far.stderr == b"well\n"
    assert far.ended == {Stream.STDOUT, Stream.STDERR}
    assert far.exit_code == 3
    assert not far.is_reset


def test_a_service_runs_with_its_argument_and_its_caller(host: Host, alice: UserAgent) -> None:
    far = run(host, f"{ALICE}:QUBESRPC test.Echo+a+b domX", b"x" * 1_000_000)
    assert far.stdout == b"x" * 1_000_000 + b"said a+b for domX\n"
    assert far.exit_code == 0
    assert alice.process.poll() is None


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("true", 0),
        ("exit 77", 77),
        ("kill -9 $$", 137),
        ("nothing-of-this-name", 127),
        ("QUBESRPC test.Missing domX", 127),
        ("QUBESRPC test.Broken domX", 125),
        ("QUBESRPC test.Forbidden domX", 126),
        ("QUBESRPC test.Forbidden+argument domX", 126),
        ("QUBESRPC test.Echo", 125),
    ],
)
@pytest.mark.usefixtures("alice")
def test_exit_codes(host: Host, command: str, code: int) -> None:
    far = run(host, f"{ALICE}:{command}", b"unread")
    assert far.exit_code == code
    assert far.ended == {Stream.STDOUT, Stream.STDERR}
    assert not far.is_refused


@pytest.mark.usefixtures("alice")
def test_only_to_be_started(host: Host, witness: Witness) -> None:
    far = run(host, f"{ALICE}:exec 9>{witness.path}; echo begun >&9; exit 1", just=True)
    assert far.messages == [ExitCode(0)]
    assert witness.wait_end() == b"begun\n"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("daemon:true", 125),  # whose agent is not there
        ("no colon", 125),
        (f"{ALICE}:QUBESRPC test.Forbidden domX", 126),
    ],
)
@pytest.mark.parametrize("version", [2, 4])
def test_what_is_not_started_has_an_end_like_any_other(
    guest: Guest, host: Host, line: str, code: int, version: int
) -> None:
    run(host, line)
    before = guest.descriptors()
    far = run(host, line, b"unread", version=version)
    assert far.messages == [Chunk(Stream.STDOUT, b""), Chunk(Stream.STDERR, b""), ExitCode(code)]
    assert not far.is_refused
    assert run(host, line, just=True, version=version).messages == [ExitCode(code)]
    settle(host, guest, before, line)


def test_commands_are_denied_and_services_are_not_without_a_policy() -> None:
    with Guest(rules="") as guest, guest.user(ALICE), guest.host() as host:
        guest.service("test.Echo", "cat")
        assert run(host, f"{ALICE}:QUBESRPC test.Echo domX", b"said").stdout == b"said"
        assert run(host, f"{ALICE}:echo never").messages[-1:] == [ExitCode(126)]
        guest.daemon.wait_line("refused by the policy")


@needs_two_users
def test_two_users_are_two(guest: Guest, host: Host, alice: UserAgent) -> None:
    with guest.user(BOB) as bob:
        for agent in (alice, bob):
            assert run(host, f"{agent.user}:id -u").stdout == f"{agent.uid}\n".encode()


def test_each_run_is_in_the_journal(guest: Guest, host: Host, alice: UserAgent) -> None:
    mark = guest.daemon.now()
    run(host, f"{ALICE}:QUBESRPC test.Echo+x domX", b"secret input")
    guest.daemon.wait_line(r"'test.Echo\+x' \['domX'\].*started, pid \d+", after=mark)
    guest.daemon.wait_line(r"'test.Echo\+x' .*exit code 0", after=mark)
    assert not any("secret" in line for line in guest.daemon.lines + alice.lines)


# Descriptors, and very many.


@pytest.mark.usefixtures("alice")
def test_the_daemon_is_out_of_the_data_path(guest: Guest, host: Host) -> None:
    run(host, f"{ALICE}:true")
    before = guest.descriptors()
    fars = [host.start(f"{ALICE}:echo; cat") for _ in range(20)]
    host.attend(lambda: all(far.stdout for far in fars))
    settle(host, guest, before)
    guest.daemon.signal(signal.SIGSTOP)
    try:
        for far in fars:
            far.feed(b"without it")
            far.end()
        host.attend(lambda: all(far.is_closed for far in fars))
        assert {far.stdout for far in fars} == {b"\nwithout it"}
    finally:
        guest.daemon.signal(signal.SIGCONT)
    host.wait_terminated(*fars)


def settle(host: Host, guest: Guest, most: int, line: str = f"{ALICE}:true") -> None:
    """Wait until the daemon holds no more than that: what is passed on is closed beside its loop.

    Commands are run meanwhile: what is left behind by those before them does not go away.
    """
    for _ in range(1000):
        if guest.descriptors() <= most:
            return
        run(host, line)
    raise AssertionError(f"{guest.descriptors()} instead of {most}")


def test_200_commands_at_once(guest: Guest, host: Host, alice: UserAgent) -> None:
    run(host, f"{ALICE}:true")
    before = guest.descriptors()
    fars = [host.start(f"{ALICE}:read x; echo $x; cat; exit {n}") for n in range(COUNT)]
    for n, far in enumerate(fars):
        far.feed(b"%d\n" % n)
    # Nobody ends before the last one has begun.
    host.attend(lambda: all(far.stdout for far in fars), timeout=60)
    for n, far in enumerate(fars):
        far.feed(b"x" * n)
        far.end()
    host.finish(*fars)
    for n, far in enumerate(fars):
        assert far.stdout == b"%d\n" % n + b"x" * n
        assert far.exit_code == n
    settle(host, guest, before)
    assert alice.process.poll() is None


@pytest.mark.usefixtures("alice")
def test_200_clients_that_vanish_at_once(guest: Guest, host: Host, witness: Witness) -> None:
    run(host, f"{ALICE}:true")
    before = guest.descriptors()
    fars = [host.start(f"{ALICE}:exec 9>{witness.path}; echo; cat") for _ in range(COUNT)]
    host.attend(lambda: all(far.stdout for far in fars), timeout=60)
    vanish_all(fars)
    host.wait_terminated(*fars)
    assert witness.wait_end() == b""
    settle(host, guest, before)


# Who vanishes.


@pytest.mark.parametrize("size", [0, 5, HELLO, HELLO + 3, HELLO + 8, HELLO + 12])
@pytest.mark.usefixtures("alice")
def test_client_that_vanishes_after_so_many_bytes(host: Host, witness: Witness, size: int) -> None:
    far = started(host, witness, "cat >&9; echo end >&9")
    far.vanish_after_sending = size
    far.feed(b"data")
    host.finish(far)
    assert far.vanished
    if size < HELLO:
        assert witness.told == b""
    else:
        assert witness.wait_end() == b"begun\n" + b"data" * (size > HELLO + 8) + b"end\n"


@pytest.mark.parametrize("size", [0, 5, HELLO])
def test_client_that_vanishes_while_it_is_refused(guest: Guest, host: Host, size: int) -> None:
    run(host, "daemon:true")
    before = guest.descriptors()
    far = host.start("daemon:true")
    far.vanish_after_sending = size
    host.finish(far)
    settle(host, guest, before, "daemon:true")


def test_client_that_speaks_no_qrexec_while_it_is_refused(guest: Guest, host: Host) -> None:
    far, request = host.prepared("daemon:true")
    far.close()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(host.path(DOMAIN, AGENT, far.place.port)))
        listener.listen()
        mark = guest.daemon.now()
        host.say(request)
        with listener.accept()[0] as peer:
            peer.sendall(b"?" * HELLO)
            host.wait_terminated(far)
    guest.daemon.wait_line("unknown type", after=mark)


@pytest.mark.usefixtures("alice")
def test_a_channel_that_nobody_serves_holds_up_nothing(host: Host) -> None:
    far, request = host.prepared(f"{ALICE}:echo well")
    far.close()
    host.say(request)
    assert run(host, f"{ALICE}:echo well").stdout == b"well\n"
    far.is_closed = False
    far.listen(host.path(DOMAIN, AGENT, far.place.port))  # at last
    host.finish(far)
    assert far.stdout == b"well\n"


def test_an_agent_that_dies_ends_its_commands(witness: Witness) -> None:
    with Guest() as guest, guest.user(ALICE) as alice, guest.host() as host:
        far = started(host, witness, "echo; cat")
        host.attend(lambda: far.stdout == b"\n")
        alice.process.kill()
        host.finish(far)
        assert far.exit_code is None
        assert witness.wait_end() == b"begun\n"
        assert run(host, f"{ALICE}:true").exit_code == 125


@needs_two_users
def test_an_agent_that_hangs_holds_up_nobody_else(
    guest: Guest, host: Host, alice: UserAgent
) -> None:
    with guest.user(BOB):
        alice.signal(signal.SIGSTOP)
        fars = [host.start(f"{ALICE}:echo late") for _ in range(50)]
        assert run(host, f"{BOB}:echo well").stdout == b"well\n"
        alice.signal(signal.SIGCONT)
        host.finish(*fars)
        assert {far.stdout for far in fars} == {b"late\n"}


def test_an_agent_that_dies_before_it_answers_leaves_nobody_waiting() -> None:
    with Guest() as guest, guest.user(ALICE) as alice, guest.host() as host:
        alice.signal(signal.SIGSTOP)
        fars = [host.start(f"{ALICE}:echo never") for _ in range(30)]
        assert run(host, "daemon:true").exit_code == 125
        alice.process.kill()
        host.finish(*fars)
    # Nobody knows of those that were passed on; for the others there is no agent.
    assert {far.exit_code for far in fars} == {None, 125}


# The host's daemon.


@pytest.mark.usefixtures("alice")
def test_the_daemon_goes_and_comes_back(guest: Guest, witness: Witness) -> None:
    with guest.host() as host:
        far = started(host, witness, "cat")
        far.feed(b"before, ")
        host.attend(lambda: far.stdout == b"before, ")
        host.vanish()
        with guest.host(first_port=2000) as successor:
            assert run(successor, f"{ALICE}:echo well").stdout == b"well\n"
            far.feed(b"after")
            far.end()
            host.attend(lambda: far.is_closed)
            assert (far.stdout, far.exit_code) == (b"before, after", 0)
            assert witness.wait_end() == b"begun\n"
            run(successor, f"{ALICE}:true")
            assert not [m for m in successor._heard if isinstance(m, Terminated)]


@pytest.mark.usefixtures("alice")
def test_a_daemon_that_vanishes_at_any_byte(guest: Guest, witness: Witness) -> None:
    with Host(guest.vchan) as host:
        _, request = host.prepared(f"{ALICE}:echo begun > {witness.path}")
        said = pack(Hello()) + pack(request)
        for size in (0, 3, HELLO, HELLO + 5, len(said) - 1):
            with Host(guest.vchan) as other:
                other.connect_bare()
                other.wait_for(Hello)
                other.say_bytes(said[:size])
        host.connect()
        assert witness.told == b""
        host.say(request)
        host.wait_for(Terminated)
    assert witness.wait_end() == b"begun\n"


def test_a_daemon_that_breaks_the_protocol_is_let_go(guest: Guest) -> None:
    mark = guest.daemon.now()
    with guest.host() as host:
        host.say_bytes(pack(Hello()))
        host.wait_gone()
    guest.daemon.wait_line("daemon is let go: HELLO while", after=mark)
    with guest.host() as host:
        assert run(host, "daemon:true").exit_code == 125


def test_the_end_of_it_all_ends_the_commands(witness: Witness) -> None:
    with Guest() as guest, guest.user(ALICE), guest.host() as host:
        far = started(host, witness, "echo; trap '' TERM HUP; cat; sleep 1000")
        host.attend(lambda: far.stdout == b"\n")
        guest.daemon.signal(signal.SIGTERM)
        assert guest.daemon.wait_exit() == 0
        host.attend(lambda: far.is_closed and host.is_gone)
        assert witness.wait_end() == b"begun\n"
        assert not guest.calls.exists()


def test_a_folder_that_comes_later() -> None:
    with Guest(has_vchan=False) as guest:
        guest.daemon.wait_line("qrexec waits: .*No such file")
        guest.make_vchan()
        with guest.host() as host:
            assert run(host, "daemon:true").exit_code == 125


# Calls from inside.


SAID: Final = (
    Chunk(Stream.STDOUT, b"hi"), Chunk(Stream.STDERR, b"er"), Chunk(Stream.STDOUT, b""),
    Chunk(Stream.STDERR, b""), ExitCode(3),
)  # fmt: skip


def end_of(client: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Return exit status and output of a client, which has nothing more to say."""
    with client:
        try:
            stdout, stderr = client.communicate(timeout=20)
        finally:
            client.kill()
    return client.returncode, stdout, stderr


@pytest.mark.parametrize("version", [3, 4])
def test_a_user_calls_a_service(guest: Guest, version: int) -> None:
    with guest.host(version=version) as host:
        client = guest.client("test.Service+x")
        call = host.wait_for(Trigger)
        assert (call.service, call.target, call.source) == (b"test.Service+x", b"somewhere", b"")
        assert call.ident.startswith(b"SOCKET")
        far = host.grant(call)
        for message in SAID:
            far.say(message)
        host.finish(far)
        assert end_of(client) == (3, b"hi", b"er")
        guest.daemon.wait_line(rf"{ALICE} -> host: qrexec test.Service\+x, .*: passed on")


def test_a_call_is_refused_by_the_host(guest: Guest, host: Host) -> None:
    client = guest.client("test.Service")
    host.refuse(host.wait_for(Trigger))
    assert end_of(client) == (126, b"", b"Request refused\n")


def test_a_call_is_refused_by_the_policy(guest: Guest, host: Host) -> None:
    mark = guest.daemon.now()
    assert end_of(guest.client("test.NotForYou+x"))[0] == 126
    line = rf"{ALICE} -> host: qrexec test.NotForYou\+x, .*: refused by the policy"
    guest.daemon.wait_line(line, after=mark)
    assert not [m for m in host._heard if isinstance(m, Trigger)]


@needs_two_users
def test_only_root_calls_for_another_domain(guest: Guest, host: Host) -> None:
    mark = guest.daemon.now()
    assert end_of(guest.client("test.Service", "--source-qube", "domX"))[0] == 126
    guest.daemon.wait_line("only root may call in another domain's name", after=mark)
    client = guest.client("test.Service", "--source-qube", "domX", user="root")
    call = host.wait_for(Trigger)
    assert call.source == b"domX"
    host.refuse(call)
    assert end_of(client)[0] == 126


def test_two_callers_get_their_own_answers(guest: Guest, host: Host) -> None:
    clients = {name: guest.client(name) for name in ("test.One", "test.Two")}
    calls = {call.service.decode(): call for call in (host.wait_for(Trigger) for _ in clients)}
    host.refuse(calls["test.One"])
    far = host.grant(calls["test.Two"])
    for message in SAID:
        far.say(message)
    host.finish(far)
    assert [end_of(clients[name])[0] for name in ("test.One", "test.Two")] == [126, 3]


def test_a_caller_that_has_gone_is_told(guest: Guest, host: Host) -> None:
    client = guest.client("test.Service")
    call = host.wait_for(Trigger)
    client.kill()
    end_of(client)
    host.say(Connect(Place(DOMAIN, 9999), call.ident))
    assert host.wait_for(Terminated).place == Place(DOMAIN, 9999)
    host.refuse(call)  # which nobody waits for


def test_callers_are_refused_when_the_daemon_goes(guest: Guest) -> None:
    with guest.host() as host:
        client = guest.client("test.Service")
        host.wait_for(Trigger)
        host.vanish()
        assert end_of(client)[0] == 126
    guest.daemon.wait_line("the qrexec daemon has gone")


def test_strangers_at_the_callers_socket_hold_up_nobody(guest: Guest, host: Host) -> None:
    call = pack(Trigger(b"test.Service", b"somewhere", LOCAL_IDENT))
    socks = [socket.socket(socket.AF_UNIX) for _ in range(5)]
    for sock in socks:
        sock.connect(str(guest.calls))
    silent, half, wrong, passing, late = socks
    half.sendall(call[:-5])
    wrong.sendall(pack(Hello()))
    with contextlib.suppress(PermissionError):  # of a kernel that refuses them itself
        socket.send_fds(passing, [call], [half.fileno()])
        assert passing.recv(1) == b""
    late.sendall(call)
    heard = host.wait_for(Trigger)
    late.sendall(b"and more")
    for sock in (wrong, late):
        assert sock.recv(1) == b""
    host.say(Connect(Place(DOMAIN, 9998), heard.ident))
    assert host.wait_for(Terminated).place == Place(DOMAIN, 9998)
    client = guest.client("test.Service")
    host.refuse(host.wait_for(Trigger))
    assert end_of(client)[0] == 126
    for sock in (silent, half):
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
    for sock in socks:
        sock.close()
