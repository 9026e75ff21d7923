"""How often the screen is looked at."""

import pytest

from agent.capture.kms.pace import QUICKEST, SLOWEST, Pace


def looks(pace: Pace, seconds: float, *, changes_every: float = 0.0) -> int:
    """Return how many looks there are while something changes now and then, or never."""
    now, seen, count = pace.due, 0, 0
    end = now + seconds
    while now < end:
        changes = int(now / changes_every) if changes_every else 0
        pace.on_looked(now, is_new=changes != seen)
        now, seen, count = pace.due, changes, count + 1
    return count


def test_what_moves_is_seen_thirty_times_a_second() -> None:
    pace = Pace()
    looks(pace, 1.0, changes_every=0.01)
    assert looks(pace, 10.0, changes_every=0.01) == pytest.approx(300, abs=2)


def test_a_screen_at_rest_is_looked_at_four_times_a_second() -> None:
    pace = Pace()
    looks(pace, 5.0)
    assert looks(pace, 10.0) == pytest.approx(40, abs=1)


def test_a_blinking_cursor_does_not_keep_us_busy() -> None:
    pace = Pace()
    looks(pace, 10.0, changes_every=0.2)
    assert looks(pace, 10.0, changes_every=0.2) < 150


def test_what_begins_to_move_is_followed_soon() -> None:
    pace = Pace()
    looks(pace, 5.0)
    assert pace.interval == SLOWEST
    for _ in range(3):
        pace.on_looked(pace.due, is_new=True)
    assert pace.interval == QUICKEST
