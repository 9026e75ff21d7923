"""Finds and opens the session's screen where a Wayland compositor shows it.

By the compositor's socket, or by the bus of the user, who needs to have a compositor that may be
the session's there, too.
"""

import logging
import time
from dataclasses import replace
from typing import Final

from agent.capture import find_backend
from agent.capture.base import Capture, UnsupportedError
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
USER_BUS: Final = "user-bus"


def find_wlroots(config: Config, places: Places, deadline: float) -> Opened:
    """Open the session's compositor, if it has a protocol of wlroots' kind. See ``Find``."""
    return _find_by_socket("wlroots", config, places, deadline)


def find_kwin(config: Config, places: Places, deadline: float) -> Opened:
    """Open the session's compositor, if it is KWin. See ``Find``."""
    return _find_by_socket("kwin", config, places, deadline)


def find_mutter(config: Config, places: Places, deadline: float) -> Opened:
    """Open the session's compositor, if it is Mutter, by the user's bus. See ``Find``."""
    compositor = _compositors(config, places, deadline)[0]
    try:
        capture = _capture("mutter", str(places.runtime))
        opened = Opened(capture, USER_BUS, compositor.name, backend="mutter")
        return _placed(opened, compositor, config, places)
    except NoDisplayError as error:
        raise NoDisplayError(error.reason, f"{error} ({USER_BUS})") from None


def _find_by_socket(backend: str, config: Config, places: Places, deadline: float) -> Opened:
    refusals = dict[str, str]()  # what was wrong -> its code
    began = time.monotonic()
    for compositor in _compositors(config, places, deadline):
        if time.monotonic() > deadline:
            refusals[f"gave up after {deadline - began:.0f} s"] = NOT_FOUND
            break
        rule = SESSION_COMPOSITOR if compositor.is_of_session else USER_COMPOSITOR
        try:
            capture = _capture(backend, compositor.path)
            opened = Opened(capture, rule, compositor.name, backend=backend)
            return _placed(opened, compositor, config, places)
        except NoDisplayError as error:
            text = f"{error} ({rule})"
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


def _capture(backend: str, name: str) -> Capture:
    try:
        return find_backend(backend)(name)
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
