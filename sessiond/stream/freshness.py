"""How much may be on its way to the host. Pure: the time comes in with every event.

What the kernel accepted is not yet consumed: a virtqueue takes 128 writes before it blocks, and
behind a slow line that is seconds. At each refusal the queue is known to be full; so what fell
out at its other end between two refusals is what was consumed, and tells the host's rate. From
then on writes are so small that a full queue holds ``FULL`` seconds of that rate, and the next
frame is asked for when no more than ``IN_FLIGHT`` seconds are on their way.

Without a refusal nothing tells whether the host has become faster: so where it is the estimate
that holds frames back, it grows a little with each queueful that went through, and more the
longer that lasts, until the next refusal. Where the frames are so small that it holds nothing
back, it is worth less and less while they flow: who adapts to it is told of more, and the next
stream that begins is not held back by it, but finds out anew.

Small frames would also be many in one queue. So each goes in a few writes at least, and what a
queue holds before the first refusal is never more than some half a second of pictures.
"""

import math
from collections import deque
from typing import Final

QUEUE: Final = 128  # writes; Linux, virtio_console: the size of QEMU's virtqueue
LARGE: Final = 32 << 10  # bytes of one write; a virtio port takes no more
SMALLEST: Final = 256
PIECES: Final = 8  # of one message, at least: a queue holds no more than 16 of them
IN_FLIGHT: Final = 0.1  # seconds
FULL: Final = 0.2  # seconds; more than IN_FLIGHT, or every frame would be stopped half-way
OLD: Final = 10.0  # seconds in which an estimate held nothing back, so that it may be too low
MOST: Final = 4.0  # times an estimate is what is told; a frame for so much is half a second late
_PAUSE: Final = 1.0  # seconds from one frame to the next; what is longer proves nothing
LONGEST: Final = 1.0  # seconds; a wrong estimate must not silence the stream
_STALL: Final = 1.0  # seconds without a byte taken: a host that sleeps, not a slow one
_SHORTEST: Final = 0.05  # seconds; a sample over less says little
_WEIGHT: Final = 0.5  # of the newest sample in the estimate
_DOUBT: Final = 0.8  # what is left of an estimate with which the refusal was not to be expected
_PROBE: Final = 0.01  # growth of the estimate at the first queueful that was not refused


class _Trial:
    """What an estimate that may be wrong is held against, until there is a sample."""

    def __init__(self, now: float) -> None:
        self.was_refused = False
        self._begin = now
        self._accepted = 0
        self._largest = self._message = 0

    def on_accepted(self, size: int) -> None:
        self._accepted += size
        self._message += size

    def on_drained(self, now: float, held: int) -> float:
        """Return the bytes a second that were consumed at least.

        All may be on its way that a queue holds; and a host has room for a whole message of its
        own, so that a moment says nothing.
        """
        self._largest = max(self._largest, self._message)
        self._message = 0
        consumed = self._accepted - held - self._largest
        return consumed / max(1.0, now - self._begin)


