"""Nothing moves, nothing is spent: a process that waits is not woken, whatever it waits for.

A loop that turns in vain would be seen, too: the kernel counts what a process runs.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.agent.qrexec.peer import STDERR, STDIN, STDOUT, TIMEOUT
from tests.agent.qrexec.services import ME, service, shell
from tests.fixtures.processes import family
from tests.fixtures.qrexec import Agent, Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.agent.qrexec.peer import Forker, Peer, Running
    from tests.agent.qrexec.services import Services


def runs(pids: list[int]) -> list[list[str]]:
    """Return how long and how often each of the processes has run so far (proc(5), schedstat)."""
    texts = [Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii") for pid in pids]
    return [[text.split()[0], text.split()[2]] for text in texts]


def assert_idle(pids: list[int], wait: Callable[[], object]) -> None:
    """Check that the processes come to rest, and then do not run during two of WAIT's."""
    before = runs(pids)
    for _ in range(50):
        wait()
        after = runs(pids)
        if after == before:
            break
        before = after
    wait()
    wait()
    assert runs(pids) == before


def clock(forker: Forker) -> Callable[[], object]:
    """Return what waits for some time, by a command that has nothing to do with those before."""
    return lambda: forker.start(shell("sleep 0.15")).peer.greet().result()


def process_of(running: Running) -> tuple[Peer, int]:
    """Return the peer of a command that tells its process's id first, and that."""
    peer = running.peer.greet()
    kind, body = peer.receive()
    assert kind == STDOUT
    return peer, int(body.partition(b"\n")[0])  # what follows may come along


TELL = "echo $QREXEC_AGENT_PID;"


@pytest.mark.parametrize(
    "command",
    [
        "read x",
        "exec >&-; read x",
        "exec 2>&-; read x",
        "exec >&- 2>&-; read x",
        "exec <&-; sleep 1000",
        "exec <&- >&- 2>&-; sleep 1000",
        "kill -USR1 $QREXEC_AGENT_PID; read x",
        "kill -USR1 $QREXEC_AGENT_PID; exec >&-; sleep 1000",
        "sleep 1000 & exit",
        "sleep 1000 </dev/null >/dev/null 2>&1 & exec sleep 1000",
        "kill -STOP $$",
        "yes",
    ],
)
def test_command_that_says_nothing(forker: Forker, command: str) -> None:
    """Or that nobody hears: as ``yes``, whose peer does not read."""
    _, pid = process_of(forker.start(shell(TELL + command)))
    assert_idle([pid], clock(forker))


def test_input_that_is_not_read(forker: Forker) -> None:
    peer, pid = process_of(forker.start(shell(TELL + "sleep 1000")))
    peer.fill()
    assert_idle([pid], clock(forker))
    peer.close()  # its sender has gone, and it is still not read
    assert_idle([pid], clock(forker))


def test_input_that_has_ended(forker: Forker) -> None:
    peer, pid = process_of(forker.start(shell(TELL + "cat; sleep 1000")))
    peer.send(STDIN)
    assert_idle([pid], clock(forker))


def test_neither_side_reads(forker: Forker) -> None:
    peer, pid = process_of(forker.start(shell(TELL + "yes")))
    peer.fill()
    assert_idle([pid], clock(forker))


def test_peer_has_gone_and_the_program_has_not(forker: Forker) -> None:
    running = forker.start(shell(TELL + "trap '' PIPE; sleep 1000"))
    peer, pid = process_of(running)
    peer.close()
    running.wait_closed()
    assert_idle([pid], clock(forker))


def test_service_that_says_no_more(forker: Forker, services: Services) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(services.second / "test.Idle"))
        listener.listen(1)
        listener.settimeout(TIMEOUT)
        before = set(family(forker.pid))
        peer = forker.start(service("test.Idle domX")).peer.greet()
        sock, _ = listener.accept()
        [pid] = set(family(forker.pid)) - before
        with sock:
            assert_idle([pid], clock(forker))
            sock.shutdown(socket.SHUT_WR)
            assert [peer.receive(), peer.receive()] == [(STDERR, b""), (STDOUT, b"")]
            assert_idle([pid], clock(forker))
            peer.fill()
            assert_idle([pid], clock(forker))


def test_waiting_for_a_session(forker: Forker, services: Services) -> None:
    services.script("qubes.WaitForSession", "exec sleep 1000")
    services.script("test.Waits", "")
    services.configure("test.Waits", "wait-for-session = 1\n")
    before = set(family(forker.pid))
    peer = forker.start(service("test.Waits domX")).peer.greet()
    peer.send(STDIN, b"early")
    pid = min(set(family(forker.pid)) - before)
    assert_idle([pid], clock(forker))
    peer.send(STDIN, b"more")
    assert_idle([pid], clock(forker))
    services.script("qubes.WaitForSession", "").unlink()


@contextmanager
def running_agent(directory: Path, *options: str) -> Iterator[tuple[Agent, Host]]:
    with Agent(directory, *options) as agent, Host(directory) as host:
        host.connect()
        host.finish(host.start(f"{ME}:true"))
        yield agent, host


@pytest.mark.parametrize("options", [(), ("--no-fork-server",)])
def test_agent(tmp_path: Path, options: tuple[str, ...]) -> None:
    """With a silent caller, and one that waits; and all its processes with a command, too."""
    with running_agent(tmp_path, *options) as (agent, host), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(agent.socket))
        sock.sendall(b"\x13")
        far = host.start(f"{ME}:echo begun; cat")
        host.attend(lambda: bool(far.stdout))

        # The clock is a command of somebody else's, so to say: nothing of the agent's.
        def wait() -> None:
            with pytest.raises(TimeoutError):
                host.attend(lambda: False, timeout=0.15)

        assert_idle(family(agent.pid), wait)
        host.vanish()
        assert_idle(family(agent.pid), wait)


@pytest.mark.parametrize("options", [(), ("--no-fork-server",)])
def test_agent_without_a_daemon(tmp_path: Path, options: tuple[str, ...]) -> None:
    with Agent(tmp_path, *options) as agent, Host(tmp_path) as nobody:
        agent.wait_line("waiting for a daemon")

        def wait() -> None:
            with pytest.raises(TimeoutError):
                nobody.attend(lambda: False, timeout=0.15)

        assert_idle(family(agent.pid), wait)
