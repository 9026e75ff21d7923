"""A session is shown whose X server is not on its VT: client and status say so."""

from __future__ import annotations

import pytest

from tests.daemon.scene import ALICE, SIZE, Scene, wait_number
from tests.daemon.world import assert_connected, wait_words
from tests.fixtures.spice import SpiceProbe

pytestmark = pytest.mark.e2e

AWAY = "Nothing can be captured now: the X server is not on the active virtual terminal."


def test_why_nothing_can_be_captured_is_shown_and_told() -> None:
    with Scene() as scene:
        scene.screens[ALICE].has_vt(0)
        scene.add_alice()
        probes = list[SpiceProbe]()
        for _ in range(2):  # a second client reads it, too
            probes.append(scene.watch())
            wait_words(probes[-1], AWAY, SIZE)
            told = [scene.daemon.property(name) for name in ("State", "Reason", "ReasonText")]
            assert told == ["streaming", "ok", f"Session 1 is shown. {AWAY}"]
        scene.screens[ALICE].has_vt(1)
        for probe in probes:
            wait_number(probe, ALICE)
            assert_connected(probe)
        assert scene.daemon.property("ReasonText") == "Session 1 is shown."
