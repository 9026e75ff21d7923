"""When to capture and when to encode. Pure: the time comes in, a step comes out.

Frames go through three stages: captured, encoded, sent. The next frame is captured while the
last is being encoded, and no frame is encoded before the one ahead of it has left, so that never
more than one encoded frame exists. While the host takes nothing, nothing is captured either.

A client drops a frame that comes after its time to be played, and one whose time comes while it
still decodes the one before (spice-gtk does both); the server sets that time 0.4 s after it took
the frame, however long the frame then waits for a slow line. Nothing replaces what was dropped
until the screen changes again, and nobody tells. So after a frame that the host took slowly, whose
last bytes may have arrived just now, the next one keeps the distance of an interval. And of frames
that may have met one another on their way, the last is sent again once the screen has come to rest,
a few times at growing distances: one of them finds the way free, and the last picture stands. The
first frame of a stream counts as such, for the way may be full of what another stream has sent, and
so does one of less than full quality. Any other frame, which only a moment of the client's or the
line's own can cost, is sent again once, after a rest that a clock or a blinking cursor never takes.

A repetition has time, and is as sharp as its codec can make it: the first comes so soon that text
is sharp half a second after it was drawn, also by a single change that ends a long rest. Where a
client decodes frame after frame, without leaving one out, that is all that repetitions are for.

Where frames need credit, one is captured only when there is credit for it and for those ahead of
it, so that a picture never waits for credit and grows old.
"""

import enum
import math
from dataclasses import dataclass
from typing import Final

CLOSE: Final = 0.5  # seconds; a client plays a frame after 0.4, if nothing holds it up
# Seconds until the first repetition of a frame, and from each to the next. Before a line of
# 10 Mbit/s the host's kernel holds what takes 2.5 s, and a virtio port 3.5 s: their sum is over by
# the last one.
LONGEST_REST: Final = 4.0
RESTS: Final = (0.3, 1.0, 2.0, LONGEST_REST)
# The same where no frame is dropped: what the line did not take at once may come with the second.
SURE_RESTS: Final = (0.3, 2.0)


class Step(enum.Enum):
    """What to do now."""

    NOTHING = enum.auto()
    CAPTURE = enum.auto()
    ENCODE = enum.auto()


@dataclass(slots=True)
class Pacing:
    """The stages' state; times are in seconds of one monotonic clock.

    ``step`` says what to do and takes it as begun. ``wake_at`` is when to ask again though
    nothing happened; None if only an event can change the answer.
    """

    interval: float
    active: bool = False
    changed: bool = False  # the screen differs from what was captured last
    capturing: bool = False
    captured: bool = False  # a frame waits for the encoder
    encoding: bool = False
    sending_since: float | None = None
    due: float = 0.0
    rest_until: float = 0.0  # after a frame that was sent slowly
    sent_at: float = -math.inf  # when the last frame that was no repetition had left
    rests: tuple[float, ...] = RESTS  # of this stream's codec
    coming: tuple[float, ...] = RESTS  # of them; none when the last frame was repeated often enough
    repeat_at: float | None = None  # if nothing changes until then
    is_again: bool = False  # what is captured is a repetition
    is_overdue: bool = False  # what is captured is one if it turns out to be no news
    is_repeat: bool = False  # the frame that is encoded or sent is one
    is_eased: bool = False  # the frame that is encoded or sent is of less than full quality
    room_wanted_since: float | None = None  # a frame went; there is no room for another one yet
    credit: float = math.inf  # frames that may still be sent; an encoded one has used its own
    wake_at: float | None = None

    def start(self) -> None:
        """Begin a stream: the whole screen is news, at once."""
        self.active = self.changed = True
        self.due = 0.0
        self.captured = self.is_again = self.is_overdue = self.is_repeat = False
        self.sent_at, self.coming, self.repeat_at = -math.inf, self.rests, None

    def stop(self) -> None:
        """End the stream. What is being captured or encoded comes to its end, for nobody."""
        self.active = self.captured = False
        self.room_wanted_since = None

    def on_captured(self, *, usable: bool, is_news: bool = True) -> None:
        """The capture is done; not usable if the stream was stopped or the screen is away.

        It is no news when something was drawn that looks as before; then it is not sent, but the
        repetition of the frame before stands.
        """
        self.capturing = False
        self.is_again = self.is_again or (self.is_overdue and not is_news)
        self.captured = usable and self.active and (is_news or self.is_again)

    def on_encoded(self, now: float, *, usable: bool) -> None:
        """The encoder is free; the frame goes out now, if it is usable."""
        self.encoding = False
        if usable:
            self.sending_since = self.room_wanted_since = now
            self.credit -= 1

    def on_sent(self, now: float) -> None:
        """The frame has left. If that took long, what waits behind it may be out of date."""
        since, self.sending_since = self.sending_since, None
        is_slow = since is not None and now - since > self.interval
        if self.is_repeat:
            self.coming = self.coming[1:]
        else:
            self.coming = self._rests_after(since, is_slow=is_slow)
            self.sent_at = now
        self.repeat_at = now + self.coming[0] if self.coming else None
        if is_slow:
            self.rest_until = now + self.interval
            self.captured = self.captured and not self.changed

    def _rests_after(self, since: float | None, *, is_slow: bool) -> tuple[float, ...]:
        """Return the rests of a frame that was sent from ``since`` on and is no repetition."""
        since_last = math.inf if since is None else since - self.sent_at
        is_first = since_last == math.inf
        if is_first or since_last < CLOSE or is_slow or self.is_eased:
            return self.rests
        if since_last > self.rests[-1]:
            return (self.rests[0], self.rests[-1])
        return self.coming or self.rests[-1:]

    @property
    def is_waiting(self) -> bool:
        """Whether there is a newer picture than what was encoded last."""
        return self.changed or self.captured

    def maybe_room(self, now: float) -> float | None:
        """Return how long the host took to have room for another frame, once after each frame.

        None while it has none.
        """
        since = self.room_wanted_since
        if since is None or self.sending_since is not None or self.credit <= 0:
            return None
        self.room_wanted_since = None
        return now - since

    def step(self, now: float) -> Step:
        """Return what to do at ``now``; call again until it is NOTHING."""
        self.wake_at = None
        if not self.active or self.sending_since is not None:
            return Step.NOTHING
        if self.captured and not self.encoding:
            return self._not_before(self.rest_until, now, Step.ENCODE)
        if self.capturing or self.captured or self.credit <= self.encoding:
            return Step.NOTHING
        if self.changed:
            return self._not_before(max(self.due, self.rest_until), now, Step.CAPTURE)
        if self.repeat_at is None or self.encoding:
            return Step.NOTHING
        return self._not_before(self.repeat_at, now, Step.CAPTURE)

    def _not_before(self, earliest: float, now: float, step: Step) -> Step:
        if now < earliest:
            self.wake_at = earliest
            return Step.NOTHING
        if step is Step.ENCODE:
            self.captured, self.encoding = False, True
            self.is_repeat = self.is_again
        else:
            # On a steady beat while the screen keeps changing; from now on after a rest.
            is_on_beat = now - self.due < self.interval
            self.due = (self.due if is_on_beat else now) + self.interval
            # Once it is time for a repetition, what only looks like a change serves as one.
            is_due = self.repeat_at is not None and self.repeat_at <= now
            self.is_again, self.is_overdue = not self.changed, self.changed and is_due
            if is_due:
                self.repeat_at = None
            self.capturing, self.changed = True, False
        return step
