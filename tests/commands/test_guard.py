"""An end that nobody has asked for: an agent that is killed, and a process that is stopped."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.commands.ordering import Orders, holdings, wait_count, wait_process
from tests.commands.test_runs import SHELLS, USER
from tests.fixtures.processes import family
from tests.fixtures.qrexec import Agent as QrexecAgent
from tests.fixtures.qrexec import Host
from tests.fixtures.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.agent.user.daemon import Daemon
    from tests.fixtures.child import Child

STOP = "kill -STOP $QREXEC_AGENT_PID; echo $QREXEC_AGENT_PID >&9; sleep 1000"


@contextmanager
def going_on_at_last(witness: Witness) -> Iterator[None]:
    """Leave no process stopped that has told us its id."""
    pid = int(witness.told)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_a_killed_agent_is_the_end_of_its_programs(
    orders: Orders, agent: Child, nothing: int, tmp_path: Path
) -> None:
    with Witness(tmp_path / "fifo") as witness:
        for shell in SHELLS.values():
            orders.run([nothing] * 3, "sh", "-c", f"exec 9>{witness.path}; {shell}")
        wait_count(witness, b"\n", len(SHELLS))
        pidfds = [os.pidfd_open(pid) for pid in family(agent.pid)[1:3]]
        agent.process.kill()
        witness.wait_end()
        for pidfd in pidfds:  # keeper and fork server have ended, too
            wait_process(pidfd)
            os.close(pidfd)


def test_what_an_ended_program_has_left_behind_goes_on(
    orders: Orders, agent: Child, nothing: int, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Witness(tmp_path / "fifo") as witness:
        code = f"(exec 9>{witness.path}; echo >&9; read x <{gate}; echo still >&9) &"
        number, _ = orders.run([nothing] * 3, "sh", "-c", code)
        witness.wait_told(b"\n")
        assert orders.ending(number) == (0, 0)
        pidfds = [os.pidfd_open(pid) for pid in family(agent.pid)[1:3]]
        agent.process.kill()
        for pidfd in pidfds:
            wait_process(pidfd)
            os.close(pidfd)
        gate.write_bytes(b"\n")
        witness.wait_told(b"still\n")


def test_nothing_is_kept_of_those_that_have_ended(
    orders: Orders, agent: Child, nothing: int
) -> None:
    orders.output("true")
    [_keeper, server] = family(agent.pid)[1:]
    before = len(os.listdir(f"/proc/{server}/fd"))
    for _ in range(20):
        number, _ = orders.run([nothing] * 3, "true")
        orders.ending(number)
    # It hears of one after the other: of the last ones it may not have heard yet.
    assert len(os.listdir(f"/proc/{server}/fd")) < before + 10
    assert holdings(agent.pid)[1] == 2


@pytest.mark.parametrize("options", [(), ("--no-fork-server",)])
def test_an_agent_ends_with_a_process_that_its_command_has_stopped(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    with (
        Witness(tmp_path / "fifo") as witness,
        QrexecAgent(tmp_path, *options) as agent,
        Host(tmp_path) as host,
    ):
        host.connect()
        host.start(f"{USER}:exec 9>{witness.path}; {STOP}")
        host.attend(lambda: b"\n" in witness.told, also=witness)
        with going_on_at_last(witness):
            agent.signal(signal.SIGTERM)
            witness.wait_end()
        assert agent.wait_exit() == 0


def test_a_process_that_its_command_has_stopped_is_told_to_end(
    daemon: Daemon, agent: Child, tmp_path: Path
) -> None:
    with Witness(tmp_path / "fifo") as witness, daemon.accept() as connection:
        _, peer = Orders(connection).serve(f"{USER}:exec 9>{witness.path}; {STOP}")
        with peer:
            peer.greet()
            witness.wait_told(b"\n")
            with going_on_at_last(witness):
                connection.sock.close()
                witness.wait_end()
    assert agent.process.poll() is None
