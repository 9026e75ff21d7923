"""Quality sinks while the host is slow and rises again."""

from hypothesis import given
from hypothesis import strategies as st

from agent.stream.easing import STEADY, Easing

FAST, SLOW = 0.5, 1.5


def test_sinks_with_each_late_frame_to_the_floor() -> None:
    easing = Easing(1.0, levels=3)
    levels = []
    for _ in range(4):
        easing.on_room(SLOW)
        levels.append(easing.level)
    assert levels == [1, 2, 2, 2]


def test_rises_one_level_after_many_frames_in_time() -> None:
    easing = Easing(1.0, levels=3, level=2)
    levels = []
    for _ in range(3 * STEADY):
        easing.on_room(FAST)
        levels.append(easing.level)
    assert levels == (STEADY - 1) * [2] + STEADY * [1] + (STEADY + 1) * [0]


def test_a_late_frame_makes_the_others_count_anew() -> None:
    easing = Easing(1.0, levels=9, level=4)
    for _ in range(STEADY - 1):
        easing.on_room(FAST)
    easing.on_room(SLOW)
    for _ in range(STEADY - 1):
        easing.on_room(FAST)
    assert easing.level == 5


@given(st.integers(1, 5), st.lists(st.sampled_from([FAST, SLOW]), max_size=200))
def test_stays_within_the_levels(levels: int, history: list[float]) -> None:
    easing = Easing(1.0, levels)
    for took in history:
        easing.on_room(took)
        assert 0 <= easing.level < levels
