"""So many in a period, and how many more there were in one word at its end."""

import asyncio
from collections.abc import Callable


class Budget:
    """``count`` in ``period`` seconds; ``tell(n)`` says that n more were suppressed.

    There is no timer unless something was.
    """

    def __init__(self, count: int, period: float, tell: Callable[[int], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._count = count
        self._period = period
        self._tell = tell
        self._ends = 0.0
        self._taken = 0
        self._suppressed = 0
        self._timer: asyncio.TimerHandle | None = None

    def take(self) -> bool:
        """Return whether one more is within the budget; else it is counted."""
        now = self._loop.time()
        if now >= self._ends:
            self.close()
            self._ends = now + self._period
            self._taken = 0
        if self._taken < self._count:
            self._taken += 1
            return True
        self._suppressed += 1
        if not self._timer:
            self._timer = self._loop.call_at(self._ends, self.close)
        return False

    def close(self) -> None:
        """Say what there is left to say."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        suppressed, self._suppressed = self._suppressed, 0
        if suppressed:
            self._tell(suppressed)
