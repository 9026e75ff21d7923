"""Nothing moves, nothing is spent: neither by the daemon nor by the agent."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.stream.pacing import LONGEST_REST
from tests.daemon.scene import ALICE, BOB, Scene, wait_number
from tests.fixtures.processes import EventTimeoutError

pytestmark = pytest.mark.e2e

STATIC = 5.0  # seconds
SETTLED = LONGEST_REST + 1  # seconds without an update: no picture is sent again


def test_a_static_screen_wakes_nobody(tmp_path: Path) -> None:
    # In the common folder other tests' X servers come and go.
    with Scene([f'displays.sockets="{tmp_path}"']) as scene:
        scene.add_alice()
        probe = scene.watch()
        wait_number(probe, ALICE)
        pid = scene.daemon.property("AgentPID")
        probe.wait_silence("invalidate", SETTLED)
        before = switches(scene.daemon.pid), switches(pid)
        with pytest.raises(EventTimeoutError):
            probe.wait_for("invalidate", STATIC, after=probe.now())
        assert (switches(scene.daemon.pid), switches(pid)) == before


def test_what_is_drawn_unseen_wakes_nobody(tmp_path: Path) -> None:
    with Scene([f'displays.sockets="{tmp_path}"']) as scene:
        scene.add_alice()
        probe = scene.watch()
        wait_number(probe, ALICE)
        pid = scene.daemon.property("AgentPID")
        mark = scene.daemon.now()
        scene.add_bob()
        wait_number(probe, BOB)
        scene.daemon.wait_line("agent .* of session 1 is kept", after=mark)
        probe.wait_silence("invalidate", SETTLED)
        before = switches(scene.daemon.pid), switches(pid)
        for number in range(100, 150):
            scene.screens[ALICE].show_number(number)
        with pytest.raises(EventTimeoutError):
            probe.wait_for("invalidate", 1.0, after=probe.now())
        assert (switches(scene.daemon.pid), switches(pid)) == before


def switches(pid: int) -> int:
    """Return how often the threads of a process have gone to sleep so far."""
    return sum(
        int(line.split()[1])
        for task in Path(f"/proc/{pid}/task").iterdir()
        for line in (task / "status").read_text(encoding="ascii").splitlines()
        if line.startswith("voluntary_ctxt_switches:")
    )
