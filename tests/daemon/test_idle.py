"""Nothing moves, nothing is spent: neither by the daemon nor by the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.stream.pacing import LONGEST_REST
from tests.daemon.scene import ALICE, BOB, Scene, wait_number
from tests.fixtures.processes import EventTimeoutError, context_switches

if TYPE_CHECKING:
    from pathlib import Path

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
        before = context_switches(scene.daemon.pid), context_switches(pid)
        with pytest.raises(EventTimeoutError):
            probe.wait_for("invalidate", STATIC, after=probe.now())
        assert (context_switches(scene.daemon.pid), context_switches(pid)) == before


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
        before = context_switches(scene.daemon.pid), context_switches(pid)
        for number in range(100, 150):
            scene.screens[ALICE].show_number(number)
        with pytest.raises(EventTimeoutError):
            probe.wait_for("invalidate", 1.0, after=probe.now())
        assert (context_switches(scene.daemon.pid), context_switches(pid)) == before
