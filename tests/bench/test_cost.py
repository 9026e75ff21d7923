"""A frame's cost out of slices: what drawing costs is taken off, rounds are compared as rounds."""

import pytest

from tests.bench.cost import cost, drawing_ms, ratio
from tests.bench.stage import Slice


def taken(client_ms: float, server_ms: float, *, frames: int = 10, drawn: int = 10) -> Slice:
    return Slice(1.0, drawn, frames, 1000, client_ms, server_ms, 2 * frames)


def test_what_drawing_costs_is_not_the_programs() -> None:
    alone = [Slice(1.0, 20, 0, 0, 0.0, each, 0) for each in (40.0, 20.0, 400.0)]
    assert drawing_ms(alone) == 2.0
    found = cost([taken(3.0, server_ms=50.0, frames=10, drawn=20)], drawing=2.0)
    assert (found.program, found.server, found.total) == (3.0, 1.0, 4.0)
    assert (found.fps, found.wakeups) == (10, 2)


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    ours = [taken(each, server_ms=10 * each) for each in (1.0, 2.0, 8.0)]
    theirs = [taken(2 * each, server_ms=20 * each) for each in (1.0, 2.0, 8.0)]
    assert ratio(ours, theirs, drawing=0.0) == pytest.approx(0.5)
    assert ratio(ours, ours, drawing=0.5) == 1.0
