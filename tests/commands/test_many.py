"""Very many commands at once, and what is left of them."""

import getpass
import os
import signal
from pathlib import Path

import pytest

from sessiond.wire.exec import Stream
from tests.fixtures.processes import family
from tests.fixtures.qrexec import Agent, Host, vanish_all
from tests.fixtures.witness import Witness

USER = getpass.getuser()
COUNT = 200

options = pytest.mark.parametrize(
    "options", [(), ("--no-fork-server",)], ids=["fork server", "none"]
)


def holdings(agent: Agent) -> tuple[int, int]:
    """Return how many descriptors AGENT has, and how many processes it and its children have."""
    return len(os.listdir(f"/proc/{agent.pid}/fd")), len(family(agent.pid))


def settle(host: Host, agent: Agent, most: tuple[int, int]) -> None:
    """Wait until AGENT holds no more than that: a command's process outlives its channel a little.

    Others are run meanwhile: what is left behind by those before them does not go away.
    """
    for _ in range(1000):
        if all(map(int.__le__, holdings(agent), most)):
            return
        host.finish(host.start(f"{USER}:true"))
    raise AssertionError(f"{holdings(agent)} instead of {most}")


@options
def test_200_commands_at_once(tmp_path: Path, options: tuple[str, ...]) -> None:
    with Agent(tmp_path, *options) as agent, Host(tmp_path) as host:
        host.connect()
        host.finish(host.start(f"{USER}:true"))
        before = holdings(agent)
        fars = [host.start(f"{USER}:read x; echo $x; cat; exit {n}") for n in range(COUNT)]
        for n, far in enumerate(fars):
            far.feed(b"%d\n" % n)
        # Nobody ends before the last one has begun.
        host.attend(lambda: all(far.stdout for far in fars), timeout=60)
        rest = {far: os.urandom(n * 500) for n, far in enumerate(fars)}
        for far in fars:
            far.feed(rest[far], chunk=1000)
            far.end()
        host.finish(*fars)
        for n, far in enumerate(fars):
            assert far.stdout == b"%d\n" % n + rest[far]
            assert far.ended == {Stream.STDOUT, Stream.STDERR}
            assert far.exit_code == n
            assert not far.is_reset
        far = host.start(f"{USER}:echo well")
        host.finish(far)
        assert far.stdout == b"well\n"
        settle(host, agent, before)


@options
def test_200_clients_that_vanish_at_once(tmp_path: Path, options: tuple[str, ...]) -> None:
    with (
        Agent(tmp_path, *options) as agent,
        Host(tmp_path) as host,
        Witness(tmp_path / "f") as all_,
    ):
        host.connect()
        host.finish(host.start(f"{USER}:true"))
        before = holdings(agent)
        fars = [host.start(f"{USER}:exec 9>{all_.path}; echo; cat") for _ in range(COUNT)]
        host.attend(lambda: all(far.stdout for far in fars), timeout=60)
        vanish_all(fars)
        host.wait_terminated(*fars)
        assert all_.wait_end() == b""
        settle(host, agent, before)


@options
def test_agent_that_is_ended_leaves_none_of_200(tmp_path: Path, options: tuple[str, ...]) -> None:
    with (
        Witness(tmp_path / "f") as all_,
        Agent(tmp_path, *options) as agent,
        Host(tmp_path) as host,
    ):
        host.connect()
        sleeper = f"{USER}:exec 9>{all_.path}; echo; trap '' TERM HUP PIPE; sleep 1000"
        fars = [host.start(sleeper) for _ in range(COUNT)]
        host.attend(lambda: all(far.stdout for far in fars), timeout=60)
        agent.signal(signal.SIGTERM)
        assert agent.wait_exit(20) == 0
        assert all_.wait_end() == b""
