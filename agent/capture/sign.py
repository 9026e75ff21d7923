"""What a stream shows before it has shown the screen, while nothing can be captured: why."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent.capture.base import Capture, Frame

_SIZE: Final = (1024, 768)  # pixels, of a screen whose size nobody knows


class Sign:
    """A sentence that stands in for the screen once it is ``put_up``.

    Who has sent a frame of the screen has no use for it any more: the last picture stands then.
    """

    def __init__(self) -> None:
        self._is_up = False
        self._is_of: tuple[tuple[int, int], str] | None = None
        self._picture: Capture | None = None

    def put_up(self) -> None:
        """Stand in from the next ``grab`` on; from any thread."""
        self._is_up = True

    def grab(self, capture: Capture, slot: int) -> Frame | None:
        """Capture the screen if there is something, else return the sentence if it is up.

        As large as the screen, as far as that is known.
        """
        frame = capture.grab(slot)
        if frame:
            return replace(frame, changed=None)  # what was seen before may be the sentence
        reason = capture.unavailable
        return self._drawn(capture.size, reason, slot) if self._is_up and reason else None

    def _drawn(self, size: tuple[int, int], reason: str, slot: int) -> Frame | None:
        from agent.capture.placeholder import PlaceholderCapture  # noqa: PLC0415 (fonts)

        wanted = (size if all(size) else _SIZE, reason)
        is_other = wanted != self._is_of
        if self._picture is None or is_other:
            self._picture = PlaceholderCapture(wanted[0], f"Nothing can be captured now: {reason}.")
            self._is_of = wanted
        frame = self._picture.grab(slot)
        return frame and replace(frame, changed=None if is_other else frozenset(), stands_in=True)
