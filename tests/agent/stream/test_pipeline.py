"""Frames on their way through two threads, with a display that a test draws on."""

import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import ClassVar

from agent.capture.base import Changes, Frame
from agent.encode.base import Encoder, IntOption
from agent.stream.pipeline import Pipeline
from agent.stream.screen import Screen
from agent.stream.watch import Passed
from sessiond.errors import EncoderError
from sessiond.wire.device import Codec
from tests.agent.scripted import Listener, ScriptedCapture, settled
from tests.fixtures.loop import Signal, in_loop, turns

LONG = (3600.0,)  # no frame is repeated only because the machine is slow
SOON = (0.1,)


class ShadeEncoder(Encoder):
    """Makes one byte of a frame: its shade; ``gate`` holds it up, ``fail`` breaks it."""

    name: ClassVar = "shade"
    codec: ClassVar = Codec.MJPEG
    rank: ClassVar = 1
    options: ClassVar[Mapping[str, IntOption]] = {}

    def __init__(self, options: Mapping[str, int] | None = None) -> None:
        assert not options
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.fail = False
        self.count = 0  # of frames that were begun
        self.changes: list[frozenset[int] | None] = []  # in the frames that were encoded
        self.levels_used = list[int]()
        self.rates = list[float]()
        self.refined = list[bool]()
        self.threads = list[str]()
        self.brief_changes = 0  # bands
        self._busy = threading.Lock()

    def is_brief(self, frame: Frame) -> bool:
        assert not self._busy.locked(), "asked while it encodes"
        return frame.changed is not None and len(frame.changed) <= self.brief_changes

    def encode(self, frame: Frame) -> bytes:
        assert self._busy.acquire(blocking=False), "two frames at once"
        try:
            before = bytes(frame.pixels)
            self.count += 1
            self.begun.release()
            self.gate.wait()
            if self.fail:
                raise EncoderError("no film")
            assert bytes(frame.pixels) == before, "the slot was grabbed again"
            self.changes.append(frame.changed)
            self.threads.append(threading.current_thread().name)
            self.levels_used.append(self.level)
            self.rates.append(self.rate)
            self.refined.append(self.is_refining)
            return before[:1]
        finally:
            self._busy.release()


class Rig:
    """A pipeline between a scripted display and a test that takes its frames."""

    def __init__(self, screen: Screen, capture: ScriptedCapture, listener: Listener) -> None:
        self.screen = screen
        self.capture = capture
        self.encoder = ShadeEncoder()
        self.sent: list[int] = []
        self.failed: list[str] = []
        self.in_flight = 0
        self.sends_at_once = True
        self._signal = Signal()
        self.passed = list[Passed]()
        self.pipeline = Pipeline(
            screen, framerate=100, send=self._send, fail=self._fail, on_passed=self.passed.append
        )
        listener.changed = self.pipeline.on_changed

    def start(self, rests: tuple[float, ...] = LONG) -> None:
        """Begin a stream with the encoder as it is now."""
        encoder = self.encoder
        self.pipeline.start(lambda _width, _height: encoder, rests)

    async def frames(self, *shades: int) -> None:
        """Wait until as many frames as SHADES were sent, and see that they are these."""
        await self._signal.until(lambda: len(self.sent) >= len(shades))
        assert self.sent == list(shades)

    async def until_begun(self, count: int) -> None:
        """Wait until the encoder is at its frame number COUNT, which its gate holds."""
        while self.encoder.count < count:
            await settled(self.screen)
            await turns(1)

    async def until_failed(self) -> None:
        await self._signal.until(lambda: bool(self.failed))

    async def until_shown(self, shade: int) -> None:
        await self._signal.until(lambda: self.sent[-1:] == [shade])

    async def quiet(self) -> None:
        """Let both threads do what they were asked; nothing but time can wake them then."""
        for _ in range(4):
            await settled(self.screen)
            done = Signal()
            ended = list[object]()

            def end(value: object, ended: list[object] = ended, done: Signal = done) -> None:
                ended.append(value)
                done.happened()

            self.pipeline._worker.call_nowait(lambda: None, end)
            await done.until(lambda ended=ended: bool(ended))  # type: ignore[misc]
            await turns(3)

    def finish(self) -> None:
        """Let the frame that is being sent be gone."""
        assert self.in_flight
        self.in_flight -= 1
        self.pipeline.on_sent()

    def _send(self, encoder: Encoder, frame: Frame, data: bytes) -> None:
        assert encoder is self.encoder
        assert (frame.width, frame.height) == self.capture.size_now
        assert not self.in_flight
        self.sent.append(data[0])
        self.in_flight += 1
        if self.sends_at_once:
            self.finish()
        self._signal.happened()

    def _fail(self, reason: str) -> None:
        self.failed.append(reason)
        self._signal.happened()


