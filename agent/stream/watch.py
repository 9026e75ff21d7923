"""What a stream shows of the way to the host: how long frames take, and what they cost. Pure."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from agent.stream.choice import WINDOW, Way

ENOUGH: Final = 30  # frames in time, before that says something
SPAN: Final = 10.0  # seconds over which frames are counted
MOST: Final = 1024  # frames; more than are sent in that time
_WEIGHT: Final = 0.5  # of the newest sample of a rate
_GROWTH: Final = 1.01  # of a rate at which a frame left at once: nothing tells how much more it is
_FAST: Final = 1e9  # bytes/s; from here on there is no limit


@dataclass(frozen=True, slots=True)
class Passed:
    """A frame that was no repetition, and now there is room for another one.

    ``size`` in bytes, ``took`` in seconds since it was encoded; ``is_waiting``: there is a newer
    picture by now.
    """

    size: int
    took: float
    is_waiting: bool


@dataclass(slots=True)
class Watch:
    """Watches one stream after the other; ``interval`` is a frame's time in seconds."""

    interval: float
    since: float = 0.0  # no frame was late from then on
    in_time: int = 0  # frames since then
    took: float = 0.0
    picture: int = 0
    _held: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=MOST))
    _sent: deque[float] = field(default_factory=lambda: deque(maxlen=MOST))

    def begin(self, now: float) -> None:
        """Begin anew: what a frame of another stream or codec took says nothing of this one."""
        self.since, self.in_time, self.took = now, 0, 0.0
        self._held.clear()
        self._sent.clear()

    def on_passed(self, now: float, frame: Passed, *, is_mjpeg: bool) -> None:
        """Take note of a frame, at the moment when there is room for another one."""
        if is_mjpeg:
            self.picture = frame.size
        took = frame.took
        self.took = took
        self._sent.append(now)
        if took <= self.interval:
            self.in_time += 1
            return
        self.since, self.in_time = now, 0
        if frame.is_waiting:
            self._held.append((now, took - self.interval))

    def way(self, now: float, rate: float) -> Way:
        """Return what is known at ``now`` of a way to the host that takes ``rate`` bytes/s."""
        while self._held and self._held[0][0] < now - WINDOW:
            self._held.popleft()
        while self._sent and self._sent[0] < now - SPAN:
            self._sent.popleft()
        return Way(
            held=sum(held for _, held in self._held),
            took=self.took,
            in_time=now - self.since if self.in_time >= ENOUGH else 0.0,
            rate=rate,
            picture=self.picture,
            need=self.picture * len(self._sent) / SPAN,
        )


@dataclass(slots=True)
class Rate:
    """How many bytes a second a port takes, by how long frames took to leave.

    0 while nobody knows: none had to wait yet. What the kernel holds back unseen makes it too
    high, for as long as that lasts; who sees more of the port knows better.
    """

    interval: float
    value: float = 0.0

    def on_sent(self, size: int, took: float) -> None:
        """Take note that a frame of ``size`` bytes left in ``took`` seconds."""
        if took > self.interval:
            sample = size / took
            self.value = self.value + _WEIGHT * (sample - self.value) if self.value else sample
        else:
            self.value *= _GROWTH
            if self.value > _FAST:
                self.value = 0.0
