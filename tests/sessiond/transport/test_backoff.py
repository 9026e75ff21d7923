"""Delays between tries."""

from sessiond.transport.backoff import FIRST, LONGEST, Backoff


def test_delays_double_up_to_the_longest() -> None:
    backoff, expected = Backoff(), FIRST
    for _ in range(12):
        assert expected <= backoff.delay() <= 1.1 * expected
        expected = min(2 * expected, LONGEST)
    assert expected == LONGEST


def test_reset_begins_again() -> None:
    backoff = Backoff()
    backoff.delay()
    assert backoff.delay() > 1.5 * FIRST
    backoff.reset()
    assert backoff.delay() <= 1.1 * FIRST


def test_guests_do_not_come_in_step() -> None:
    assert len({Backoff().delay() for _ in range(10)}) > 1