@asynccontextmanager
async def rigged() -> AsyncIterator[Rig]:
    capture, listener = ScriptedCapture(), Listener()
    screen = Screen(lambda: capture, listener)
    screen.start()
    rig = Rig(screen, capture, listener)
    try:
        yield rig
    finally:
        rig.encoder.gate.set()
        capture.gate.set()
        rig.pipeline.close()
        screen.close(10)


@in_loop
async def test_first_frame_without_a_change() -> None:
    async with rigged() as rig:
        rig.start()
        await rig.frames(0)
        await rig.quiet()
        assert rig.capture.grabs == 1


@in_loop
async def test_each_change_is_shown() -> None:
    async with rigged() as rig:
        rig.start()
        await rig.frames(0)
        for shade in (1, 2, 3):
            rig.capture.draw()
            await rig.frames(*range(shade + 1))


@in_loop
async def test_nothing_is_captured_while_a_frame_is_sent() -> None:
    async with rigged() as rig:
        rig.sends_at_once = False
        rig.start()
        await rig.frames(0)
        for _ in range(5):
            rig.capture.draw()
            await rig.quiet()
        assert rig.capture.grabs == 1
        rig.finish()
        await rig.frames(0, 5)
        await rig.quiet()
        assert rig.capture.grabs == 2


@in_loop
async def test_next_is_captured_while_the_last_is_encoded() -> None:
    async with rigged() as rig:
        rig.encoder.gate.clear()
        rig.start()
        rig.capture.draw()
        while rig.capture.grabs < 2:
            await settled(rig.screen)
        for _ in range(3):
            rig.capture.draw()
            await settled(rig.screen)
        await turns(3)
        assert rig.capture.grabs == 2  # there are two slots, and both are taken
        rig.encoder.gate.set()
        await rig.until_shown(4)


@in_loop
async def test_stopped_while_encoding() -> None:
    async with rigged() as rig:
        rig.encoder.gate.clear()
        rig.start()
        await settled(rig.screen)
        await turns(3)
        assert rig.encoder.begun.acquire(timeout=10)
        rig.pipeline.stop()
        rig.capture.draw()
        rig.encoder.gate.set()
        await rig.quiet()
        assert (rig.sent, rig.capture.grabs) == ([], 1)


@in_loop
async def test_stopped_while_capturing() -> None:
    async with rigged() as rig:
        rig.capture.gate.clear()
        rig.start()
        rig.pipeline.stop()
        rig.capture.gate.set()
        await rig.quiet()
        assert rig.sent == []
        assert rig.pipeline._free_slots == {0, 1}


@in_loop
async def test_frame_of_an_earlier_stream_is_not_sent() -> None:
    async with rigged() as rig:
        rig.encoder.gate.clear()
        rig.start()
        await settled(rig.screen)
        await turns(3)
        assert rig.encoder.begun.acquire(timeout=10)
        rig.capture.shade = 9
        rig.start()
        rig.encoder.gate.set()
        await rig.frames(9)
        await rig.quiet()
        assert rig.sent == [9]
        assert rig.pipeline._free_slots == {0, 1}


@in_loop
async def test_many_starts_leak_no_slot() -> None:
    async with rigged() as rig:
        for _ in range(50):
            rig.start()
            await turns(1)
        rig.capture.draw()
        await rig.until_shown(1)
        rig.pipeline.stop()
        await rig.quiet()
        assert rig.pipeline._free_slots == {0, 1}


@in_loop
async def test_encoder_that_fails_ends_the_stream() -> None:
    async with rigged() as rig:
        rig.encoder.fail = True
        rig.start()
        await rig.until_failed()
        rig.capture.draw()
        await rig.quiet()
        assert (rig.failed, rig.sent, rig.capture.grabs) == (["no film"], [], 1)
        rig.encoder.fail = False
        rig.start()
        await rig.frames(1)


