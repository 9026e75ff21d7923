"""Time as a coder of one fixed bit rate has to see it, so that its frames fit another. Pure.

A coder that keeps to a rate gives each frame the bits of the time since the frame before. It
cannot be told of another rate, but its frames bear the time that we choose: where the line takes
three times what the coder believes, a second is three.
"""

from dataclasses import dataclass
from typing import Final

UNIT: Final = 1000  # of the times that are returned, a second
UNKNOWN_RATE: Final = 2_500_000.0  # bytes a second, for a line of which nobody ever had to wait
# Seconds. After a pause the line owes us no more: what comes then is to be there at once.
_LONGEST: Final = 0.12
_LONGEST_AT_REST: Final = 0.5  # but what is to stand for long may take what the pause has left
_MOST: Final = 8.0  # of the coder's time: libvpx takes more than ten for a mistake


@dataclass(slots=True)
class LineClock:
    """The time of a coder of ``bit_rate`` bits a second; with 0, which keeps to none, our own."""

    bit_rate: int
    last: float | None = None  # when the frame before was encoded, in seconds of our own clock
    time: float = 0.0  # its time, in seconds of the coder's

    def tick(self, now: float, rate: float, *, is_refining: bool = False) -> int:
        """Return the time of the frame that is encoded ``now``, in 1/``UNIT`` s; it always grows.

        ``rate`` is what the line takes, in bytes a second, or 0.
        """
        if self.last is not None:
            step = min(now - self.last, _LONGEST_AT_REST if is_refining else _LONGEST)
            if self.bit_rate:
                step *= (rate or UNKNOWN_RATE) * 8 / self.bit_rate
            self.time += min(max(step, 1 / UNIT), _MOST)
        self.last = now
        return round(self.time * UNIT)