class Freshness:
    """Watches the writes to one opening of the port."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque()  # what a full queue would hold, the oldest first
        self._held = 0  # its sum
        self._capacity = QUEUE
        self._rate = 0.0  # bytes/s consumed; 0: not known, nothing has ever blocked
        self._queued = 0.0  # bytes on their way at ``_at``
        self._at = 0.0
        self._sample_from: float | None = None  # a refusal
        self._consumed = 0  # since then, in bytes
        self._writes = 0  # since then
        self._was_empty = False  # since then, as far as the estimate goes
        self._blocked_at: float | None = None  # nothing was accepted since
        self._unrefused = 0  # writes
        self._probes = 0
        self._held_back = False  # a frame, by our delay, since the last probe
        self._unused = 0.0  # seconds in which frames flowed, none refused nor held back
        self._asked_at = 0.0
        self._trial: _Trial | None = None

    @property
    def rate(self) -> float:
        """Bytes a second that the host consumes; 0 while nobody knows."""
        return self._rate

    @property
    def guess(self) -> float:
        """Return the rate for who can adapt to it, 0 while nobody knows.

        One that has held nothing back for long is told as more, twice as much every ``OLD``
        seconds: if that is too much, what comes next will show it.
        """
        doublings = max(0.0, self._unused / OLD - 1)
        return self._rate * math.pow(2, min(doublings, math.log2(MOST)))

    def write_size(self, message: int) -> int:
        """Return how many bytes to write at once of a message of so many."""
        fitting = int(self._rate * FULL / QUEUE) if self._rate else LARGE
        return max(SMALLEST, min(LARGE, fitting, message // PIECES))

    def on_stream(self, now: float) -> None:
        """A stream begins: an estimate that has held nothing back for long shall not begin to."""
        if self._rate and self._unused > OLD:
            self._trial = _Trial(now)

    def on_accepted(self, now: float, *sizes: int) -> None:
        """Writes were taken by the kernel, one after the other."""
        self._drain(now)
        if self._blocked_at is not None and now - self._blocked_at > _STALL:
            self._begin_sample(now)
        self._blocked_at = None
        self._recent += sizes
        self._held += sum(sizes)
        self._writes += len(sizes)
        excess = len(self._recent) - self._capacity
        consumed = sum([self._recent.popleft() for _ in range(excess)])
        self._held -= consumed
        self._consumed += consumed
        self._queued = min(self._queued + sum(sizes), self._held)
        self._unrefused += len(sizes)
        if self._trial:
            self._trial.on_accepted(sum(sizes))

    def on_blocked(self, now: float) -> None:
        """A write was refused: the queue is full. More calls until one is taken do nothing."""
        if self._blocked_at is not None:
            return
        if self._sample_from is None:
            self._capacity = min(len(self._recent), QUEUE) or QUEUE  # less than QUEUE: a socket
            self._begin_sample(now)
        elif self._trial and not self._trial.was_refused:
            self._trial.was_refused = True
            self._begin_sample(now)
        elif now - self._sample_from >= _SHORTEST:
            self._take_sample(now - self._sample_from)
            self._begin_sample(now)
            self._trial = None
        self._blocked_at = self._at = now
        self._unused = 0.0
        self._queued = float(self._held)
        self._unrefused = self._probes = 0

    def on_drained(self, now: float) -> None:
        """All was written: if for a queueful nothing was refused, the host may be faster."""
        if self._rate and self._unrefused >= self._capacity:
            self._unrefused = 0
            if self._held_back:
                self._probes += 1
                self._rate *= 1 + _PROBE * self._probes
            self._held_back = False
        if self._trial:
            self._rate = max(self._rate, self._trial.on_drained(now, self._held))

    def delay(self, now: float) -> float:
        """Return the seconds after which one more frame may be asked for; 0 for at once."""
        if not self._rate:
            return 0.0
        self._drain(now)
        wait = min(LONGEST, max(0.0, self._queued / self._rate - IN_FLIGHT))
        since, self._asked_at = self._asked_at, now
        if self._trial or not wait:
            self._unused += min(now - since, _PAUSE)
            return 0.0
        self._held_back = True
        self._unused = 0.0
        return wait

    def _begin_sample(self, now: float) -> None:
        self._sample_from = now
        self._consumed = self._writes = 0
        self._was_empty = False

    def _take_sample(self, seconds: float) -> None:
        # A queue that was full, and took less than a queueful until it was full again, was never
        # empty. One that was may have been idle: then the host consumes at least so much.
        sample = self._consumed / seconds
        is_exact = self._writes < self._capacity or not self._was_empty
        if not self._rate:
            # Without an estimate nobody knows whether it was; in so short a time hardly.
            if self._writes < self._capacity or seconds < FULL:
                self._rate = sample
        elif is_exact:
            self._rate += _WEIGHT * (sample - self._rate)
        else:
            self._rate = max(self._rate * _DOUBT, sample)

    def _drain(self, now: float) -> None:
        self._queued -= self._rate * (now - self._at)
        if self._queued <= 0:
            self._queued = 0.0
            self._was_empty = True
        self._at = now