@in_loop
async def test_failure_of_a_stopped_stream_is_nobodys() -> None:
    async with rigged() as rig:
        rig.encoder.gate.clear()
        rig.encoder.fail = True
        rig.start()
        await settled(rig.screen)
        await turns(3)
        assert rig.encoder.begun.acquire(timeout=10)
        rig.pipeline.stop()
        rig.encoder.gate.set()
        await rig.quiet()
        assert rig.failed == []


@in_loop
async def test_nothing_to_capture_until_there_is() -> None:
    async with rigged() as rig:
        rig.capture.reason = "away"
        rig.start()
        await rig.quiet()
        assert rig.sent == []
        rig.capture.reason = ""
        rig.capture.tell(Changes.PICTURE | Changes.AVAILABLE)
        await rig.frames(0)


@in_loop
async def test_stale_frame_is_captured_anew() -> None:
    async with rigged() as rig:
        rig.sends_at_once = False
        rig.encoder.gate.clear()
        rig.start()
        while rig.capture.grabs < 1:
            await settled(rig.screen)
        rig.capture.draw()
        while rig.capture.grabs < 2:
            await settled(rig.screen)
        rig.encoder.gate.set()
        await rig.frames(0)
        rig.capture.draw()
        await rig.quiet()
        since = rig.pipeline._pacing.sending_since
        assert since is not None
        rig.pipeline._pacing.sending_since = since - 1  # as if the host had taken a second
        rig.finish()
        await rig.until_shown(2)
        assert rig.sent == [0, 2]


@in_loop
async def test_encoder_hears_what_changed_since_the_frame_it_saw_last() -> None:
    async with rigged() as rig:
        rig.sends_at_once = False
        rig.capture.changed = frozenset({1})
        rig.start()
        await rig.frames(0)
        rig.encoder.gate.clear()
        rig.finish()
        rig.capture.changed = frozenset({2})
        rig.capture.draw()
        await rig.until_begun(2)
        rig.capture.changed = frozenset({3})
        rig.capture.draw()
        while rig.capture.grabs < 3:
            await settled(rig.screen)
        rig.encoder.gate.set()
        await rig.frames(0, 1)
        rig.capture.changed = frozenset({4})
        rig.capture.draw()
        await rig.quiet()
        since = rig.pipeline._pacing.sending_since
        assert since is not None
        rig.pipeline._pacing.sending_since = since - 1  # as if the host had taken a second
        rig.finish()
        await rig.until_shown(3)
        # A new encoder has seen nothing; of the frame that was left out it hears with the next.
        assert rig.encoder.changes == [None, frozenset({2}), frozenset({3, 4})]


@in_loop
async def test_picture_that_is_the_same_is_not_sent() -> None:
    async with rigged() as rig:
        rig.start()
        await rig.frames(0)
        rig.capture.changed = frozenset()
        for _ in range(3):
            grabs = rig.capture.grabs
            rig.capture.tell(Changes.PICTURE)
            while rig.capture.grabs == grabs:
                await settled(rig.screen)
        await rig.quiet()
        assert rig.sent == [0]
        rig.capture.changed = frozenset({0})
        rig.capture.draw()
        await rig.frames(0, 1)
        assert rig.pipeline._free_slots == {0, 1}


@in_loop
async def test_slow_host_gets_eased_frames_and_at_rest_a_full_one() -> None:
    async with rigged() as rig:
        rig.encoder.levels = 3
        rig.pipeline.withhold()
        rig.pipeline.add_credit()
        rig.start(SOON)
        await rig.frames(0)
        for shade in (1, 2, 3):
            rig.capture.draw()
            await rig.quiet()
            since = rig.pipeline._pacing.room_wanted_since
            assert since is not None
            rig.pipeline._pacing.room_wanted_since = since - 1  # as if credit had taken a second
            rig.pipeline.add_credit()
            await rig.until_shown(shade)
        rig.pipeline.add_credit()
        await rig.frames(0, 1, 2, 3, 3)  # the last one again, after a rest
        assert rig.encoder.levels_used == [0, 1, 2, 2, 0]
        assert rig.encoder.refined == [False, False, False, False, True]


@in_loop
async def test_a_new_stream_begins_in_full_quality() -> None:
    async with rigged() as rig:
        rig.encoder.levels = 3
        rig.start()
        await rig.frames(0)
        rig.pipeline._easing.level = 2
        rig.start()
        await rig.frames(0, 0)
        assert rig.encoder.levels_used == [0, 0]


