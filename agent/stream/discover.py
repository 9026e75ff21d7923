"""Finds and opens the session's display: the back-ends of CONFIG are tried in their order.

Runs in the display's thread, as the session's user. How displays of one kind are found is for
``find_x11`` and ``find_wayland``, of which an agent loads only what it comes to.
"""

import logging
import time
from collections.abc import Callable
from importlib import import_module
from typing import Final, cast

from agent.stream.opened import MOST_TELLING, UNSUPPORTED, NoDisplayError, Opened
from agent.stream.places import Places
from sessiond.wire.link import MAX_TEXT, Config

log = logging.getLogger(__name__)

PATIENCE: Final = 8.0  # seconds after which no further candidate is tried

Find = Callable[[Config, Places, float], Opened]
"""Finds a display until a moment on the clock of ``time.monotonic``. Raises NoDisplayError."""

_FINDERS: Final = {
    "x11": ("agent.stream.find_x11", "find_x11"),
    "wlroots": ("agent.stream.find_wayland", "find_wlroots"),
    "mutter": ("agent.stream.find_wayland", "find_mutter"),
}


def open_session_display(config: Config, places: Places) -> Opened:
    """Open the first display that is the session's and lets us in.

    Raises NoDisplayError, whose text says by back-end what became of each candidate.
    """
    names = [name for name in config.capture if name in _FINDERS]
    if not names:
        words = ", ".join(config.capture) or "nothing"
        raise NoDisplayError(
            UNSUPPORTED,
            f"session {config.session} is to be captured by {words}, of which its agent has none",
        )
    end = time.monotonic() + PATIENCE
    refusals = dict[str, NoDisplayError]()
    for name in names:
        try:
            return _finder(name)(config, places, _deadline(end, is_last=name == names[-1]))
        except NoDisplayError as error:
            refusals[name] = error
    raise _joined(refusals)


def _finder(name: str) -> Find:
    module, function = _FINDERS[name]
    return cast("Find", getattr(import_module(module), function))


def _deadline(end: float, *, is_last: bool) -> float:
    """Return until when a back-end may look: those behind it have half of the time that is left."""
    return end if is_last else (time.monotonic() + end) / 2


def _joined(refusals: dict[str, NoDisplayError]) -> NoDisplayError:
    """Return all in one, each with as much room as any other."""
    if len(refusals) == 1:
        return next(iter(refusals.values()))
    reason = min((error.reason for error in refusals.values()), key=MOST_TELLING.index)
    room = MAX_TEXT // len(refusals) - len("; ")
    texts = [f"{name}: {error}"[:room] for name, error in refusals.items()]
    return NoDisplayError(reason, "; ".join(texts))
