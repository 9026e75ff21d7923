"""What comes of looking for a session's display: an opened one, or why there is none."""

from dataclasses import dataclass
from typing import Final

from agent.capture.base import Capture
from sessiond.errors import DisplayError

# Codes of the daemon's.
NOT_FOUND: Final = "no-display-found"
REFUSED: Final = "display-refused"
UNSUPPORTED: Final = "type-unsupported"
ENDED: Final = "paused-by-user"  # at the screen
# What is there and does not let us in is nearest to what is wanted.
MOST_TELLING: Final = (REFUSED, UNSUPPORTED, NOT_FOUND)


@dataclass(frozen=True, slots=True)
class Opened:
    """A display that was opened: by which rule, and on which VT (0: nothing tells)."""

    capture: Capture
    rule: str
    display: str
    vt: int = 0
    backend: str = "x11"


class NoDisplayError(DisplayError):
    """No display could be opened; ``reason`` is a code of the daemon's."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
