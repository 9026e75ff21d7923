"""Refusals in the log: each with its reason, but never a flood of them."""

import asyncio
import logging
from collections import Counter
from typing import Final

log = logging.getLogger(__name__)

PERIOD: Final = 10.0  # seconds
LINES_EACH: Final = 5  # a period, for one user: so that a storm of one hides nobody else's
LINES: Final = 25  # a period, for all: a user may have 65536 ids (subuid(5))

_OTHERS: Final = -1  # as a uid, of those that are only counted


class Refusals:
    """Logs the first refusals of a period, and how many more there were at its end.

    ``what`` is who is refused, such as "a helper". There is no timer unless something was
    suppressed.
    """

    def __init__(self, what: str, period: float = PERIOD) -> None:
        self._loop = asyncio.get_running_loop()
        self._what = what
        self._period = period
        self._ends = 0.0
        self._logged = Counter[int]()
        self._suppressed = Counter[int]()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, uid: int, pid: int, reason: str) -> None:
        """Log that one was refused, and why, or count it."""
        if self._loop.time() >= self._ends:
            self._summarize()
            self._ends = self._loop.time() + self._period
        if self._logged[uid] < LINES_EACH and self._logged.total() < LINES:
            self._logged[uid] += 1
            log.warning("%s of uid %d, pid %d, is refused: %s", self._what, uid, pid, reason)
            return
        is_named = uid in self._suppressed or len(self._suppressed) < LINES
        self._suppressed[uid if is_named else _OTHERS] += 1
        if not self._timer:
            self._timer = self._loop.call_at(self._ends, self._summarize)

    def close(self) -> None:
        """Say what there is left to say."""
        self._summarize()

    def _summarize(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._suppressed:
            whose = ", ".join(
                f"{count} of others" if uid == _OTHERS else f"{count} of uid {uid}"
                for uid, count in self._suppressed.most_common()
            )
            total = self._suppressed.total()
            log.warning("%d more suppressed: refused as %s were %s", total, self._what, whose)
        self._logged.clear()
        self._suppressed.clear()
