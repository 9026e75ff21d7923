"""Which sessions' agents have failed, why, and when each is tried again.

Between two tries lies a back-off; an event that may have changed something ends it early, but
never sooner than ``SOONEST`` after the failure, for users can cause such events too. What any user
can cause, and not only the session's, makes no try come sooner than the back-off would have.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from sessiond.model import Reason
from sessiond.transport.backoff import LONGEST, Backoff

SOONEST: Final = 1.0  # seconds
STEADY: Final = 10.0  # seconds of work after which a failure is a new one


@dataclass(slots=True)
class _Trouble:
    reason: Reason
    text: str
    backoff: Backoff
    since: float = 0.0  # of the failure, or of the last look
    not_before: float = 0.0  # when it is tried again, if that is by another user's doing
    is_due: bool = False
    timer: asyncio.TimerHandle | None = None
    next_try: float = 0.0  # in seconds since 1970; 0 without a timer

    def cancel(self) -> None:
        if self.timer:
            self.timer.cancel()
            self.timer = None
            self.next_try = 0.0


class Troubles:
    """The failures by agents' keys; ``on_due()`` is called when one is to be tried again.

    ``first`` is the first wait, in seconds; by default every back-off's.
    """

    def __init__(self, on_due: Callable[[], None], *, first: float | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_due = on_due
        self._first = first
        self._by_key: dict[str, _Trouble] = {}
        self._recovered: dict[str, tuple[Backoff, float]] = {}  # and since when

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def keys(self) -> frozenset[str]:
        """Return whose agents have failed, those that work again among them."""
        return frozenset(self._by_key | self._recovered)

    def because(self, reasons: Iterable[Reason]) -> frozenset[str]:
        """Return whose agents have failed for one of these reasons."""
        wanted = frozenset(reasons)
        return frozenset(key for key, it in self._by_key.items() if it.reason in wanted)

    def explain(self, key: str) -> tuple[Reason | None, str]:
        """Return why it failed; None and "" if it did not."""
        trouble = self._by_key.get(key)
        return (trouble.reason, trouble.text) if trouble else (None, "")

    def is_waiting(self, key: str) -> bool:
        """Whether it failed and is not to be tried yet."""
        trouble = self._by_key.get(key)
        return trouble is not None and not trouble.is_due

    def next_try(self) -> float:
        """Return the time of the next try in seconds since 1970, 0 when none is due."""
        return min((t.next_try for t in self._by_key.values() if t.timer), default=0.0)

    def add(self, key: str, reason: Reason, text: str, *, is_probe: bool = False) -> bool:
        """Take note of a failure; return whether it is tried again by itself.

        A probe is given up when the back-off is at its longest.
        """
        trouble, delay = self._note(key, reason, text)
        if is_probe and delay >= LONGEST:
            return False
        self._schedule(trouble, delay)
        return True

    def rest(self, key: str, reason: Reason, text: str) -> None:
        """Take note of what only an event can change: no timer runs."""
        self._note(key, reason, text)

    def look_later(self, key: str) -> None:
        """Take note that nothing was tried, for nothing was new; in the end it is given up."""
        trouble = self._by_key.get(key)
        if trouble:
            trouble.cancel()
            trouble.since, trouble.is_due = self._loop.time(), False
            delay = trouble.backoff.delay()
            if delay < LONGEST:
                self._schedule(trouble, delay)

    def hurry(self, keys: Iterable[str], *, by_anybody: bool = False) -> None:
        """Try these again soon: something about them is new.

        ``by_anybody``: every user could have caused that.
        """
        for key in frozenset(keys):
            trouble = self._by_key.get(key)
            if trouble and not trouble.is_due:
                now = self._loop.time()
                earliest = trouble.not_before if by_anybody else now
                when = max(trouble.since + SOONEST, earliest, now)
                if trouble.timer is None or when < trouble.timer.when():
                    trouble.cancel()
                    if not by_anybody:
                        trouble.backoff.reset()
                    self._schedule(trouble, when - now)

    def recover(self, key: str) -> None:
        """Take note that it works; the next wait is only the first again when it does so long."""
        trouble = self._by_key.pop(key, None)
        if trouble:
            trouble.cancel()
            self._recovered[key] = trouble.backoff, self._loop.time()

    def forgive(self, keys: Iterable[str]) -> None:
        """Forget what was."""
        for key in keys:
            self._recovered.pop(key, None)
            trouble = self._by_key.pop(key, None)
            if trouble:
                trouble.cancel()

    def _note(self, key: str, reason: Reason, text: str) -> tuple[_Trouble, float]:
        """Return the failure, and for how long it is to be waited."""
        backoff, since = self._recovered.pop(key, (Backoff(self._first), 0.0))
        now = self._loop.time()
        if now - since > STEADY:
            backoff.reset()
        trouble = self._by_key.setdefault(key, _Trouble(reason, text, backoff))
        trouble.cancel()
        trouble.reason, trouble.text = reason, text
        trouble.since, trouble.is_due = now, False
        delay = trouble.backoff.delay()
        trouble.not_before = now + delay
        return trouble, delay

    def _schedule(self, trouble: _Trouble, delay: float) -> None:
        trouble.timer = self._loop.call_later(delay, self._due, trouble)
        trouble.next_try = time.time() + delay

    def _due(self, trouble: _Trouble) -> None:
        trouble.timer = None
        trouble.next_try = 0.0
        trouble.is_due = True
        self._on_due()
