"""What is on its way to a slow host comes down to a tenth of a second, and a fast one never waits.

The host of these tests is a queue of 128 writes that is emptied at a fixed rate; time is a number.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond.stream.freshness import (
    FULL,
    IN_FLIGHT,
    LARGE,
    LONGEST,
    MOST,
    OLD,
    QUEUE,
    Freshness,
)

MBIT = 125_000.0  # bytes/s


@dataclass
class Host:
    """Consumes ``rate`` bytes a second; a write's slot is free when all of it is consumed."""

    rate: float
    now: float = 1000.0
    queue: deque[float] = field(default_factory=deque)

    @property
    def in_flight(self) -> float:
        return sum(self.queue)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        left = self.rate * seconds
        while self.queue and self.queue[0] <= left + 1e-6:
            left -= self.queue.popleft()
        if self.queue:
            self.queue[0] -= left

    def wait_for_slot(self) -> None:
        self.wait(self.queue[0] / self.rate)

    def write(self, size: int) -> bool:
        if len(self.queue) == QUEUE:
            return False
        self.queue.append(size)
        return True


@dataclass
class Stream:
    """Sends frames as the port does; keeps what was so whenever a credit was given."""

    host: Host
    freshness: Freshness = field(default_factory=Freshness)
    seconds_in_flight: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    def send(self, size: int, interval: float = 0.005) -> None:
        """Write a frame, wait as long as we are told, then as long as the next one takes."""
        host, freshness, whole = self.host, self.freshness, size
        while size:
            count = min(size, freshness.write_size(whole))
            if host.write(count):
                freshness.on_accepted(host.now, count)
                size -= count
            else:
                freshness.on_blocked(host.now)
                host.wait_for_slot()
        freshness.on_drained(host.now)
        delay = freshness.delay(host.now)
        self.delays.append(delay)
        host.wait(delay)
        self.seconds_in_flight.append(host.in_flight / host.rate)
        host.wait(interval)


@pytest.mark.parametrize(
    ("rate", "size"),
    [
        (2 * MBIT, 4_000), (2 * MBIT, 8_000), (2 * MBIT, 60_000), (2 * MBIT, 600_000),
        (10 * MBIT, 20_000), (10 * MBIT, 60_000), (10 * MBIT, 200_000), (30 * MBIT, 60_000),
        (30 * MBIT, 600_000),
    ],
)  # fmt: skip
def test_in_flight_comes_down(rate: float, size: int) -> None:
    stream = Stream(Host(rate))
    begin = stream.host.now
    while stream.host.now < begin + 60:
        stream.send(size)
        if stream.freshness.rate:
            break
    full = stream.host.now
    backlog = stream.host.in_flight / rate
    while stream.host.now < full + backlog + 8:
        stream.send(size)
    settled = len(stream.seconds_in_flight)
    while stream.host.now < full + backlog + 24:
        stream.send(size)
    seen = stream.seconds_in_flight[settled:]
    assert mean(seen) < 1.7 * IN_FLIGHT
    assert max(seen) < 1.3 * FULL
    assert 0.7 * rate < stream.freshness.rate < 1.3 * rate


@pytest.mark.parametrize("size", [20_000, 200_000, 3_000_000])
def test_slow_host_is_kept_busy(size: int) -> None:
    rate = 10 * MBIT
    stream = Stream(Host(rate))
    for _ in range(int(90 * rate / size)):
        stream.send(size)
    begin, sent = stream.host.now, 0
    in_flight = stream.host.in_flight
    while stream.host.now < begin + 30:
        stream.send(size)
        sent += size
    consumed = sent + in_flight - stream.host.in_flight
    assert consumed > 0.85 * rate * (stream.host.now - begin)


@given(
    st.floats(50e6, 1e9),
    st.lists(st.integers(1, 1_000_000), min_size=1, max_size=60),
)
def test_fast_host_is_never_delayed(rate: float, sizes: list[int]) -> None:
    stream = Stream(Host(rate))
    for size in sizes:
        stream.send(size, interval=1 / 30)
    assert not any(stream.delays)
    assert stream.freshness.write_size(1_000_000) == LARGE


def test_fast_host_with_huge_bursts_is_not_delayed() -> None:
    stream = Stream(Host(100e6))
    for _ in range(30):
        stream.send(8 << 20)
    assert not any(stream.delays)
    assert stream.freshness.rate == pytest.approx(100e6, rel=0.3)


@pytest.mark.parametrize(("before", "after"), [(10, 40), (40, 10), (5, 80)])
def test_estimate_follows_the_host(before: float, after: float) -> None:
    stream = Stream(Host(before * MBIT))
    for _ in range(300):
        stream.send(100_000)
    stream.host.rate = after * MBIT
    begin = stream.host.now
    while stream.host.now < begin + 30:
        stream.send(100_000)
    assert stream.freshness.rate == pytest.approx(after * MBIT, rel=0.3)


def test_sleep_of_the_host_is_not_its_rate() -> None:
    stream = Stream(Host(80 * MBIT))
    freshness, host = stream.freshness, stream.host
    while host.write(LARGE):
        freshness.on_accepted(host.now, LARGE)
    freshness.on_blocked(host.now)
    host.now += 3600  # frozen
    host.wait_for_slot()
    for _ in range(100):
        stream.send(300_000)
    assert freshness.rate == pytest.approx(80 * MBIT, rel=0.3)
    assert stream.seconds_in_flight[-1] < 1.3 * FULL


