"""How long there has been nothing to capture: what is over in a moment is not told."""

import asyncio
from collections.abc import Callable
from typing import Final

PATIENCE: Final = 0.5  # seconds; an X server may take as long to be on its VT


class Absence:
    """Tells why nothing can be captured when that has lasted, and its end, as "", at once.

    From ``begin`` to ``end``, which is a stream; each of them is told anew.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._tell = tell
        self._reason = ""
        self._told = ""
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, reason: str) -> None:
        """Nothing can be captured now for ``reason``; "" if it can."""
        self.end()
        self.change(reason)

    def change(self, reason: str) -> None:
        """It is for ``reason`` from now on."""
        self._reason = reason
        if not reason or self._told:
            self._settle()
        elif self._timer is None:
            self._timer = self._loop.call_later(PATIENCE, self._settle)

    def end(self) -> None:
        """Tell no more."""
        self._cancel()
        self._reason = self._told = ""

    def _settle(self) -> None:
        self._cancel()
        if self._reason != self._told:
            self._told = self._reason
            self._tell(self._told)

    def _cancel(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
