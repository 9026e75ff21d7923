"""A user's agent that is told to end: what a host has started ends with it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from agent.user.commands import GRACE
from tests.agent.user.daemon import Daemon, environment, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.child import Child


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def agent(daemon: Daemon, tmp_path: Path) -> Iterator[Child]:
    with start(daemon, environment(tmp_path)) as agent:
        yield agent


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_ends_with_its_commands(daemon: Daemon, agent: Child, number: signal.Signals) -> None:
    with daemon.accept() as connection:
        obedient = connection.call("guest-exec", path="sleep", arg=["1000"])["pid"]
        stubborn = connection.call(
            "guest-exec", path="sh", arg=["-c", "trap '' TERM; echo; sleep 1000"],
            capture_output=True,
        )["pid"]  # fmt: skip
        commands = [os.pidfd_open(pid) for pid in (obedient, stubborn)]
        agent.signal(number)
        assert agent.wait_exit(GRACE + 10) == 0
        for pidfd in commands:
            with pytest.raises(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
    assert not any("Traceback" in line for line in agent.lines)
