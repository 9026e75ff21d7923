"""What a stream shows of the way to the host."""

from dataclasses import replace

import pytest

from agent.stream.choice import WINDOW, Way
from agent.stream.watch import ENOUGH, SPAN, Passed, Rate, Watch

INTERVAL = 0.1
NOW = 1000.0


def watching() -> Watch:
    watch = Watch(INTERVAL)
    watch.begin(NOW)
    return watch


def passed(
    watch: Watch, now: float, took: float, *, is_waiting: bool, is_mjpeg: bool = False
) -> None:
    size = 1000 if is_mjpeg else 7
    watch.on_passed(now, Passed(size, took, is_waiting), is_mjpeg=is_mjpeg)


def test_what_waits_while_there_is_no_room_is_held() -> None:
    watch = watching()
    passed(watch, NOW, 0.1, is_waiting=True)
    passed(watch, NOW + 1, 0.4, is_waiting=True)
    passed(watch, NOW + 2, 0.6, is_waiting=False)
    way = watch.way(NOW + 2, 5.0)
    assert way.held == pytest.approx(0.3)
    assert replace(way, held=0.0) == Way(took=0.6, rate=5.0)
    assert watch.way(NOW + 1 + WINDOW + 0.01, 0.0).held == 0


def test_in_time_counts_from_the_last_late_frame_once_there_are_enough() -> None:
    watch = watching()
    passed(watch, NOW + 1, 0.2, is_waiting=False)
    for number in range(ENOUGH):
        assert watch.way(NOW + 2 + number, 0.0).in_time == 0
        passed(watch, NOW + 2 + number, 0.1, is_waiting=True)
    assert watch.way(NOW + 100, 0.0).in_time == 99
    passed(watch, NOW + 101, 0.11, is_waiting=False)
    assert watch.way(NOW + 102, 0.0).in_time == 0


def test_what_mjpeg_needs_is_known_while_there_is_another_codec() -> None:
    watch = watching()
    assert watch.way(NOW, 0.0).need == 0
    passed(watch, NOW, 5.0, is_waiting=True, is_mjpeg=True)
    watch.begin(NOW + 1)
    for number in range(20):
        passed(watch, NOW + 2 + number, 0.01, is_waiting=False)
    way = watch.way(NOW + 2 + 19, 0.0)
    assert (way.picture, way.took) == (1000, 0.01)
    assert way.need == 1000 * 11 / SPAN  # of these 20, 11 are not older than 10 s


def test_a_rate_is_that_of_frames_that_had_to_wait() -> None:
    rate = Rate(INTERVAL)
    rate.on_sent(1000, 0.1)
    assert rate.value == 0
    rate.on_sent(1000, 0.5)
    assert rate.value == 2000
    rate.on_sent(1000, 0.25)
    assert rate.value == 3000


def test_a_rate_that_holds_nothing_back_grows_until_it_is_forgotten() -> None:
    rate = Rate(INTERVAL)
    rate.on_sent(1000, 0.5)
    before = 0.0
    for _ in range(10_000):
        before = max(before, rate.value)
        rate.on_sent(1000, 0.1)
    assert rate.value == 0
    assert before > 5e8
