"""A seat with the daemon on it, as in the daemon's tests but without debug messages."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.bench.plan import Plan
from tests.bench.usage import family
from tests.fixtures.bus import PrivateBus
from tests.fixtures.child import Child
from tests.fixtures.daemon import Login1Process


class QuietDaemon(Child):
    """``python -m sessiond`` with its default log, which tells no single message.

    MORE are settings beside those that all have.
    """

    def __init__(self, bus: PrivateBus, port: Path, plan: Plan, *more: str) -> None:
        self.agent_socket = port.parent / "agent.sock"
        self.host_channel = port.parent / "host.sock"
        settings = (
            f'bus.address="{bus.address}"',
            f'stream.port="{port}"',
            f"stream.agent={json.dumps(plan.agent)}",
            f'stream.codec_options=["framerate={plan.fps:g}"]',
            # What else goes on on this machine is not to wake it: X servers that start and end,
            # graphics cards, and the VTs, where the stand-in login1 has none.
            f'displays.sockets="{port.parent}"',
            f'capture.cards="{port.parent}"',
            'vt.active="/dev/null"',
            f'helper.socket="@spice-bench-{os.getpid()}"',
            f'users.socket="{self.agent_socket}"',
            "users.allow_root=true",
            f'host_channel="unix:{self.host_channel}"',
            *more,
        )
        args = [part for setting in settings for part in ("--set", setting)]
        super().__init__([sys.executable, "-m", "sessiond", *args])


class Seat:
    """A daemon and its login1; sessions are its own user's."""

    def __init__(self, daemon: QuietDaemon, login1: Login1Process, address: str) -> None:
        self.daemon = daemon
        self.login1 = login1
        self.address = address

    def add(self, name: str, display: str, *, vt: int, front: bool) -> None:
        """Log in."""
        self.login1.do("add_session", **new_session(name, display, vt), front=front)

    def agents(self) -> list[int]:
        """Return the agents' pids."""
        return [pid for pid in family(self.daemon.pid) if pid != self.daemon.pid]


def new_session(name: str, display: str, vt: int) -> dict[str, object]:
    """Return what the stand-in's ``add_session`` wants to know."""
    me = {"uid": os.getuid(), "gid": os.getgid(), "user": "bench"}
    return {"id": name, "display": display, "vt": vt, **me}


@contextlib.contextmanager
def seat(port: Path, plan: Plan, *more: str) -> Iterator[Seat]:
    """Start a daemon that has PORT open; MORE are settings."""
    with (
        PrivateBus() as bus,
        Login1Process(bus) as login1,
        QuietDaemon(bus, port, plan, *more) as daemon,
    ):
        daemon.wait_line("is open")
        yield Seat(daemon, login1, bus.address)
