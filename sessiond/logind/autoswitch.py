"""Who is brought to the front when the shown session has ended, and nobody else did it. Pure.

Display managers do it themselves, most of them within three seconds; so this waits, and any other
change of the seat's active session in that time ends the matter.
"""

from collections.abc import Sequence

from sessiond.model import SeatFacts, Session

_GRAPHICAL = frozenset({"x11", "wayland", "mir"})


def has_ended(before: SeatFacts, now: SeatFacts) -> bool:
    """Whether the graphical session that was in front has ended, and has left the seat empty.

    Not when somebody went to another VT: then that session is still there, or was not in front.
    Not while it goes on closing, which may take hours; nor when logind has left, and knows nothing.
    """
    left = before.sessions.get(before.active)
    if left is None or not _is_local(left, before) or not _is_graphical(left, before):
        return False
    if not now.has_logind or now.active not in {"", left.id}:
        return False
    still = now.sessions.get(left.id)
    return still is None or (still.state == "closing" and left.state != "closing")


def choose(facts: SeatFacts, recent: Sequence[str]) -> str:
    """Return the session to activate: a greeter, else the most recently active graphical one.

    ``recent`` are the ids of sessions that were in front, the latest first. "" for nobody: a
    session that is closing is never taken.
    """
    local = [
        session
        for session in facts.sessions.values()
        if _is_local(session, facts) and session.vt and session.state != "closing"
    ]
    greeters = [session for session in local if session.cls == "greeter"]
    people = [
        session
        for session in local
        if session.cls.startswith("user") and _is_graphical(session, facts)
    ]
    rank = {session_id: place for place, session_id in enumerate(recent)}
    for kind in (greeters, people):
        if kind:
            # One that was never in front comes after all that were; the newest of those first.
            return min(kind, key=lambda s: (rank.get(s.id, len(rank)), -s.since)).id
    return ""


def _is_local(session: Session, facts: SeatFacts) -> bool:
    return session.seat == facts.seat and not session.remote


def _is_graphical(session: Session, facts: SeatFacts) -> bool:
    return session.type in _GRAPHICAL or session.id in facts.proven
