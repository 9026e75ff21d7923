"""Time as a coder of one bit rate sees it."""

import pytest

from agent.encode.clock import UNKNOWN_RATE, LineClock

RATE = 1_000_000  # of the coder, bits a second
BYTES = RATE / 8  # a second, of a line as fast


def steps(rate: float, nows: list[float], *, refining: bool = False, bit_rate: int = RATE) -> int:
    """Return the time from the first to the last frame of those encoded at NOWS."""
    clock = LineClock(bit_rate)
    times = [clock.tick(now, rate, is_refining=refining) for now in nows]
    assert times == sorted(set(times))
    return times[-1] - times[0]


@pytest.mark.parametrize(
    ("factor", "expected"), [(1, 100), (4, 400), (0.5, 50), (0.001, 10), (200, 8 * 2 * 1000)]
)
def test_a_faster_line_has_longer_seconds(factor: float, expected: int) -> None:
    nows = [10 + n / 100 for n in range(11)]
    if factor == 200:  # a step longer than libvpx believes
        nows = [10, 10.1, 10.2]
    assert steps(factor * BYTES, nows) == expected


def test_line_that_is_not_known_is_a_fast_one() -> None:
    nows = [5.0, 5.05, 5.1]
    assert steps(0, nows) == steps(UNKNOWN_RATE, nows) > steps(BYTES, nows)


def test_a_pause_is_not_saved_up_for_what_comes_then() -> None:
    assert steps(BYTES, [0, 60]) == 120


def test_what_stands_for_long_takes_more_of_the_pause() -> None:
    assert steps(BYTES, [0, 0.3], refining=True) == 300
    assert steps(BYTES, [0, 60], refining=True) == 500


def test_small_steps_add_up() -> None:
    assert steps(BYTES * 0.5, [n * 0.003 for n in range(101)]) == 150


@pytest.mark.parametrize("nows", [[1, 1, 1], [2, 1.5, 1.2]])
def test_time_always_grows(nows: list[float]) -> None:
    assert steps(BYTES, nows) == 2


def test_without_a_rate_the_time_is_ours() -> None:
    assert steps(BYTES * 7, [0, 0.05, 0.1], bit_rate=0) == 100
