"""Terminals are held against their goals, and measured as they are."""

import dataclasses
import sys

import pytest

from tests.bench.goals import goals
from tests.bench.plan import SHORT
from tests.bench.processes import BenchError
from tests.bench.ptys import KEYS, Means, PtysResult, Turn, Way, turn
from tests.bench.results import Results
from tests.bench.terminals import TerminalsResult, run_terminals
from tests.bench.usage import Memory

pytestmark = pytest.mark.parts

SIZE = (1920, 1080)
GOOD = TerminalsResult(
    handovers=[1, 200, 999],
    starts=[1, 60, 999],
    held=Memory(12, 8.0, 9),
    rest_seconds=60,
    idle=0,
)
PLAN = dataclasses.replace(SHORT, call_rounds=1, command_starts=1, rest_seconds=0, pty_mb=0.5)
PTY = (sys.executable, "-m", "agent", "pty", "--", "sh", "-c")


def ptys(ours: list[float], ssh: list[float]) -> PtysResult:
    """Return what was measured, in seconds of each round."""
    turns = {
        name: [Turn([one, one, 9 * one], [one, one, 9 * one], one, one) for one in seconds]
        for name, seconds in (("exec", ours), ("ssh", ssh))
    }
    return PtysResult({name: Way.of(each, 100) for name, each in turns.items()}, turns)


def test_hand_over_and_listener_are_held_against_their_goals() -> None:
    bad = TerminalsResult([201, 201], [1, 61, 61], Memory(8, 8.1, 8), rest_seconds=60, idle=1)
    for found, met in ((GOOD, True), (bad, False)):
        rows = goals(Results(terminals=found), SIZE)
        assert [row.met for row in rows if row.met is not None] == [met] * 4
        assert [row.name for row in rows] == [row.name for row in goals(Results(), SIZE)]


def test_terminals_are_held_against_ssh() -> None:
    for ours, met in (([1.0, 1.0, 3.0], True), ([1.2, 1.2, 3.6], False)):
        rows = goals(Results(ptys=ptys(ours, [1.1, 1.1, 3.3])), SIZE)
        assert [row.met for row in rows if row.met is not None] == [met] * 3
        assert [row.name for row in rows] == [row.name for row in goals(Results(), SIZE)]


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    found = ptys([1, 1, 3], [2, 2, 6])
    ratios = found.ratios("exec")
    assert (ratios.start, ratios.key, ratios.lines, ratios.cpu) == (0.5, 0.5, 2, 0.5)
    way = found.ways["exec"]
    assert (way.start_ms, way.key_us, way.key_p99_us) == (3e3, 3e6, 27e6)
    assert (way.mb_s, way.cpu_ms) == (100, 10)


def test_real_ones_are_measured() -> None:
    found = run_terminals(PLAN)
    assert len(found.handovers) == len(found.starts) == 1
    assert min(found.handover_ms, found.start_ms) > 0
    assert 1 < found.held.private < found.held.peak


def test_a_real_pty_is_measured() -> None:
    found = turn(Means(lambda script: [*PTY, script], lambda caller: [caller]), PLAN)
    assert (len(found.starts), len(found.keys)) == (1, KEYS)
    assert 0 < found.key < found.start
    assert found.cpu > 0


@pytest.mark.parametrize("script", ["exit 3", "printf '$ '; read _; exit 3"])
def test_a_terminal_that_ends_is_not_taken_for_a_quick_one(script: str) -> None:
    with pytest.raises(BenchError, match=r"it has ended"):
        turn(Means(lambda _: [*PTY, script], lambda caller: [caller]), PLAN)
