"""When to capture and when to encode: a table, and what holds whatever happens."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.stream.pacing import CLOSE, REST, Pacing, Step

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
        (99, "time", []),
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
        (2, "sent", []),
        (20, "changed", [CAPTURE]),
        (21, "same", []),
        (99, "time", []),
        (100, "changed", [CAPTURE]),
        (101, "captured", [ENCODE]),
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
    for event in 4 * ["captured", "encoded", "sent", "time"]:
        machine.now = max(machine.now, machine.pacing.wake_at or 0.0)
        machine.act(event)
    assert machine.shown == machine.version
    assert machine.pacing.wake_at is None


def send_one(pacing: Pacing, now: float) -> None:
    """Let one frame pass through all stages at once."""
    assert steps(pacing, now) == [CAPTURE]
    pacing.on_captured(usable=True)
    assert steps(pacing, now) == [ENCODE]
    pacing.on_encoded(now, usable=True)
    pacing.on_sent(now)


def test_the_last_of_frames_that_came_close_is_sent_once_more() -> None:
    pacing = Pacing(0.01)
    pacing.start()
    send_one(pacing, BEGIN)
    for number in range(1, 4):
        pacing.changed = True
        send_one(pacing, BEGIN + number * CLOSE / 2)
    last = BEGIN + 3 * CLOSE / 2
    assert steps(pacing, last) == []
    assert pacing.wake_at == last + REST
    assert steps(pacing, last + REST / 2) == []
    send_one(pacing, last + REST)
    assert steps(pacing, last + 10 * REST) == []
    assert pacing.wake_at is None, "at rest nothing is waited for"


def test_a_single_change_is_sent_once() -> None:
    pacing = Pacing(0.01)
    pacing.start()
    for number in range(4):
        pacing.changed = True
        send_one(pacing, BEGIN + number * 2 * CLOSE)
        assert steps(pacing, BEGIN + number * 2 * CLOSE) == []
        assert pacing.wake_at is None


def test_a_change_comes_before_the_repetition_and_in_its_place() -> None:
    pacing = Pacing(0.01)
    pacing.start()
    send_one(pacing, BEGIN)
    pacing.changed = True
    send_one(pacing, BEGIN + CLOSE / 2)
    pacing.changed = True
    send_one(pacing, BEGIN + REST)  # alone again
    assert steps(pacing, BEGIN + 5 * REST) == []
    assert pacing.wake_at is None


def send_two_close(pacing: Pacing) -> float:
    """Send two frames of which the last is to be repeated; return when that is."""
    pacing.start()
    send_one(pacing, BEGIN)
    pacing.changed = True
    send_one(pacing, BEGIN + CLOSE / 2)
    assert steps(pacing, BEGIN + CLOSE / 2) == []
    assert pacing.wake_at == BEGIN + CLOSE / 2 + REST
    return pacing.wake_at


def test_a_change_that_is_none_leaves_the_repetition_as_it_was() -> None:
    pacing = Pacing(0.01)
    due = send_two_close(pacing)
    for number in range(2, 5):
        pacing.changed = True
        assert steps(pacing, BEGIN + number * CLOSE) == [CAPTURE]
        pacing.on_captured(usable=True, is_news=False)
        assert steps(pacing, BEGIN + number * CLOSE) == []
        assert pacing.wake_at == due
    assert steps(pacing, due) == [CAPTURE]
    pacing.on_captured(usable=True, is_news=False)
    assert steps(pacing, due) == [ENCODE]


def test_changes_that_are_none_do_not_keep_the_repetition_from_coming() -> None:
    pacing = Pacing(0.01)
    due = send_two_close(pacing)
    pacing.changed = True
    assert steps(pacing, due + 1) == [CAPTURE]
    pacing.changed = True
    pacing.on_captured(usable=True, is_news=False)
    assert steps(pacing, due + 1) == [ENCODE]


def test_an_eased_frame_is_repeated_though_it_was_alone() -> None:
    pacing = Pacing(0.01)
    pacing.start()
    pacing.is_eased = True
    send_one(pacing, BEGIN)
    pacing.is_eased = False
    send_one(pacing, BEGIN + REST)
    assert steps(pacing, BEGIN + 9 * REST) == []
    assert pacing.wake_at is None


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