@in_loop
async def test_slots_take_turns() -> None:
    async with rigged() as rig:
        rig.start()
        await rig.frames(0)
        slots = list[int]()
        for shade in range(1, 6):
            rig.capture.draw()
            await rig.frames(*range(shade + 1))
            slots.append(rig.pipeline._last_slot)
        assert slots == [1, 0, 1, 0, 1]


@in_loop
async def test_last_change_is_shown_whatever_came_before() -> None:
    async with rigged() as rig:
        rig.start()
        for shade in range(1, 201):
            rig.capture.draw()
            if shade % 7 == 0:
                await turns(shade % 5)
        await rig.until_shown(200)
        await rig.quiet()
        assert rig.sent == sorted(rig.sent)
        assert rig.pipeline._free_slots == {0, 1}


@in_loop
async def test_small_change_is_encoded_where_it_is_captured() -> None:
    async with rigged() as rig:
        rig.encoder.brief_changes = 1
        rig.start()
        await rig.frames(0)
        bands = [frozenset({3}), frozenset({4}), frozenset({1, 2}), None, frozenset({5})]
        for shade, changed in enumerate(bands, 1):
            rig.capture.changed = changed
            rig.capture.draw()
            await rig.frames(*range(shade + 1))
        brief, other = "screen", "encoder"
        assert rig.encoder.threads == [other, brief, brief, other, other, brief]
        assert rig.encoder.changes == [None, *bands]
        assert rig.pipeline._free_slots == {0, 1}
        assert rig.pipeline.encode_time > 0


@in_loop
async def test_small_change_waits_for_the_frame_that_is_encoded() -> None:
    async with rigged() as rig:
        rig.encoder.brief_changes = 1
        rig.encoder.gate.clear()
        rig.start()
        await rig.until_begun(1)
        rig.capture.changed = frozenset({3})
        rig.capture.draw()
        while rig.capture.grabs < 2:
            await settled(rig.screen)
        rig.encoder.gate.set()
        await rig.frames(0, 1)
        assert rig.encoder.threads == ["encoder", "encoder"]


@in_loop
async def test_small_change_counts_what_was_left_out() -> None:
    async with rigged() as rig:
        rig.encoder.brief_changes = 2
        rig.start()
        await rig.frames(0)
        rig.pipeline._left_out = frozenset({7})
        rig.capture.changed = frozenset({3})
        rig.capture.draw()
        await rig.frames(0, 1)
        assert rig.encoder.changes[-1] == frozenset({3, 7})
        assert rig.encoder.threads[-1] == "screen"


@in_loop
async def test_small_change_that_cannot_be_encoded_ends_the_stream() -> None:
    async with rigged() as rig:
        rig.encoder.brief_changes = 1
        rig.start()
        await rig.frames(0)
        rig.encoder.fail = True
        rig.capture.changed = frozenset({3})
        rig.capture.draw()
        await rig.until_failed()
        assert rig.failed == ["no film"]
        rig.capture.draw()
        await rig.quiet()
        assert rig.sent == [0]
        assert rig.pipeline._free_slots == {0, 1}


@in_loop
async def test_small_change_of_a_stream_that_ended_is_not_sent() -> None:
    async with rigged() as rig:
        rig.encoder.brief_changes = 1
        rig.start()
        await rig.frames(0)
        rig.encoder.gate.clear()
        rig.capture.changed = frozenset({3})
        rig.capture.draw()
        while rig.encoder.count < 2:
            await turns(1)
        ended = rig.encoder
        rig.encoder = ShadeEncoder()
        rig.start()
        ended.gate.set()
        await rig.frames(0, 1)
        assert rig.encoder.changes == [None]
        assert rig.pipeline._free_slots == {0, 1}


@in_loop
async def test_small_changes_are_eased_too() -> None:
    async with rigged() as rig:
        rig.encoder.levels, rig.encoder.brief_changes = 3, 1
        rig.start()
        await rig.frames(0)
        rig.pipeline._easing.level = 2
        rig.pipeline._pacing.rests = SOON
        rig.capture.changed = frozenset({3})
        rig.capture.draw()
        await rig.frames(0, 1)
        rig.capture.changed = frozenset()
        await rig.frames(0, 1, 1)  # again at rest
        assert rig.encoder.levels_used[:3] == [0, 2, 0]
        assert rig.encoder.threads[:3] == ["encoder", "screen", "encoder"]


