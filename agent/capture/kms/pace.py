"""How often the screen is looked at: nothing tells when it changes. Pure."""

from dataclasses import dataclass
from typing import Final

QUICKEST: Final = 1 / 30  # seconds between two looks
SLOWEST: Final = 1 / 4
_GROWTH: Final = 1.5  # from a look that found nothing to the next one


@dataclass(slots=True)
class Pace:
    """``due`` is when to look next, in seconds of one clock.

    What changes now and then, as a console's cursor does five times a second, is seen a little
    later than what keeps moving.
    """

    interval: float = QUICKEST
    due: float = 0.0

    def on_looked(self, now: float, *, is_new: bool) -> None:
        """Take note of a look, and whether it found anything new."""
        if is_new:
            self.interval = max(QUICKEST, self.interval / 2)
        else:
            self.interval = min(SLOWEST, self.interval * _GROWTH)
        self.due = now + self.interval
