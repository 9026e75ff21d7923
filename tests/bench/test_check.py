"""A loss is told, noise is measured again, and what is kept belongs to what is measured."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import check
from tests.bench.plan import Plan
from tests.bench.results import Results

KEPT = dict.fromkeys(check.PART_OF, 1.0) | {"static, frames and wake-ups": 0.0}


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[tuple[str, ...]]]:
    """Let runs give these values, one after the other; returns the parts of each run, to come."""
    baseline = tmp_path / "baseline.json"
    baseline.write_text(json.dumps(KEPT))
    monkeypatch.setattr(check, "BASELINE", baseline)

    def playing(*runs: dict[str, float]) -> list[tuple[str, ...]]:
        asked: list[tuple[str, ...]] = []
        values = iter(runs)

        def run(plan: Plan) -> Results:
            asked.append(plan.parts)
            return Results()

        monkeypatch.setattr(check, "run", run)
        monkeypatch.setattr(check, "measured", lambda _found, _size: next(values))
        return asked

    return playing


def test_the_kept_baseline_has_each_measure_and_no_other() -> None:
    assert set(json.loads(check.BASELINE.read_text())) == set(check.PART_OF)


def test_a_fifth_is_no_loss_and_more_is() -> None:
    name = "video, CPU to the floor"
    assert check.losses({name: 1.2}, KEPT) == []
    assert check.losses({name: 1.21}, KEPT) == [name]


def test_where_nothing_is_kept_nothing_may_come() -> None:
    assert check.losses({"static, frames and wake-ups": 1}, KEPT) == ["static, frames and wake-ups"]


def test_a_loss_in_each_try_fails(play: Callable[..., list[tuple[str, ...]]]) -> None:
    name = "relay, CPU to a plain relay"
    asked = play({name: 1.5}, {name: 1.4}, {name: 1.3})
    assert check.check(check.PLAN) == 1
    assert asked[1:] == [("daemon",), ("daemon",)]


def test_what_was_noise_is_forgiven_and_nothing_more_is_measured(
    play: Callable[..., list[tuple[str, ...]]], capsys: pytest.CaptureFixture[str]
) -> None:
    name, other = "video, CPU to the floor", "video, bytes to the floor"
    # The second run is worse in what was right before: the better one counts for each.
    asked = play({name: 1.5, other: 1.0}, {name: 1.1, other: 1.3})
    assert check.check(check.PLAN) == 0
    assert asked == [check.PLAN.parts, ("video",)]
    assert capsys.readouterr().out.count("LOST") == 1
