"""When to capture and when to encode: a table, and what holds whatever happens."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.stream.pacing import CLOSE, RESTS, SURE_RESTS, Pacing, Step

INTERVAL = 10.0
BEGIN = 1000.0  # a monotonic clock is far from 0 as a rule

CAPTURE, ENCODE, NOTHING = Step.CAPTURE, Step.ENCODE, Step.NOTHING


def steps(pacing: Pacing, now: float) -> list[Step]:
    """Ask until there is nothing to do."""
    found = []
    while (step := pacing.step(now)) is not NOTHING:
        found.append(step)
    return found


EVENTS: dict[str, Callable[[Pacing, float], None]] = {
    "start": lambda pacing, _: pacing.start(),
    "stop": lambda pacing, _: pacing.stop(),
    "changed": lambda pacing, _: setattr(pacing, "changed", True),
    "captured": lambda pacing, _: pacing.on_captured(usable=True),
    "same": lambda pacing, _: pacing.on_captured(usable=True, is_news=False),
    "unusable": lambda pacing, _: pacing.on_captured(usable=False),
    "encoded": lambda pacing, now: pacing.on_encoded(now, usable=True),
    "failed": lambda pacing, now: pacing.on_encoded(now, usable=False),
    "sent": lambda pacing, now: pacing.on_sent(now),
    "withhold": lambda pacing, _: setattr(pacing, "credit", 0),
    "credit": lambda pacing, _: setattr(pacing, "credit", pacing.credit + 1),
    "time": lambda _pacing, _now: None,
}

Story = list[tuple[float, str, list[Step]]]

STORIES: dict[str, Story] = {
    "no capture without credit": [
        (0, "withhold", []),
        (0, "start", []),
        (5, "credit", [CAPTURE]),
        (6, "captured", [ENCODE]),
        (7, "encoded", []),
        (8, "sent", []),
        (50, "changed", []),
        (60, "credit", [CAPTURE]),
    ],
    "one credit is for one frame at a time": [
        (0, "withhold", []),
        (0, "credit", []),
        (0, "start", [CAPTURE]),
        (0, "captured", [ENCODE]),
        (20, "changed", []),
        (21, "credit", [CAPTURE]),
    ],
    "a capture that gave nothing keeps its credit": [
        (0, "withhold", []),
        (0, "credit", []),
        (0, "start", [CAPTURE]),
        (1, "unusable", []),
        (30, "changed", [CAPTURE]),
    ],
    "one frame and then rest": [
        (0, "start", [CAPTURE]),
        (1, "captured", [ENCODE]),
        (2, "encoded", []),
        (3, "sent", []),
        (3.2, "time", []),
    ],
    "a change after a rest is captured at once": [
        (0, "start", [CAPTURE]),
        (1, "captured", [ENCODE]),
        (2, "encoded", []),
        (3, "sent", []),
        (50, "changed", [CAPTURE]),
    ],
    "nothing before the start": [(0, "changed", []), (1, "start", [CAPTURE])],
    "the next is captured while the last is encoded": [
        (0, "start", [CAPTURE]),
        (0, "captured", [ENCODE]),
        (10, "changed", [CAPTURE]),
        (11, "captured", []),
        (12, "encoded", []),
        (13, "sent", [ENCODE]),
    ],
    "two are never encoded at once": [
        (0, "start", [CAPTURE]),
        (0, "captured", [ENCODE]),
        (10, "changed", [CAPTURE]),
        (11, "captured", []),
        (21, "changed", []),
        (30, "failed", [ENCODE, CAPTURE]),
    ],
    "nothing is captured while a frame is sent": [
        (0, "start", [CAPTURE]),
        (0, "captured", [ENCODE]),
        (1, "encoded", []),
        (20, "changed", []),
        (90, "time", []),
        (91, "sent", []),
        (100, "time", []),
        (101, "time", [CAPTURE]),
    ],
    "what waited too long is captured anew if it changed": [
        (0, "start", [CAPTURE]),
        (0, "captured", [ENCODE]),
        (10, "changed", [CAPTURE]),
        (11, "captured", []),
        (12, "encoded", []),
        (13, "changed", []),
        (50, "sent", []),
        (60, "time", [CAPTURE]),
    ],
    "changes in a burst are captured once an interval": [
        (0, "start", [CAPTURE]),
        (0, "captured", [ENCODE]),
        (1, "failed", []),
        (2, "changed", []),
        (9, "changed", []),
        (10, "time", [CAPTURE]),
        (10, "captured", [ENCODE]),
        (10, "failed", []),
        (19, "changed", []),
        (20, "time", [CAPTURE]),
    ],
    "a burst after a rest too": [
        (0, "start", [CAPTURE]),
        (0, "captured", [ENCODE]),
        (1, "failed", []),
        (55, "changed", [CAPTURE]),
        (55, "captured", [ENCODE]),
        (56, "failed", []),
        (56, "changed", []),
        (64, "time", []),
        (65, "time", [CAPTURE]),
    ],
    "what waited too long is good if nothing changed": [
        (0, "start", [CAPTURE]),
        (0, "captured", [ENCODE]),
        (10, "changed", [CAPTURE]),
        (11, "captured", []),
        (12, "encoded", []),
        (50, "sent", []),
        (60, "time", [ENCODE]),
    ],
    "what waited a little is good": [
        (0, "start", [CAPTURE]),
        (0, "captured", [ENCODE]),
        (10, "changed", [CAPTURE]),
        (11, "captured", []),
        (12, "encoded", []),
        (13, "changed", []),
        (14, "sent", [ENCODE]),
    ],
    "an unusable capture is made up for by the next change": [
        (0, "start", [CAPTURE]),
        (1, "unusable", []),
        (20, "changed", [CAPTURE]),
    ],
    "what looks as before is not sent": [
        (0, "start", [CAPTURE]),
        (0, "captured", [ENCODE]),
        (1, "encoded", []),
        (9.9, "sent", []),
        (10, "changed", [CAPTURE]),
        (10.1, "same", []),
        (10.15, "time", []),
        (20, "changed", [CAPTURE]),
        (21, "captured", [ENCODE]),
    ],
    "a new stream has its own first frame": [
        (0, "start", [CAPTURE]),
        (1, "captured", [ENCODE]),
        (2, "stop", []),
        (3, "failed", []),
        (4, "changed", []),
        (5, "start", [CAPTURE]),
        (6, "captured", [ENCODE]),
    ],
    "a new stream waits for what the old one captures and sends": [
        (0, "start", [CAPTURE]),
        (1, "stop", []),
        (2, "start", []),
        (3, "unusable", [CAPTURE]),
        (4, "captured", [ENCODE]),
        (5, "encoded", []),
        (6, "stop", []),
        (7, "start", []),
        (8, "sent", [CAPTURE]),
    ],
    "a stopped stream forgets what it captured": [
        (0, "start", [CAPTURE]),
        (0, "captured", [ENCODE]),
        (10, "changed", [CAPTURE]),
        (11, "captured", []),
        (12, "stop", []),
        (13, "failed", []),
        (14, "sent", []),
    ],
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_story(story: Story) -> None:
    pacing = Pacing(INTERVAL)
    for at, event, expected in story:
        EVENTS[event](pacing, BEGIN + at)
        assert steps(pacing, BEGIN + at) == expected, (at, event)


def test_wakes_when_the_next_is_due() -> None:
    pacing = Pacing(INTERVAL)
    pacing.start()
    assert steps(pacing, BEGIN) == [CAPTURE]
    pacing.on_captured(usable=False)
    assert steps(pacing, BEGIN + 1) == []
    wakes = [pacing.wake_at]
    pacing.changed = True
    assert steps(pacing, BEGIN + 2) == []
    wakes.append(pacing.wake_at)
    assert wakes == [None, BEGIN + 10]
    assert steps(pacing, BEGIN + 10) == [CAPTURE]


def test_steady_beat_while_the_screen_keeps_changing() -> None:
    pacing, captured = Pacing(INTERVAL), list[float]()
    pacing.start()
    for tick in range(10 * int(INTERVAL)):  # asked a little late each time
        now = BEGIN + tick + (0.5 if tick % 2 else 0.0)
        pacing.changed = True
        if CAPTURE in steps(pacing, now):
            captured.append(now)
            pacing.on_captured(usable=False)
    assert len(captured) == 10


class Machine:
    """The stages around a pacing, each with its own moment to be done; checks as it goes."""

    def __init__(self) -> None:
        self.pacing = Pacing(INTERVAL)
        self.now = BEGIN
        self.version = 0  # of the screen
        self.capturing: int | None = None
        self.captured: int | None = None
        self.encoding: int | None = None
        self.sending: int | None = None
        self.shown = -1
        self.captures: list[float] = []

    def act(self, event: str) -> None:
        match event:
            case "changed":
                self.version += 1
                self.pacing.changed = True
            case "captured" if self.capturing is not None:
                self.captured, self.capturing = self.capturing, None
                self.pacing.on_captured(usable=True)
            case "encoded" if self.encoding is not None:
                self.sending, self.encoding = self.encoding, None
                self.pacing.on_encoded(self.now, usable=True)
            case "sent" if self.sending is not None:
                self.shown, self.sending = self.sending, None
                self.pacing.on_sent(self.now)
                if not self.pacing.captured:
                    self.captured = None
        self.go()

    def go(self) -> None:
        for step in iter(lambda: self.pacing.step(self.now), NOTHING):
            if step is ENCODE:
                assert self.captured is not None
                assert self.encoding is None
                assert self.sending is None
                self.encoding, self.captured = self.captured, None
            else:
                assert self.capturing is None
                assert self.captured is None
                assert self.sending is None
                self.capturing = self.version
                self.captures.append(self.now)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["changed", "captured", "encoded", "sent", "time"]),
            st.sampled_from([0.0, 0.1, 3.0, 9.9, 10.0, 25.0]),
        ),
        max_size=80,
    )
)
def test_whatever_happens(events: list[tuple[str, float]]) -> None:
    machine = Machine()
    machine.pacing.start()
    machine.go()
    for event, delay in events:
        machine.now += delay
        machine.act(event)
    # One late frame may be made up for at once; beyond that no capture comes early.
    for one, after_next in zip(machine.captures, machine.captures[2:], strict=False):
        assert after_next - one >= INTERVAL - 1e-6
    # The last change is always shown in the end, if only everybody does his part.
    for event in 8 * ["captured", "encoded", "sent", "time"]:
        machine.now = max(machine.now, machine.pacing.wake_at or 0.0)
        machine.act(event)
    assert machine.shown == machine.version
    assert machine.pacing.wake_at is None


def send_one(pacing: Pacing, now: float, *, is_news: bool = True, took: float = 0.0) -> None:
    """Let one frame pass through all stages at once, but for TOOK seconds on its way."""
    assert steps(pacing, now) == [CAPTURE]
    pacing.on_captured(usable=True, is_news=is_news)
    assert steps(pacing, now) == [ENCODE]
    pacing.on_encoded(now, usable=True)
    pacing.on_sent(now + took)


def started() -> Pacing:
    """Return a stream whose first frame has been repeated often enough, before BEGIN."""
    pacing = Pacing(0.01)
    pacing.start()
    send_one(pacing, BEGIN - 100)
    repeat_to_the_end(pacing)
    return pacing


def repeat_to_the_end(pacing: Pacing) -> list[float]:
    """Send what is due until nothing is; return when."""
    times = list[float]()
    assert steps(pacing, 0.0) == []
    while pacing.wake_at is not None:
        assert len(times) < 9, "it never comes to rest"
        times.append(pacing.wake_at)
        send_one(pacing, pacing.wake_at, is_news=False)
        assert steps(pacing, times[-1]) == []
    return times


def repetitions(after: float) -> list[float]:
    return list(itertools.accumulate(RESTS, initial=after))[1:]


def test_the_last_of_frames_that_came_close_is_repeated_at_growing_distances() -> None:
    pacing = started()
    last = BEGIN
    for number in range(4):
        last = BEGIN + number * 0.9 * CLOSE
        pacing.changed = True
        send_one(pacing, last)
    assert repeat_to_the_end(pacing) == pytest.approx(repetitions(last))
    assert steps(pacing, last + 100) == [], "at rest nothing is waited for"


def test_the_first_frame_is_repeated() -> None:
    pacing = Pacing(0.01)
    pacing.start()
    send_one(pacing, BEGIN)
    assert repeat_to_the_end(pacing) == pytest.approx(repetitions(BEGIN))
    pacing.start()  # another client
    send_one(pacing, BEGIN + 20)
    assert repeat_to_the_end(pacing) == pytest.approx(repetitions(BEGIN + 20))


def test_a_frame_that_was_taken_slowly_is_repeated() -> None:
    pacing = started()
    pacing.changed = True
    send_one(pacing, BEGIN, took=0.02)
    assert repeat_to_the_end(pacing) == pytest.approx(repetitions(BEGIN + 0.02))


def test_a_change_that_ends_a_long_rest_is_repeated_soon_and_late() -> None:
    pacing = started()
    pacing.changed = True
    send_one(pacing, BEGIN)
    assert repeat_to_the_end(pacing) == [BEGIN + RESTS[0], BEGIN + RESTS[0] + RESTS[-1]]


def test_single_changes_are_repeated_once_after_the_longest_rest() -> None:
    pacing = started()
    last = BEGIN
    pacing.changed = True
    send_one(pacing, last)
    send_one(pacing, last + RESTS[0], is_news=False)
    for number in range(1, 4):
        last = BEGIN + number * 1.1 * CLOSE
        pacing.changed = True
        send_one(pacing, last)
        assert steps(pacing, last) == []
        assert pacing.wake_at == last + RESTS[-1]
    assert repeat_to_the_end(pacing) == [last + RESTS[-1]]


def test_where_nothing_is_dropped_two_repetitions_are_enough() -> None:
    pacing = Pacing(0.01, rests=SURE_RESTS)
    pacing.start()
    send_one(pacing, BEGIN)
    assert repeat_to_the_end(pacing) == [BEGIN + 0.3, BEGIN + 2.3]


def test_a_change_takes_the_place_of_a_repetition() -> None:
    pacing = started()
    due = send_two_close(pacing)
    send_one(pacing, due, is_news=False)
    # Close to the repetition, but not to news: it comes in place of the next one, no more.
    pacing.changed = True
    send_one(pacing, due + 0.3)
    assert repeat_to_the_end(pacing) == pytest.approx(
        [due + 0.3 + rest for rest in itertools.accumulate(RESTS[1:])]
    )


def test_a_change_when_a_repetition_is_due_counts_as_a_change() -> None:
    pacing = started()
    due = send_two_close(pacing)
    pacing.changed = True
    send_one(pacing, due)
    assert not pacing.is_repeat
    pacing.changed = True
    send_one(pacing, due + CLOSE / 2)
    assert repeat_to_the_end(pacing) == pytest.approx(repetitions(due + CLOSE / 2))


def test_what_is_captured_meanwhile_makes_no_repetition_of_the_frame_on_its_way() -> None:
    pacing = started()
    due = send_two_close(pacing)
    pacing.changed = True
    assert steps(pacing, due - 0.1) == [CAPTURE]
    pacing.on_captured(usable=True)
    assert steps(pacing, due - 0.1) == [ENCODE]
    pacing.changed = True
    assert steps(pacing, due) == [CAPTURE]
    assert not pacing.is_repeat
    pacing.on_encoded(due, usable=True)
    pacing.on_sent(due)
    pacing.on_captured(usable=True, is_news=False)
    assert steps(pacing, due) == [ENCODE]
    assert pacing.is_repeat


def send_two_close(pacing: Pacing) -> float:
    """Send two frames of which the last is to be repeated; return when that is."""
    pacing.changed = True
    send_one(pacing, BEGIN)
    pacing.changed = True
    send_one(pacing, BEGIN + CLOSE / 4)
    assert steps(pacing, BEGIN + CLOSE / 4) == []
    assert pacing.wake_at == BEGIN + CLOSE / 4 + RESTS[0]
    return pacing.wake_at


def test_a_change_that_is_none_leaves_the_repetition_as_it_was() -> None:
    pacing = started()
    due = send_two_close(pacing)
    for number in range(1, 4):
        now = BEGIN + CLOSE / 4 + number * RESTS[0] / 4
        pacing.changed = True
        assert steps(pacing, now) == [CAPTURE]
        pacing.on_captured(usable=True, is_news=False)
        assert steps(pacing, now) == []
        assert pacing.wake_at == due
    assert steps(pacing, due) == [CAPTURE]
    pacing.on_captured(usable=True, is_news=False)
    assert steps(pacing, due) == [ENCODE]


def test_changes_that_are_none_do_not_keep_the_repetition_from_coming() -> None:
    pacing = started()
    due = send_two_close(pacing)
    pacing.changed = True
    assert steps(pacing, due + 1) == [CAPTURE]
    pacing.changed = True
    pacing.on_captured(usable=True, is_news=False)
    assert steps(pacing, due + 1) == [ENCODE]
    assert pacing.is_repeat


def test_of_a_screen_that_is_away_nothing_is_repeated() -> None:
    pacing = started()
    due = send_two_close(pacing)
    assert steps(pacing, due) == [CAPTURE]
    pacing.on_captured(usable=False)
    assert steps(pacing, due) == []
    assert pacing.wake_at is None


def test_an_eased_frame_is_repeated_though_it_was_alone() -> None:
    pacing = started()
    pacing.is_eased = pacing.changed = True
    send_one(pacing, BEGIN)
    pacing.is_eased = False
    assert repeat_to_the_end(pacing) == pytest.approx(repetitions(BEGIN))


def test_room_is_there_when_the_frame_has_left_and_there_is_credit() -> None:
    pacing = Pacing(INTERVAL)
    pacing.start()
    pacing.credit = 1
    assert pacing.maybe_room(BEGIN) is None
    assert steps(pacing, BEGIN) == [CAPTURE]
    pacing.on_captured(usable=True)
    assert steps(pacing, BEGIN) == [ENCODE]
    pacing.on_encoded(BEGIN + 1, usable=True)
    assert pacing.maybe_room(BEGIN + 1) is None
    pacing.on_sent(BEGIN + 2)
    assert pacing.maybe_room(BEGIN + 2) is None
    pacing.credit = 1
    assert pacing.maybe_room(BEGIN + 31) == 30
    assert pacing.maybe_room(BEGIN + 32) is None


def test_a_newer_picture_waits_from_its_change_until_it_is_encoded() -> None:
    pacing = Pacing(INTERVAL)
    pacing.start()
    found = [pacing.is_waiting]
    steps(pacing, BEGIN)
    found.append(pacing.is_waiting)
    pacing.on_captured(usable=True)
    found.append(pacing.is_waiting)
    steps(pacing, BEGIN)
    found.append(pacing.is_waiting)
    assert found == [True, False, True, False]


def test_room_of_an_ended_stream_is_not_asked_for() -> None:
    pacing = Pacing(INTERVAL)
    pacing.start()
    pacing.credit = 1
    steps(pacing, BEGIN)
    pacing.on_captured(usable=True)
    steps(pacing, BEGIN)
    pacing.on_encoded(BEGIN, usable=True)
    pacing.on_sent(BEGIN)
    pacing.stop()
    pacing.start()
    pacing.credit = 1
    assert pacing.maybe_room(BEGIN + 99) is None
