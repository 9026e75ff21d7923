"""When to capture and when to encode. Pure: the time comes in, a step comes out.

Frames go through three stages: captured, encoded, sent. The next frame is captured while the
last is being encoded, and no frame is encoded before the one ahead of it has left, so that never
more than one encoded frame exists. While the host takes nothing, nothing is captured either.

A client drops a frame whose time comes while it still decodes the one before (spice-gtk does), and
nothing replaces it until the screen changes again. So after a frame that the host took slowly,
whose last bytes may have arrived just now, the next one keeps the distance of an interval. And the
last of frames that came close after one another is sent once more when the screen has come to rest:
whatever happened to it on its way, the last picture stands. So is one of less than full quality.

Where frames need credit, one is captured only when there is credit for it and for those ahead of
it, so that a picture never waits for credit and grows old.
"""

import enum
import math
from dataclasses import dataclass
from typing import Final

CLOSE: Final = 0.1  # seconds between two frames; a slow client decodes one in less
REST: Final = 0.5  # seconds; a client has played what it got by then (0.4 s in spice-server)


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
    sent_at: float = -math.inf  # when the last frame had left
    repeat_at: float | None = None  # if nothing changes until then
    is_repeat: bool = False  # what is on its way
    is_eased: bool = False  # the frame that is encoded or sent is of less than full quality
    room_wanted_since: float | None = None  # a frame went; there is no room for another one yet
    credit: float = math.inf  # frames that may still be sent; an encoded one has used its own
    wake_at: float | None = None

    def start(self) -> None:
        """Begin a stream: the whole screen is news, at once."""
        self.active = self.changed = True
        self.due = 0.0
        self.captured = self.is_repeat = False
        self.sent_at, self.repeat_at = -math.inf, None
        self.room_wanted_since = None

    def stop(self) -> None:
        """End the stream. What is being captured or encoded comes to its end, for nobody."""
        self.active = self.captured = False

    def on_captured(self, *, usable: bool, is_news: bool = True) -> None:
        """The capture is done; not usable if the stream was stopped or the screen is away.

        It is no news when something was drawn that looks as before; then it is not sent, but the
        repetition of the frame before stands.
        """
        self.capturing = False
        self.captured = usable and self.active and (is_news or self.is_repeat)

    def on_encoded(self, now: float, *, usable: bool) -> None:
        """The encoder is free; the frame goes out now, if it is usable."""
        self.encoding = False
        if usable:
            self.sending_since = self.room_wanted_since = now
            self.credit -= 1

    def on_sent(self, now: float) -> None:
        """The frame has left. If that took long, what waits behind it may be out of date."""
        since, self.sending_since = self.sending_since, None
        is_close = since is not None and since - self.sent_at < CLOSE
        is_poor = is_close or self.is_eased
        self.repeat_at = now + REST if is_poor and not self.is_repeat else None
        self.sent_at = now
        if since is not None and now - since > self.interval:
            self.rest_until = now + self.interval
            self.captured = self.captured and not self.changed

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
        else:
            # On a steady beat while the screen keeps changing; from now on after a rest.
            is_on_beat = now - self.due < self.interval
            self.due = (self.due if is_on_beat else now) + self.interval
            # Once it is time for a repetition, what only looks like a change serves as one.
            self.is_repeat = not self.changed or (self.repeat_at or math.inf) <= now
            if self.is_repeat:
                self.repeat_at = None
            self.capturing, self.changed = True, False
        return step
