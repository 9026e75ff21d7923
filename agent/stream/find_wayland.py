"""Finds and opens the session's screen where a Wayland compositor shows it.

Its socket tells whose it is, also where another way leads to its pictures.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final

from agent.capture import find_backend
from agent.capture.base import Capture, EndedError, UnsupportedError
from agent.stream.bounded import look
from agent.stream.listeners import Compositor, compositors
from agent.stream.opened import (
    MOST_TELLING,
    NOT_FOUND,
    REFUSED,
    UNSUPPORTED,
    NoDisplayError,
    Opened,
)
from agent.stream.places import Places
from sessiond.errors import DisplayError
from sessiond.wire.link import Config

log = logging.getLogger(__name__)

SESSION_COMPOSITOR: Final = "session-compositor"
USER_COMPOSITOR: Final = "user-compositor"
BUS: Final = "message-bus"


def find_wlroots(config: Config, places: Places, deadline: float) -> Opened:
    """Open the session's compositor, if it has a protocol of wlroots' kind. See ``Find``."""
    open_capture = find_backend("wlroots")
    return _find(lambda it: open_capture(it.path), config, places, deadline, backend="wlroots")


def find_mutter(config: Config, places: Places, deadline: float) -> Opened:
    """Open the session's compositor, if it is Mutter, by its message bus. See ``Find``.

    That is mostly the user's, where another session's GNOME may be; a greeter may have one of its
    own.
    """
    from agent.capture.mutter.backend import open_mutter  # noqa: PLC0415 (only if it is tried)

    def open_capture(compositor: Compositor) -> Capture:
        bus = compositor.bus if compositor.bus.startswith("unix:") else ""
        return open_mutter(places.runtime, bus, compositor.pid)

    return _find(open_capture, config, places, deadline, backend="mutter", rule=BUS)


def _find(
    open_capture: Callable[[Compositor], Capture],
    config: Config,
    places: Places,
    deadline: float,
    *,
    backend: str,
    rule: str = "",
) -> Opened:
    """Open the first compositor that can be; without a ``rule`` it is by how that was found."""
    refusals = dict[str, str]()  # what was wrong -> its code
    began = time.monotonic()
    for compositor in _compositors(config, places, deadline):
        if time.monotonic() > deadline:
            refusals[f"gave up after {deadline - began:.0f} s"] = NOT_FOUND
            break
        by = rule or (SESSION_COMPOSITOR if compositor.is_of_session else USER_COMPOSITOR)
        try:
            capture = _captured(partial(open_capture, compositor))
            opened = Opened(capture, by, compositor.name, backend=backend)
            return _placed(opened, compositor, config, places)
        except NoDisplayError as error:
            text = f"{error} ({by})"
            refusals[text] = error.reason
            log.info("refused: %s", text)
    reason = min(refusals.values(), key=MOST_TELLING.index)
    texts = [text for text, code in refusals.items() if code == reason]
    raise NoDisplayError(reason, "; ".join(texts))


def _compositors(config: Config, places: Places, deadline: float) -> list[Compositor]:
    """Return at least one. Raises NoDisplayError."""
    found = look(lambda: compositors(places, config.session, config.pids), deadline)
    if not found:
        text = f"session {config.session} has no Wayland compositor in sight"
        raise NoDisplayError(NOT_FOUND, text)
    return found


def _captured(open_capture: Callable[[], Capture]) -> Capture:
    try:
        return open_capture()
    except EndedError:
        raise  # nothing else is to be tried
    except UnsupportedError as error:
        raise NoDisplayError(UNSUPPORTED, str(error)) from None
    except DisplayError as error:
        raise NoDisplayError(REFUSED, str(error)) from None


def _placed(opened: Opened, compositor: Compositor, config: Config, places: Places) -> Opened:
    """Return ``opened`` with its VT if that is known.

    Raises NoDisplayError, and closes it, if it is not and has to be.
    """
    # A compositor that shows something on a graphics card, not in a window of another one nor
    # nowhere, has its session's VT.
    if compositor.is_of_session and not places.connectors().isdisjoint(opened.capture.outputs()):
        return replace(opened, vt=config.vt)
    if config.needs_proof:
        opened.capture.close()
        text = f"nothing tells that {opened.display} is on VT {config.vt}"
        raise NoDisplayError(NOT_FOUND, text)
    return opened
