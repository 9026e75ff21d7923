"""Which session is shown, from facts alone. No I/O, no clock, no memory.

The rules are the design's: the seat's active session, if it is local, of a person's class, not
closing, not of a denied user, and something can capture it (``routes``). Where no row speaks
against it, it is shown; and where the graphics card can be read, a VT that nobody is logged in on.
"""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from sessiond.logind.routes import AUTO, Capture, is_left, routes, why_no_kms
from sessiond.model import KMS, Decision, Reason, SeatFacts, Session, console

_VT_SEAT: Final = "seat0"  # VTs are on no other (sd-login(3), sd_seat_can_tty)


class Pause(enum.Enum):
    """Who has paused a session, and how."""

    BY_ADMIN = enum.auto()
    BY_USER = enum.auto()
    AT_SCREEN = enum.auto()  # by who sits there: in the desktop, not by an order to us

    @property
    def reason(self) -> Reason:
        """The code of why it is not shown."""
        return Reason.PAUSED_BY_ADMIN if self is Pause.BY_ADMIN else Reason.PAUSED_BY_USER


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What people have ordered.

    ``deny_users``: users by name, or by uid in decimal. ``is_enabled``: false for a pause of
    everything. ``paused``: sessions by id, and by whom they were. ``capture``: what may
    be captured by what.
    """

    deny_users: frozenset[str] = frozenset()
    is_enabled: bool = True
    paused: Mapping[str, Pause] = field(default_factory=lambda: MappingProxyType({}))
    capture: Capture = field(default_factory=Capture)


PAUSED: Final = "The streaming was paused by an administrator. Resume it: spice-sessionctl resume."


def with_console(facts: SeatFacts) -> SeatFacts:
    """Return the facts with a ``console`` among the sessions, if one is in front.

    It is if logind says that no session is active there, nor knows of any on that VT: the kernel
    tells of a switch first, and the screen of one that is just coming to the front may be nobody's
    business; so may that of one that is named, and of which nothing is known yet.
    """
    is_ours = facts.has_logind and facts.is_whole and facts.seat == _VT_SEAT
    is_taken = any((it.seat, it.vt) == (facts.seat, facts.vt) for it in facts.sessions.values())
    if not (is_ours and facts.vt and facts.has_card) or facts.active or is_taken:
        return facts
    shown = console(facts.seat, facts.vt)
    return replace(facts, sessions=MappingProxyType({**facts.sessions, shown.id: shown}))


def decide(facts: SeatFacts, policy: Policy) -> Decision:
    """Return the session to show, or the first reason of the design's table that applies."""
    if not policy.is_enabled:
        return Decision("", Reason.PAUSED_BY_ADMIN, PAUSED)
    session = _in_front(facts, policy)
    if session is None:
        return Decision("", *_nobody(facts, policy))
    if pause := policy.paused.get(session.id):
        return Decision("", pause.reason, _paused(session, pause))
    route = _routes(session, facts, policy)
    refusals = [] if session.is_console else _refusals(session, facts, policy)
    if not refusals:
        return Decision(session.id, route=route, remedy=_remedy(session, facts, policy))
    is_only_a_console = len(refusals) == 1 and refusals[0][0] is Reason.TEXT_CONSOLE
    if is_only_a_console and session.vt and route:
        return Decision("", *refusals[0], session.id, route)
    return Decision("", *refusals[0])


def _in_front(facts: SeatFacts, policy: Policy) -> Session | None:
    """Return the session in front, or the console that may be shown."""
    if facts.active:
        return facts.sessions.get(facts.active)
    shown = facts.sessions.get(console(facts.seat, facts.vt).id)
    return shown if shown and _routes(shown, facts, policy) else None


def _refusals(session: Session, facts: SeatFacts, policy: Policy) -> list[tuple[Reason, str]]:
    said = ((reason, check(session, facts, policy)) for reason, check in _CHECKS)
    return [(reason, text) for reason, text in said if text]


def _routes(session: Session, facts: SeatFacts, policy: Policy) -> tuple[str, ...]:
    return routes(session, policy.capture, has_card=facts.has_card)


def _remedy(session: Session, facts: SeatFacts, policy: Policy) -> str:
    why = why_no_kms(session, policy.capture, has_card=facts.has_card)
    if session.type != "wayland" or not why:
        return ""
    return f"Nor is it read from the graphics card: {why}."


