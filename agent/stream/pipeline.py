"""Frames on their way: captured in one thread, encoded in another, handed to whoever sends.

A small change is encoded by the thread that captured it: waking another one, and the loop between
them, would cost about as much as encoding it.

``pacing`` decides; this does what it says. A stream's frames carry its number, so that one that
was begun for an earlier stream is not sent in a later one.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.capture.base import SLOTS, Capture, Frame, merged
from agent.encode.base import Encoder
from agent.stream.easing import Easing
from agent.stream.encoding import Encoded, Encoding, MakeEncoder, Manner
from agent.stream.pacing import Pacing, Step
from agent.stream.screen import Screen
from agent.stream.watch import Passed, Rate
from agent.stream.worker import Worker, attempt
from sessiond.errors import SessiondError

if TYPE_CHECKING:
    from agent.capture.sign import Sign

SendFrame = Callable[[Encoder, Frame, bytes], None]
"""Called with the frame (its size counts, its pixels may be gone soon) and its encoded form."""


class Pipeline:
    """Makes one stream after the other from one screen.

    After each ``send`` the caller owes one ``on_sent``. ``fail`` hears of a frame that could not
    be encoded; the stream is stopped then. ``on_passed`` hears of each frame once there is room for
    another one, and may start another stream. ``skipped`` counts frames that were captured and
    replaced by a newer one, ``encode_time`` the seconds that encoding took, both since ever.
    ``told_rate`` is what the way to the host takes, in bytes/s, where somebody knows better than
    we; 0 if it is not known. ``sign`` is there until the screen was captured, for as long as it
    may stand in for it.
    """

    def __init__(
        self,
        screen: Screen,
        *,
        framerate: int,
        send: SendFrame,
        fail: Callable[[str], None],
        on_passed: Callable[[Passed], None] = lambda _frame: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._screen = screen
        self._worker = Worker()
        self.skipped = 0
        self.encode_time = 0.0
        self._send = send
        self._fail = fail
        self._on_passed = on_passed
        self._pacing = Pacing(1 / framerate)
        self._easing = Easing(self._pacing.interval)
        self.told_rate: float | None = None
        self.sign: Sign | None = None
        self._rate = Rate(self._pacing.interval)
        self._encoding: Encoding | None = None
        self._stream = 0
        self._captured: Frame | None = None
        # What was captured, if it is encoded already.
        self._encoded: Encoded | SessiondError | None = None
        self._sent_size = 0  # bytes of the newest frame
        self._left_out: frozenset[int] | None = None  # what changed in frames nobody encoded
        self._free_slots = set(range(SLOTS))
        self._last_slot = SLOTS - 1
        self._timer: asyncio.TimerHandle | None = None

    @property
    def interval(self) -> float:
        """A frame's time, in seconds."""
        return self._pacing.interval

    @property
    def rate(self) -> float:
        """Bytes a second that the way to the host takes; 0 if that is not known."""
        return self._rate.value if self.told_rate is None else self.told_rate

    def start(self, make: MakeEncoder, rests: tuple[float, ...]) -> None:
        """Begin a stream with a frame of the whole screen, whether it changed or not.

        A picture that stays is sent again after ``rests``, in seconds.
        """
        self.stop()
        self._encoding = Encoding(make)
        self._left_out = None  # nobody has seen anything yet
        self._easing = Easing(self._pacing.interval)
        self._pacing.rests = rests
        self._pacing.start()
        self._go()

    def stop(self) -> None:
        """End the stream: not one frame more is sent."""
        self._stream += 1
        self._pacing.stop()
        self._drop_captured()
        self._go()

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._worker.close()

    def withhold(self) -> None:
        """Need credit for every frame from now on, and have none."""
        self._pacing.credit = 0
        self._go()

    def add_credit(self) -> None:
        """Let one more frame come."""
        self._pacing.credit += 1
        self._go()

    def on_changed(self) -> None:
        """The screen differs from the last capture."""
        self._pacing.changed = True
        self._go()

    def on_sent(self) -> None:
        """The frame has left, or will never."""
        now, since = self._loop.time(), self._pacing.sending_since
        if since is not None and self._pacing.active:
            self._rate.on_sent(self._sent_size, now - since)
        self._pacing.on_sent(now)
        if not self._pacing.captured and self._captured is not None:
            self.skipped += 1
            self._drop_captured()
        self._go()

    def _drop_captured(self) -> None:
        if self._captured is not None:
            self._leave_out(self._captured)
            self._captured = self._encoded = None

    def _leave_out(self, frame: Frame) -> None:
        self._left_out = merged(self._left_out, frame.changed)
        self._free_slots.add(frame.slot)

    def _take_slot(self) -> int:
        """Take a free slot: another one than last, so that the two pictures can be compared."""
        slot = min(self._free_slots, key=lambda slot: slot == self._last_slot)
        self._free_slots.remove(slot)
        self._last_slot = slot
        return slot

    def _go(self) -> None:
        took = self._pacing.maybe_room(self._loop.time())
        if took is not None and not self._pacing.is_repeat:
            self._easing.on_room(took)
            self._on_passed(Passed(self._sent_size, took, self._pacing.is_waiting))
        while (step := self._pacing.step(self._loop.time())) is not Step.NOTHING:
            if step is Step.CAPTURE:
                self._capture()
            else:
                self._encode()
        self._wake_at(self._pacing.wake_at)

    def _wake_at(self, when: float | None) -> None:
        if self._timer and self._timer.when() != when:
            self._timer.cancel()
            self._timer = None
        if when is not None and not self._timer:
            self._timer = self._loop.call_at(when, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._go()

    def _capture(self) -> None:
        stream, slot, sign = self._stream, self._take_slot(), self.sign
        encode_brief = self._brief_encoding()

        def grab(capture: Capture) -> tuple[Frame | None, Encoded | SessiondError | None]:
            frame = sign.grab(capture, slot) if sign else capture.grab(slot)
            return frame, encode_brief(frame) if frame else None

        def done(result: tuple[Frame | None, Encoded | SessiondError | None]) -> None:
            frame, encoded = result
            if frame is None:
                self._free_slots.add(slot)
                self._pacing.on_captured(usable=False)
            else:
                if stream == self._stream and not frame.stands_in:
                    self.sign = None
                is_news = merged(self._left_out, frame.changed) != frozenset()
                self._pacing.on_captured(usable=stream == self._stream, is_news=is_news)
                self._captured, self._encoded = frame, encoded
                if not self._pacing.captured:
                    self._drop_captured()
            self._go()

        self._screen.call_nowait(grab, done)

    def _brief_encoding(self) -> Callable[[Frame], Encoded | SessiondError | None]:
        """Return what encodes a captured frame at once if that is brief, else returns None.

        Only a frame that nobody is ahead of: it will be encoded next, unless the stream ends.
        """
        encoding, left_out = self._encoding, self._left_out
        manner = Manner(self._easing.level, self.rate, is_refining=False)
        if encoding is None or self._pacing.encoding or self._pacing.is_again:
            return lambda _frame: None

        def encode(frame: Frame) -> Encoded | SessiondError | None:
            news = replace(frame, changed=merged(left_out, frame.changed))
            if not news.changed or not encoding.is_brief(news, manner.level):
                return None
            return attempt(lambda: encoding.encode(news, manner))

        return encode

    def _encode(self) -> None:
        stream, frame, encoding = self._stream, self._captured, self._encoding
        assert frame is not None  # noqa: S101 (Step.ENCODE says that there is one)
        assert encoding is not None  # noqa: S101 (as there is in every stream)
        left_out, encoded = self._left_out, self._encoded
        self._captured, self._encoded, self._left_out = None, None, frozenset()
        if encoded is not None:
            self._on_encoded(stream, frame, encoded)
            return
        is_repeat = self._pacing.is_repeat
        manner = Manner(0 if is_repeat else self._easing.level, self.rate, is_refining=is_repeat)

        def encode() -> Encoded:
            news = replace(frame, changed=merged(left_out, frame.changed))
            return encoding.encode(news, manner)

        def done(result: Encoded | SessiondError) -> None:
            self._on_encoded(stream, frame, result)
            self._go()

        self._worker.call_nowait(encode, done)

    def _on_encoded(self, stream: int, frame: Frame, result: Encoded | SessiondError) -> None:
        self._free_slots.add(frame.slot)
        is_current = stream == self._stream
        usable = is_current and not isinstance(result, SessiondError)
        self._pacing.on_encoded(self._loop.time(), usable=usable)
        if isinstance(result, Encoded):
            self.encode_time += result.seconds
        if not is_current:
            return
        if isinstance(result, SessiondError):
            self.stop()
            self._fail(str(result))
            return
        self._easing.levels = result.encoder.levels
        self._pacing.is_eased = result.level > 0
        self._sent_size = len(result.data)
        self._send(result.encoder, frame, result.data)