@in_loop
async def test_a_repetition_that_finds_a_change_is_of_full_quality() -> None:
    """The change was not reported yet; nothing else would be sent after the last repetition."""
    async with rigged() as rig:
        rig.encoder.levels, rig.encoder.brief_changes = 3, 1
        rig.start(SOON)
        await rig.frames(0)
        rig.pipeline._easing.level = 2
        rig.capture.changed = frozenset({3})
        await rig.frames(0, 0)  # again at rest
        assert rig.encoder.levels_used[:2] == [0, 0]
        assert rig.encoder.threads[:2] == ["encoder", "encoder"]


@in_loop
async def test_an_encoder_that_is_another_for_each_size() -> None:
    async with rigged() as rig:
        made = list[tuple[int, int]]()

        def make(width: int, height: int) -> ShadeEncoder:
            assert threading.current_thread().name == "encoder"
            made.append((width, height))
            rig.encoder = ShadeEncoder()
            rig.encoder.brief_changes = 1
            return rig.encoder

        rig.pipeline.start(make, LONG)
        await rig.frames(0)
        rig.capture.changed = frozenset({1})
        rig.capture.draw()
        await rig.frames(0, 1)
        first = rig.encoder
        rig.capture.size_now = (20, 10)
        rig.capture.draw()
        await rig.frames(0, 1, 2)
        assert made == [(48, 32), (20, 10)]
        assert first.changes == [None, frozenset({1})]
        assert rig.encoder.changes == [None]  # it has seen nothing before


@in_loop
async def test_an_encoder_that_cannot_be_made_ends_the_stream() -> None:
    async with rigged() as rig:

        def make(width: int, height: int) -> ShadeEncoder:
            raise EncoderError(f"no film of {width}x{height}")

        rig.pipeline.start(make, LONG)
        await rig.until_failed()
        assert rig.failed == ["no film of 48x32"]
        rig.start()
        await rig.frames(0)


@in_loop
async def test_encoder_knows_the_rate_that_was_told_or_else_measured() -> None:
    async with rigged() as rig:
        rig.encoder.brief_changes = 1
        rig.sends_at_once = False
        rig.start()
        await rig.frames(0)
        since = rig.pipeline._pacing.sending_since
        assert since is not None
        rig.pipeline._pacing.sending_since = since - 1000  # seconds that the host took
        rig.finish()
        measured = rig.pipeline.rate
        assert 0.0009 < measured <= 0.001  # of one byte
        rig.sends_at_once = True
        rig.pipeline.told_rate = 5.0
        rig.capture.changed = frozenset({1})
        rig.capture.draw()
        await rig.frames(0, 1)
        rig.pipeline.told_rate = 0.0
        rig.capture.changed = frozenset({1, 2})
        rig.capture.draw()
        await rig.frames(0, 1, 2)
        assert rig.encoder.rates == [0, 5, 0]


@in_loop
async def test_frames_that_have_passed_are_told_but_for_repetitions() -> None:
    async with rigged() as rig:
        rig.sends_at_once = False
        rig.pipeline.withhold()
        rig.pipeline.add_credit()
        rig.start(SOON)
        await rig.frames(0)
        rig.finish()
        assert rig.passed == []
        rig.capture.draw()
        await rig.quiet()
        rig.pipeline.add_credit()
        assert [(frame.size, frame.is_waiting) for frame in rig.passed] == [(1, True)]
        await rig.frames(0, 1)
        rig.pipeline.add_credit()
        rig.finish()
        assert [(frame.size, frame.is_waiting) for frame in rig.passed[1:]] == [(1, False)]
        await rig.frames(0, 1, 1)  # again at rest
        rig.pipeline.add_credit()
        rig.finish()
        assert len(rig.passed) == 2


@in_loop
async def test_who_hears_that_a_frame_has_passed_may_start_another_stream() -> None:
    async with rigged() as rig:
        other = ShadeEncoder()

        def restart(_frame: Passed) -> None:
            rig.pipeline._on_passed = rig.passed.append
            rig.encoder = other
            rig.start()

        rig.pipeline._on_passed = restart
        rig.start()
        await rig.frames(0, 0)
        assert other.changes == [None]
        await rig.quiet()
        assert rig.sent == [0, 0]
        assert rig.pipeline._free_slots == {0, 1}


@in_loop
async def test_close_ends_the_thread() -> None:
    async with rigged() as rig:
        rig.start()
        rig.pipeline.close()
        rig.pipeline._worker._thread.join(10)
        assert not rig.pipeline._worker._thread.is_alive()
        rig.capture.draw()
        await settled(rig.screen)
        assert rig.sent == []
