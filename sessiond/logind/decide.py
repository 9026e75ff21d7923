"""Which session is shown, from facts alone. No I/O, no clock, no memory.

The rules are the design's: the seat's active session, if it is local, of a person's class, not
closing, not of a denied user, and has an X display. Where no row speaks against it, it is shown.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from sessiond.model import Decision, Reason, SeatFacts, Session


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What people have ordered.

    ``deny_users``: users by name, or by uid in decimal. ``is_enabled``: false for a pause of
    everything. ``paused``: sessions by id, with the reason that says by whom.
    """

    deny_users: frozenset[str] = frozenset()
    is_enabled: bool = True
    paused: Mapping[str, Reason] = field(default_factory=lambda: MappingProxyType({}))


PAUSED: Final = "The streaming was paused by an administrator. Resume it: spice-sessionctl resume."


def decide(facts: SeatFacts, policy: Policy) -> Decision:
    """Return the session to show, or the first reason of the design's table that applies."""
    if not policy.is_enabled:
        return Decision("", Reason.PAUSED_BY_ADMIN, PAUSED)
    session = facts.sessions.get(facts.active)
    if session is None:
        return Decision("", *_nobody(facts))
    if reason := policy.paused.get(session.id):
        return Decision("", reason, _paused(session, reason))
    refusals = [
        (reason, said) for reason, check in _CHECKS if (said := check(session, facts, policy))
    ]
    if not refusals:
        return Decision(session.id)
    is_only_a_console = len(refusals) == 1 and refusals[0][0] is Reason.TEXT_CONSOLE
    probe = session.id if is_only_a_console and session.vt else ""
    return Decision("", *refusals[0], probe)


def _paused(session: Session, reason: Reason) -> str:
    by = "an administrator" if reason is Reason.PAUSED_BY_ADMIN else _who(session)
    return (
        f"The streaming of session {session.id} was paused by {by}. "
        f"Resume it: spice-sessionctl resume --session {session.id}."
    )


def _nobody(facts: SeatFacts) -> tuple[Reason, str]:
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
        )
    return Reason.NO_ACTIVE_SESSION, f"No session is active on {facts.seat}."


def _console(session: Session, facts: SeatFacts, _policy: Policy) -> str:
    if session.type != "tty" or session.id in facts.proven:
        return ""
    where = f"VT {session.vt}" if session.vt else "A text console"
    return (
        f"{where} is in front, with a text session of {_who(session)}. "
        "Switch to a graphical session, or start one there with startx."
    )


def _closing(session: Session, _facts: SeatFacts, _policy: Policy) -> str:
    if session.state != "closing":
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


def _type(session: Session, _facts: SeatFacts, _policy: Policy) -> str:
    if session.type in {"x11", "tty"}:
        return ""
    what = f"Session {session.id} of {_who(session)} is of the type {session.type or 'unknown'}"
    if session.type == "wayland":
        return (
            f"{what}; only X11 can be shown. Choose an Xorg session at the login screen "
            "(Plasma: the X11 session), or set WaylandEnable=false under [daemon] in GDM's "
            "custom.conf or daemon.conf."
        )
    return f"{what}; only X11 can be shown."


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
