"""How good the next frame is, by how long the host took for the last ones. Pure.

Smaller frames make room for fresher ones: a host that takes longer for a frame than the time of
one gets the next at a lower level of quality. What the levels are is for the encoder to know.
"""

from dataclasses import dataclass
from typing import Final

STEADY: Final = 30  # frames in time until one level better is tried; a wrong try costs a late one


@dataclass(slots=True)
class Easing:
    """Level 0 is full quality, ``levels - 1`` the least; ``interval`` is a frame's time."""

    interval: float
    levels: int = 1
    level: int = 0
    in_time: int = 0  # frames, one after the other, since the level was changed

    def on_room(self, took: float) -> None:
        """Take note that there was room for another frame ``took`` seconds after the last."""
        if took > self.interval:
            self.level = min(self.level + 1, self.levels - 1)
            self.in_time = 0
            return
        self.in_time += 1
        if self.in_time >= STEADY:
            self.level = max(self.level - 1, 0)
            self.in_time = 0
