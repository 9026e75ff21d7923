"""Commands of other domains, which the daemon hands over to a whole agent."""

import getpass
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from agent.user.running import GRACE
from sessiond.errors import CommandError
from tests.agent.qrexec.peer import STDIN, STDOUT, Gone, Peer
from tests.agent.user.daemon import Daemon
from tests.commands.ordering import Orders, holdings, null, pipe, settle, wait_count, wait_process
from tests.fixtures.child import Child
from tests.fixtures.processes import family
from tests.fixtures.witness import Witness

USER = getpass.getuser()
COUNT = 200


def served(orders: Orders, command: str) -> tuple[tuple[bytes, bytes, int], tuple[int, int]]:
    """Return a command's outputs and code as its peer has them, and how it ended, told to us."""
    number, peer = orders.serve(f"{USER}:{command}")
    with peer:
        peer.greet()
        peer.send(STDIN)
        return peer.result(), orders.ending(number)


def test_a_whole_command(orders: Orders, agent: Child) -> None:
    """Its channel is its own process's alone, which the agent is told of."""
    number, peer = orders.serve(f"{USER}:echo $QREXEC_AGENT_PID; cat; echo e >&2; exit 3")
    with peer:
        peer.greet()
        kind, body = peer.receive()
        assert kind == STDOUT
        assert int(body) in family(agent.pid)
        data = os.urandom(1 << 20)
        peer.feed(data)
        assert peer.result() == (data, b"e\n", 3)
    assert orders.ending(number) == (3, 0)


def test_its_pid_is_that_of_who_has_the_channel(orders: Orders) -> None:
    ours, its = socket.socketpair()
    with its, Peer(ours) as peer:
        number, answer = orders.try_serve(its.fileno(), f"{USER}:echo $QREXEC_AGENT_PID")
        its.close()
        peer.greet()
        assert peer.result() == (b"%d\n" % answer["pid"], b"", 0)
        assert orders.ending(number) == (0, 0)


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 255", 255), ("kill -9 $$", 137), ("QUBESRPC no.Such domX", 127), ("QUBESRPC", 127)],
)
def test_how_it_ends(orders: Orders, command: str, code: int) -> None:
    (_, _, told), ending = served(orders, command)
    assert told == code
    assert ending == (code, 0)


def test_of_another_user(orders: Orders) -> None:
    """The agent is one user's, and says so on the channel; as root it could be anybody."""
    number, peer = orders.serve("no-such-user:true")
    with peer:
        assert peer.greet().result() == (b"", b"", 125)
    assert orders.ending(number) == (125, 0)


def test_a_detached_one(orders: Orders, tmp_path: Path) -> None:
    with Witness(tmp_path / "fifo") as witness:
        number, peer = orders.serve(
            f"{USER}:exec 9>{witness.path}; echo >&9; sleep 1000", detached=True
        )
        with peer:
            peer.greet()
            assert [code for _, code in peer.receive_all()] == [b"\0\0\0\0"]
        assert orders.ending(number) == (0, 0)
        witness.wait_told(b"\n")
        orders.connection.sock.close()
        os.kill(_writer(witness.path), signal.SIGKILL)


