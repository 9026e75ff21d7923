"""Finds and opens the session's X display: each piece of evidence is tried by connecting.

Which displays are tried, and in which order, is for ``evidence``; where the evidence lies, for
``places``.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from agent.capture.x11 import proof
from agent.capture.x11.backend import X11Capture, capture_display
from agent.capture.x11.display import lost_display, open_display
from agent.capture.x11.server import Server
from agent.stream import bounded, evidence, reach
from agent.stream.bounded import look
from agent.stream.evidence import Attempt, Proof
from agent.stream.listeners import compositors, session_servers
from agent.stream.opened import NOT_FOUND, REFUSED, UNSUPPORTED, NoDisplayError, Opened
from agent.stream.places import Places
from agent.stream.user_manager import manager_environment
from agent.stream.xauthority import NoXauthorityError
from sessiond.errors import DisplayError
from sessiond.wire.link import Config

log = logging.getLogger(__name__)

_WORST_FIRST: Final = (UNSUPPORTED, REFUSED, NOT_FOUND)

_OTHERS: Final = frozenset({"wlroots", "mutter"})
_ORDER_REMEDY: Final = (
    ": a compositor is captured in a session of type wayland or tty, where capture.order "
    '(capture.console_order for tty) is "auto" or names its back-end'
)


def find_x11(config: Config, places: Places, deadline: float) -> Opened:
    """Open the first X display that is the session's and lets us in.

    No further one is tried after ``deadline`` on the clock of ``time.monotonic``. Raises
    NoDisplayError, whose text says what became of each.
    """
    began = time.monotonic()
    refusals = dict[str, str]()  # what was wrong -> its code
    for attempt in _attempts(config, places, deadline):
        if time.monotonic() > deadline:
            refusals[f"gave up after {deadline - began:.0f} s"] = NOT_FOUND
            break
        try:
            return reach.reach(attempt, places, partial(_open, attempt, config))
        except NoXauthorityError as error:
            log.debug("%s: %s", attempt.rule, error)
        except DisplayError as error:
            text = f"{error} ({attempt.rule})"
            refusals[text] = _code(error, attempt)
            log.info("refused: %s", text)
    # An X display of the session that does not let us in is nearer to what is wanted.
    if set(refusals.values()) <= {NOT_FOUND} and _OTHERS.isdisjoint(config.capture):
        _blame_wayland(config, places, deadline)
    if not refusals:
        raise NoDisplayError(NOT_FOUND, f"session {config.session} has no X display in sight")
    reason = min(refusals.values(), key=_WORST_FIRST.index)
    texts = [text for text, code in refusals.items() if code == reason]
    raise NoDisplayError(reason, "; ".join(texts))


def _blame_wayland(config: Config, places: Places, deadline: float) -> None:
    """Raise NoDisplayError if the session's screen is, by all signs, a Wayland compositor's."""
    found = look(lambda: compositors(places, config.session, config.pids), deadline)
    if found:
        raise NoDisplayError(
            UNSUPPORTED,
            f"session {config.session} has no X display in sight, but a Wayland compositor at "
            f"{found[0].path}, and only X11 may be captured{_ORDER_REMEDY}",
        )


def _code(error: DisplayError, attempt: Attempt) -> str:
    if isinstance(error, NoDisplayError):
        return error.reason
    # A server of which nothing tells that it is the session's, and that does not want us, is
    # somebody else's.
    return REFUSED if attempt.proof is Proof.NONE else NOT_FOUND


def _attempts(config: Config, places: Places, deadline: float) -> Iterator[Attempt]:
    """Yield each attempt once, on the terms that CONFIG sets."""
    attempts = _sources(config, places, deadline)
    if config.needs_proof:
        attempts = (replace(attempt, proof=Proof.VT) for attempt in attempts)
    return evidence.distinct(attempts)


def _sources(config: Config, places: Places, deadline: float) -> Iterator[Attempt]:
    """Yield the attempts by source; a look-up costs nothing if an earlier attempt is good."""
    known = look(places.authorities, deadline)
    yield from evidence.from_candidates(config.candidates, known)
    servers = look(lambda: session_servers(places, config.pids), deadline)
    yield from evidence.from_servers(servers, known)
    of_session = look(lambda: places.environments(config.pids), deadline)
    yield from evidence.from_environments(evidence.SESSION_PROCESS, of_session, known)
    of_user = look(lambda: places.user_processes(config.session), deadline)
    yield from evidence.from_environments(evidence.USER_PROCESS, of_user, known)
    of_manager = look(lambda: [manager_environment(places, bounded.TIMEOUT)], deadline)
    yield from evidence.from_environments(
        evidence.USER_MANAGER, of_manager, known, proof=Proof.SERVER
    )
    # Last, though the kernel tells who listens: it means showing every cookie of the user's to
    # servers of whom nothing is known.
    environments = (*of_session, *of_user, *of_manager)
    named = [e["XAUTHORITY"] for e in environments if "XAUTHORITY" in e]
    yield from evidence.from_sockets(look(places.server_numbers, deadline), [*named, *known])


def _open(attempt: Attempt, config: Config, server: Server) -> Opened:
    display = open_display(attempt.display)
    with lost_display(display):
        vt = proof.find_vt(display)
        _check_proof(attempt, vt, config, is_ours=server.pid in config.pids)
        if proof.is_xwayland(display):
            remedy = _ORDER_REMEDY if _OTHERS.isdisjoint(config.capture) else ""
            raise NoDisplayError(
                UNSUPPORTED,
                f"display {attempt.display} is XWayland, which shows only single windows of a "
                f"Wayland session{remedy}",
            )
    try:
        capture: X11Capture = capture_display(display)
    except DisplayError as error:
        raise NoDisplayError(REFUSED, str(error)) from None  # it is the session's, whoever told
    return Opened(capture, attempt.rule, attempt.display, vt or 0)


def _check_proof(attempt: Attempt, vt: int | None, config: Config, *, is_ours: bool) -> None:
    is_on_vt = vt is not None and vt == config.vt
    if vt is not None and config.vt and not is_on_vt:
        raise DisplayError(
            f"display {attempt.display} is on VT {vt}, the session on VT {config.vt}"
        )
    is_proven = is_on_vt or (attempt.proof is Proof.SERVER and is_ours)
    if attempt.proof is not Proof.NONE and not is_proven:
        where = f"on VT {config.vt}" if attempt.proof is Proof.VT else "the session's"
        raise DisplayError(f"nothing tells that display {attempt.display} is {where}")