def test_wrong_estimate_is_outgrown() -> None:
    stream = Stream(Host(100e6))
    stream.freshness._rate = 10_000.0
    begin = stream.host.now
    while stream.freshness.rate < 10e6:
        stream.send(200_000)
    assert stream.host.now < begin + 30


def test_refusals_without_a_write_between_say_nothing() -> None:
    freshness = Freshness()
    for _ in range(QUEUE):
        freshness.on_accepted(0.0, 1000)
    for now in range(10):
        freshness.on_blocked(float(now))
        freshness.on_drained(float(now))
    assert freshness.rate == 0


FRAME = 1 / 30  # seconds between the frames of a stream that is not held back
TYPING = 4_000  # bytes a frame, by a video codec
WHOLE = 350_000  # bytes of a frame as a picture of its own


def test_small_frames_do_not_fill_a_long_queue() -> None:
    stream = Stream(Host(0.4 * MBIT))
    longest = 0.0
    while not stream.freshness.rate:
        stream.send(TYPING, FRAME)
        longest = max(longest, stream.host.in_flight)
    assert longest <= 17 * TYPING


def test_pauses_of_a_fast_host_are_not_its_rate() -> None:
    stream = Stream(Host(1000 * MBIT))
    for _ in range(3):
        stream.host.rate = 1.0
        for _ in range(16):
            stream.send(TYPING, FRAME)
        stream.freshness.on_blocked(stream.host.now)
        stream.host.rate = 1000 * MBIT
        for _ in range(300):
            stream.send(TYPING, FRAME)
    assert not stream.freshness.rate
    assert not any(stream.delays)


def type_for(stream: Stream, seconds: float) -> None:
    begin = stream.host.now
    while stream.host.now < begin + seconds:
        stream.send(TYPING, FRAME)


def slow_then_typing(seconds: float) -> Stream:
    """Return a stream that has learned a slow rate, and sent small frames ever since."""
    stream = Stream(Host(2 * MBIT))
    for _ in range(20):
        stream.send(WHOLE)
    assert stream.freshness.guess == pytest.approx(2 * MBIT, rel=0.3)
    type_for(stream, seconds)
    return stream


def test_estimate_that_holds_nothing_back_is_told_as_more() -> None:
    stream = slow_then_typing(OLD / 2)
    freshness = stream.freshness
    assert freshness.guess == (rate := freshness.rate)
    stream.host.wait(3600)  # nothing moves, and nothing is proven
    type_for(stream, OLD / 4)
    assert freshness.guess == rate
    type_for(stream, OLD)
    assert 1.2 * rate < freshness.guess < 2 * rate
    type_for(stream, 5 * OLD)
    assert freshness.guess == MOST * rate
    stream.send(WHOLE)  # that it is too much for
    assert freshness.guess == pytest.approx(2 * MBIT, rel=0.3)


def test_a_day_of_typing_makes_an_estimate_no_larger() -> None:
    stream = slow_then_typing(OLD)
    freshness, now = stream.freshness, stream.host.now
    for second in range(24 * 3600):
        assert freshness.delay(now + second) == 0
    assert freshness.guess == MOST * freshness.rate


def test_new_stream_finds_out_that_the_host_is_faster() -> None:
    stream = slow_then_typing(20)
    stream.host.rate = 200 * MBIT
    stream.freshness.on_stream(stream.host.now)
    stream.delays.clear()
    for _ in range(90):
        stream.send(WHOLE, FRAME)
    assert max(stream.delays) < 2 * FRAME
    assert stream.freshness.rate > 5e6


def test_new_stream_finds_out_that_the_host_takes_all() -> None:
    freshness, now = slow_then_typing(20).freshness, 2000.0
    freshness.on_stream(now)
    for _ in range(90):
        freshness.on_accepted(now, *[1000] * 350)
        freshness.on_drained(now)
        assert not freshness.delay(now)
        now += FRAME
    assert 7e6 < freshness.rate < 350_000 / FRAME


def test_new_stream_finds_out_that_the_host_is_not() -> None:
    stream = slow_then_typing(20)
    stream.freshness.on_stream(stream.host.now)
    stream.seconds_in_flight.clear()
    for _ in range(10):
        stream.send(WHOLE, FRAME)
    assert max(stream.seconds_in_flight) < 1.3 * FULL
    assert stream.freshness.guess == pytest.approx(2 * MBIT, rel=0.3)


def test_new_stream_is_held_back_by_an_estimate_in_use() -> None:
    stream = slow_then_typing(OLD / 2)
    freshness, now = stream.freshness, stream.host.now
    freshness.on_stream(now)
    freshness.on_accepted(now, *[1000] * 350)
    freshness.on_drained(now)
    assert freshness.delay(now) > 0


KINDS = ("accepted", "blocked", "drained", "stream", "delay")
EVENTS = st.tuples(st.floats(0, 2), st.sampled_from(KINDS))


@settings(max_examples=50)
@given(st.lists(st.tuples(EVENTS, st.integers(1, LARGE)), max_size=400))
def test_whatever_happens(events: list[tuple[tuple[float, str], int]]) -> None:
    freshness, now = Freshness(), 0.0
    for (gap, event), size in events:
        now += gap
        match event:
            case "accepted":
                freshness.on_accepted(now, min(size, freshness.write_size(10 * size)))
            case "blocked":
                freshness.on_blocked(now)
            case "drained":
                freshness.on_drained(now)
            case "stream":
                freshness.on_stream(now)
            case _:
                assert 0 <= freshness.delay(now) <= LONGEST
        assert freshness.rate >= 0
        assert freshness.guess >= 0
        assert 0 < freshness.write_size(size) <= LARGE
