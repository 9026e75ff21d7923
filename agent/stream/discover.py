"""Finds and opens the session's display: each piece of evidence is tried by connecting.

Runs in the display's thread, as the session's user. Which displays are tried, and in which order,
is for ``evidence``; where the evidence lies, for ``places``.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from agent.capture.base import Capture
from agent.capture.x11 import proof
from agent.capture.x11.access import Cookie, Server, answering, connect_server, granted
from agent.capture.x11.backend import X11Capture, capture_display, lost_display
from agent.capture.x11.display import open_display
from agent.stream import evidence
from agent.stream.bounded import within
from agent.stream.evidence import Attempt, display_number
from agent.stream.places import Places
from agent.stream.xauthority import (
    NoXauthorityError,
    XauthorityError,
    choose_cookie,
    parse_cookie,
    read_xauthority,
)
from sessiond.errors import DisplayError
from sessiond.wire.link import MAX_TEXT, Config

log = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT: Final = 2.0  # seconds for one candidate's cookie, and again for its server
PATIENCE: Final = 8.0  # seconds after which no further candidate is tried

NOT_FOUND: Final = "no-display-found"
REFUSED: Final = "display-refused"
UNSUPPORTED: Final = "type-unsupported"
_WORST_FIRST: Final = (UNSUPPORTED, REFUSED, NOT_FOUND)

XWAYLAND_REMEDY: Final = (
    "shows only single windows of a Wayland session: log in to an Xorg session "
    "(GDM: the cog wheel at the password, or WaylandEnable=false in its configuration; "
    "Plasma: 'Plasma (X11)' in the session menu)"
)


class NoDisplayError(DisplayError):
    """No display could be opened; ``reason`` is a code of the daemon's."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Opened:
    """A display that was opened: by which rule, and on which VT (0: it does not say)."""

    capture: Capture
    rule: str
    display: str
    vt: int = 0


def open_session_display(config: Config, places: Places) -> Opened:
    """Open the first display that is the session's and lets us in.

    Raises NoDisplayError, whose text says what became of each candidate.
    """
    deadline = time.monotonic() + PATIENCE
    refusals = dict[str, str]()  # what was wrong -> its code
    for attempt in evidence.distinct(_attempts(config, places)):
        if time.monotonic() > deadline:
            refusals[f"gave up after {PATIENCE:g} s"] = NOT_FOUND
            break
        try:
            return _try(attempt, config, places)
        except NoXauthorityError as error:
            log.debug("%s: %s", attempt.rule, error)
        except DisplayError as error:
            text = f"{error} ({attempt.rule})"
            refusals[text] = _code(error, attempt)
            log.info("refused: %s", text)
    if not refusals:
        raise NoDisplayError(NOT_FOUND, f"session {config.session} has no X display in sight")
    reason = min(refusals.values(), key=_WORST_FIRST.index)
    texts = [text for text, code in refusals.items() if code == reason]
    raise NoDisplayError(reason, "; ".join(texts)[:MAX_TEXT])


def _code(error: DisplayError, attempt: Attempt) -> str:
    code = error.reason if isinstance(error, NoDisplayError) else REFUSED
    # A server that was merely seen to listen, and does not want us, is somebody else's.
    return NOT_FOUND if attempt.needs_proof and code == REFUSED else code


def _attempts(config: Config, places: Places) -> Iterator[Attempt]:
    """Yield the attempts; what is looked up costs nothing if an earlier one is good."""
    known = _look(places.authorities)
    yield from evidence.from_candidates(config.candidates, known)
    of_session = _look(lambda: list(places.environments(config.pids)))
    yield from evidence.from_environments(evidence.SESSION_PROCESS, of_session, known)
    of_user = _look(lambda: list(places.user_processes(config.session)))
    yield from evidence.from_environments(evidence.USER_PROCESS, of_user, known)
    named = [e["XAUTHORITY"] for e in (*of_session, *of_user) if "XAUTHORITY" in e]
    yield from evidence.from_sockets(_look(places.server_numbers), [*named, *known])


def _look(source: Callable[[], list[T]]) -> list[T]:
    """Return what a look-up finds; nothing if it does not come back."""
    try:
        return within(TIMEOUT, source, "looking for evidence")
    except (DisplayError, OSError) as error:
        log.info("%s", error)
        return []


def _try(attempt: Attempt, config: Config, places: Places) -> Opened:
    number = display_number(attempt.display)
    if number is None:
        raise NoDisplayError(NOT_FOUND, f"{attempt.display!r} is not a display of this machine")
    cookie = _cookie(attempt, number, places)
    try:
        server = connect_server(places.server(number), TIMEOUT)
    except OSError as error:
        text = f"display {attempt.display}: {error.strerror or error}"
        raise NoDisplayError(NOT_FOUND, text) from None
    try:
        _check_server(attempt, server, places.uid)
        with answering(server.sock, attempt.display, TIMEOUT), granted(server.sock, cookie):
            return _open(attempt, server, config)
    except BaseException:
        server.sock.close()
        raise


def _open(attempt: Attempt, server: Server, config: Config) -> Opened:
    display = open_display(attempt.display)
    with lost_display(display):
        vt = proof.find_vt(display)
        _check_vt(attempt, vt, config.vt, is_ours=server.pid in config.pids)
        if proof.is_xwayland(display):
            raise NoDisplayError(UNSUPPORTED, f"display {attempt.display} is XWayland, which "
                                 + XWAYLAND_REMEDY)  # fmt: skip
    capture: X11Capture = capture_display(display)
    return Opened(capture, attempt.rule, attempt.display, vt or 0)


def _check_server(attempt: Attempt, server: Server, uid: int) -> None:
    # A socket in a public folder may be anybody's, and so may an abstract one.
    if server.uid not in {0, uid}:
        text = f"display {attempt.display} is served by uid {server.uid}"
        raise NoDisplayError(REFUSED, text)


def _check_vt(attempt: Attempt, vt: int | None, wanted: int, *, is_ours: bool) -> None:
    if vt is not None and wanted and vt != wanted:
        raise NoDisplayError(
            REFUSED, f"display {attempt.display} is on VT {vt}, the session on VT {wanted}"
        )
    if attempt.needs_proof and not is_ours and (vt is None or not wanted):
        # Not a refusal of the display that was looked for: just another one.
        raise NoDisplayError(NOT_FOUND, f"nothing tells that display {attempt.display} is the "
                             "session's")  # fmt: skip


def _cookie(attempt: Attempt, number: int, places: Places) -> Cookie:
    if attempt.cookie:
        return parse_cookie(attempt.cookie)
    path = attempt.xauthority
    if not path:
        return Cookie()
    entries = within(TIMEOUT, lambda: read_xauthority(path, places.uid), f"cookie file {path}")
    cookie = choose_cookie(entries, number, places.hostname)
    if cookie is None:
        raise XauthorityError(f"cookie file {path} has nothing for display :{number}")
    return cookie
