"""How long to wait before the next try."""

import random
from typing import Final

FIRST: Final = 0.25  # seconds
LONGEST: Final = 30.0
_JITTER: Final = 0.1  # so that many guests of one host do not come back in step


class Backoff:
    """Delays of ``first`` s, by default 0.25, doubling up to 30, each up to a tenth longer."""

    def __init__(self, first: float | None = None) -> None:
        self._first = FIRST if first is None else first
        self._next = self._first

    def delay(self) -> float:
        """Return the seconds to wait now; the next answer is twice as long."""
        wait, self._next = self._next, min(2 * self._next, LONGEST)
        return wait * random.uniform(1, 1 + _JITTER)  # noqa: S311 (not a secret)

    def reset(self) -> None:
        """Begin again: what was tried has worked."""
        self._next = self._first