def _writer(path: Path) -> int:
    """Return the pid of a process that writes to a FIFO."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):  # gone, or one that shows nobody what it has open
            if os.readlink(f"/proc/{pid}/fd/9") == str(path):
                return int(pid)
    raise AssertionError(path)


def test_a_peer_that_vanishes(orders: Orders, tmp_path: Path) -> None:
    with Witness(tmp_path / "fifo") as witness:
        number, peer = orders.serve(f"{USER}:exec 9>{witness.path}; echo >&9; cat >&9")
        peer.greet()
        witness.wait_told(b"\n")
        peer.close()
        witness.wait_end()
        assert orders.ending(number) == (255, 0)


def test_it_is_ended_by_any_signal_that_ends(orders: Orders, tmp_path: Path) -> None:
    for what in (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        with Witness(tmp_path / "fifo") as witness:
            stubborn = f"exec 9>{witness.path}; trap '' TERM HUP; echo >&9; sleep 1000; sleep 1000"
            number, peer = orders.serve(f"{USER}:{stubborn}")
            with peer:
                peer.greet()
                witness.wait_told(b"\n")
                with pytest.raises(CommandError, match="signal 10 is for programs"):
                    orders.signal(number, signal.SIGUSR1)
                orders.signal(number, what)
                witness.wait_end()
                with pytest.raises(Gone):
                    peer.receive()
            assert orders.ending(number) == (255, 0)


@pytest.mark.parametrize("is_lost", [True, False], ids=["connection lost", "agent ended"])
def test_the_end_of_everything(
    daemon: Daemon, agent: Child, tmp_path: Path, *, is_lost: bool
) -> None:
    """Of those, too, that have left their process group, or whose channel is closed already."""
    with Witness(tmp_path / "fifo") as witness, daemon.accept() as connection:
        orders = Orders(connection)
        code = f'exec 9>{witness.path}; trap "" TERM HUP PIPE; echo >&9; sleep 1000; sleep 1000'
        _, first = orders.serve(f"{USER}:{code}")
        _, second = orders.serve(f"{USER}:setsid sh -c '{code}'")
        with first.greet(), second.greet():
            wait_count(witness, b"\n", 2)
            second.close()
            if is_lost:
                connection.sock.close()
            else:
                agent.signal(signal.SIGTERM)
                assert agent.wait_exit(GRACE + 10) == 0
            witness.wait_end()
    assert not any("Traceback" in line for line in agent.lines)


def test_an_agent_that_is_killed(daemon: Daemon, agent: Child, tmp_path: Path) -> None:
    with Witness(tmp_path / "fifo") as witness, daemon.accept() as connection:
        _, peer = Orders(connection).serve(
            f"{USER}:exec 9>{witness.path}; trap '' TERM HUP; echo >&9; sleep 1000"
        )
        with peer:
            peer.greet()
            witness.wait_told(b"\n")
            servers = family(agent.pid)[1:]
            pidfds = [os.pidfd_open(pid) for pid in servers]
            agent.process.kill()
            witness.wait_end()
            for pidfd in pidfds:  # the fork server is no longer, either
                wait_process(pidfd)
                os.close(pidfd)


# The fork server.


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_fork_server_that_dies_comes_again(
    orders: Orders, agent: Child, number: signal.Signals
) -> None:
    """What it had started goes on meanwhile."""
    running, peer = orders.serve(f"{USER}:cat; exit 4")
    with peer:
        peer.greet()
        keeper, server, *_ = family(agent.pid)[1:]
        os.kill(server, number)
        (output, _, code), _ = served(orders, "echo again")
        assert (output, code) == (b"again\n", 0)
        assert server not in family(agent.pid)
        assert keeper in family(agent.pid)
        agent.wait_line("the fork server has died")
        peer.send(STDIN, b"still here")
        peer.send(STDIN)
        assert peer.result() == (b"still here", b"", 4)
    assert orders.ending(running) == (4, 0)


def test_a_fork_server_whose_keeper_dies_goes_on(orders: Orders, agent: Child) -> None:
    keeper, server, *_ = family(agent.pid)[1:]
    os.kill(keeper, signal.SIGKILL)
    (output, _, code), _ = served(orders, "echo still")
    assert (output, code) == (b"still\n", 0)
    assert Path(f"/proc/{server}").exists()


def test_signals_that_end_groups_leave_it_alone(orders: Orders, agent: Child) -> None:
    """The agent hears them as well, and has the last word."""
    for pid in family(agent.pid)[1:]:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
    (output, _, code), _ = served(orders, "echo still")
    assert (output, code) == (b"still\n", 0)


def test_a_fork_server_that_is_stopped_holds_up_no_end(orders: Orders, agent: Child) -> None:
    assert orders.call("guest-ping") == {}
    server = family(agent.pid)[2]
    os.kill(server, signal.SIGSTOP)
    try:
        pidfd = os.pidfd_open(agent.pid)
        agent.signal(signal.SIGTERM)
        wait_process(pidfd)
        os.close(pidfd)
    finally:
        os.kill(server, signal.SIGCONT)  # and then it ends, too
    assert agent.wait_exit() == 0


# What is no command.


def test_what_is_no_channel(orders: Orders) -> None:
    with null() as nothing, pipe() as (_, writer):
        for fd in (nothing, writer):
            _, answer = orders.try_serve(fd, f"{USER}:true")
            assert answer["error-code"] == 125
            assert "cannot serve it" in answer["text"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"command_line": "$$"}, "the command line is not base64"),
        ({"command_line": "YQBi"}, "a command line with a NUL, or too long"),
        ({"command_line": "YWFh" * 21846}, "a command line with a NUL, or too long"),
        ({"domain": -1}, "a domain or a port of no domain's"),
        ({"port": 1 << 32}, "a domain or a port of no domain's"),
        ({"detached": 1}, "Invalid parameter type for 'detached', expected: boolean"),
    ],
)
def test_calls_that_are_wrong(orders: Orders, arguments: dict[str, object], text: str) -> None:
    call: dict[str, object] = {
        "id": 1, "domain": 43, "port": 1024, "command_line": "YTpi", "detached": False,
    }  # fmt: skip
    ours, its = socket.socketpair()
    with ours, its, pytest.raises(CommandError) as caught:
        orders.call("serve-command", [its.fileno()], **call | arguments)
    assert text in str(caught.value)


# Many.


def test_200_at_once(orders: Orders, agent: Child) -> None:
    assert orders.call("guest-ping") == {}
    before = holdings(agent.pid)
    peers = [orders.serve(f"{USER}:read x; echo $x; exit $((x % 7))") for _ in range(COUNT)]
    for at, (_, peer) in enumerate(peers):
        peer.greet()
        peer.send(STDIN, b"%d\n" % at)
    for at, (number, peer) in enumerate(peers):
        with peer:
            assert peer.result() == (b"%d\n" % at, b"", at % 7)
        assert orders.ending(number) == (at % 7, 0)
    settle(orders, agent.pid, before)


def test_200_that_lose_their_connection(daemon: Daemon, agent: Child, tmp_path: Path) -> None:
    with daemon.accept() as connection:
        assert connection.call("guest-ping") == {}
        before = holdings(agent.pid)
    with Witness(tmp_path / "fifo") as witness:
        with daemon.accept() as connection:
            orders = Orders(connection)
            code = f"exec 9>{witness.path}; echo >&9; sleep 1000"
            peers = [orders.serve(f"{USER}:{code}")[1] for _ in range(COUNT)]
            for peer in peers:
                peer.greet()
            wait_count(witness, b"\n", COUNT)
        witness.wait_end()
        for peer in peers:
            peer.close()
    with daemon.accept() as connection:
        settle(Orders(connection), agent.pid, before)