def _paused(session: Session, pause: Pause) -> str:
    by = "an administrator" if pause is Pause.BY_ADMIN else _who(session)
    if pause is Pause.AT_SCREEN:
        by = f"{_who(session)}: the recording was ended at the screen"
    return (
        f"The streaming of session {session.id} was paused by {by}. "
        f"Resume it: spice-sessionctl resume --session {session.id}."
    )


def _nobody(facts: SeatFacts, policy: Policy) -> tuple[Reason, str]:
    # Without logind the helpers' records are the sessions: with one of them the VT is enough.
    if not facts.has_logind and not (facts.vt and facts.sessions):
        return Reason.LOGIND_MISSING, (
            "systemd-logind is not on the message bus, and no helper has told of a display. "
            "Start systemd-logind, or run spice-session-helper in the session."
        )
    if facts.vt:
        return Reason.TEXT_CONSOLE, (
            f"VT {facts.vt} is in front, and no session is active on it: a text console, or a "
            "session that is only starting. Switch to the VT of a graphical session."
            + _unread(console(facts.seat, facts.vt), facts, policy)
        )
    return Reason.NO_ACTIVE_SESSION, f"No session is active on {facts.seat}."


def _unread(session: Session, facts: SeatFacts, policy: Policy) -> str:
    why = why_no_kms(session, policy.capture, has_card=facts.has_card)
    return f" It is not read from the graphics card: {why}." if why else ""


def _console(session: Session, facts: SeatFacts, policy: Policy) -> str:
    if session.type != "tty" or session.id in facts.proven:
        return ""
    if KMS in _routes(session, facts, policy):
        return ""
    where = f"VT {session.vt}" if session.vt else "A text console"
    return (
        f"{where} is in front, with a text session of {_who(session)}. "
        "Switch to a graphical session, or start one there with startx."
        + _unread(session, facts, policy)
    )


def _closing(session: Session, facts: SeatFacts, policy: Policy) -> str:
    if session.state != "closing" or (is_left(session) and _routes(session, facts, policy)):
        return ""
    return f"Session {session.id} of {_who(session)} is closing; processes of it are still running."


def _remote(session: Session, facts: SeatFacts, _policy: Policy) -> str:
    if session.remote:
        return (
            f"Session {session.id} of {_who(session)} is a remote one; only {facts.seat} is shown."
        )
    if session.seat != facts.seat:
        where = session.seat or "no seat"
        return f"Session {session.id} of {_who(session)} is on {where}, and not on {facts.seat}."
    return ""


def _class(session: Session, _facts: SeatFacts, _policy: Policy) -> str:
    if session.cls in {"greeter", "lock-screen"} or session.cls.startswith("user"):
        return ""
    kind = session.cls or "unknown"
    return f"Session {session.id} of {_who(session)} has the class {kind}: nobody's screen."


def _denied(session: Session, _facts: SeatFacts, policy: Policy) -> str:
    if policy.deny_users.isdisjoint({session.user, str(session.uid)}):
        return ""
    return f"Sessions of {_who(session)} are not shown: stream.deny_users in the configuration."


def _type(session: Session, facts: SeatFacts, policy: Policy) -> str:
    if _routes(session, facts, policy):
        return ""
    what = f"Session {session.id} of {_who(session)} is of the type {session.type or 'unknown'}"
    why = why_no_kms(session, policy.capture, has_card=facts.has_card)
    key, order = policy.capture.order_for(session)
    if order == AUTO:
        return f"{what}, which could only be read from the graphics card: {why}."
    named = f"{what}, and {key} names nothing that captures it: {', '.join(order)}"
    return f"{named} ({why})." if KMS in order else f"{named}."


def _who(session: Session) -> str:
    return session.user or f"uid {session.uid}"


_Check = Callable[[Session, SeatFacts, Policy], str]

_CHECKS: Final[tuple[tuple[Reason, _Check], ...]] = (
    (Reason.TEXT_CONSOLE, _console),
    (Reason.SESSION_CLOSING, _closing),
    (Reason.SESSION_REMOTE, _remote),
    (Reason.SESSION_CLASS, _class),
    (Reason.SESSION_DENIED, _denied),
    (Reason.TYPE_UNSUPPORTED, _type),
)
"""The table's order; each check returns "" or the sentence that speaks against the session."""
