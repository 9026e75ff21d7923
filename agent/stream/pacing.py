"""When to capture and when to encode. Pure: the time comes in, a step comes out.

Frames go through three stages: captured, encoded, sent. The next frame is captured while the
last is being encoded, and no frame is encoded before the one ahead of it has left, so that never
more than one encoded frame exists. While the host takes nothing, nothing is captured either.
"""

import enum
from dataclasses import dataclass


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
    captured_at: float | None = None  # when the frame that waits for the encoder was captured
    encoding: bool = False
    sending: bool = False
    due: float = 0.0
    wake_at: float | None = None

    def start(self) -> None:
        """Begin a stream: the whole screen is news, at once."""
        self.active = self.changed = True
        self.due = 0.0
        self.captured_at = None

    def stop(self) -> None:
        """End the stream. What is being captured or encoded comes to its end, for nobody."""
        self.active = False
        self.captured_at = None

    def on_captured(self, now: float, *, usable: bool) -> None:
        """The capture is done; not usable if the stream was stopped or the screen is away."""
        self.capturing = False
        if usable and self.active:
            self.captured_at = now

    def on_encoded(self, *, usable: bool) -> None:
        """The encoder is free; the frame goes out now, if it is usable."""
        self.encoding = False
        if usable:
            self.sending = True

    def on_sent(self, now: float) -> None:
        """The frame has left. One that waited too long behind it is out of date."""
        self.sending = False
        if self.captured_at is not None and self.changed and now - self.captured_at > self.interval:
            self.captured_at = None

    def step(self, now: float) -> Step:
        """Return what to do at ``now``; call again until it is NOTHING."""
        self.wake_at = None
        if not self.active:
            return Step.NOTHING
        if self.captured_at is not None and not self.encoding and not self.sending:
            self.captured_at = None
            self.encoding = True
            return Step.ENCODE
        if not self.changed or self.capturing or self.captured_at is not None or self.sending:
            return Step.NOTHING
        if now < self.due:
            self.wake_at = self.due
            return Step.NOTHING
        # On a steady beat while the screen keeps changing; from now on after a rest.
        is_on_beat = now - self.due < self.interval
        self.due = (self.due if is_on_beat else now) + self.interval
        self.capturing = True
        self.changed = False
        return Step.CAPTURE
