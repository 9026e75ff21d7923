"""What the daemon knows, in the shapes of the host channel: lists and objects of JSON. Pure."""

from collections.abc import Iterable, Sequence

from sessiond.model import Event, Screen, SeatFacts, Session, Status, UserAgent, UserDisplay
from sessiond.users.displays import merge
from sessiond.wire.device import codec_name

Json = dict[str, object]


def users(facts: SeatFacts) -> list[Json]:
    """Return who is logged in, as guest-get-users does: with the earliest login's time.

    Only logind's sessions of people count, not greeters, managers and jobs, nor what is left of a
    session that has ended.
    """
    if not facts.has_logind:
        return []
    since = dict[str, int]()
    for session in facts.sessions.values():
        if session.cls.startswith("user") and session.state != "closing":
            name = session.user or f"#{session.uid}"
            since[name] = min(session.since, since.get(name, session.since))
    return [{"user": name, "login-time": begun / 1e6} for name, begun in sorted(since.items())]


def agents(known: Iterable[UserAgent], facts: SeatFacts, now: Status) -> list[Json]:
    """Return whose agents are connected, with the displays of their sessions."""
    return [
        {
            "user": agent.name,
            "uid": agent.uid,
            "pid": agent.pid,
            "since": agent.since,
            "displays": [it.name for it in merge(agent.uid, facts, now.displays, ())],
        }
        for agent in sorted(known, key=lambda it: it.uid)
    ]


def sessions(facts: SeatFacts, now: Status) -> list[Json]:
    """Return every session."""
    return [
        _session(session, is_shown=session.id == now.session)
        for _, session in sorted(facts.sessions.items())
    ]


def _session(session: Session, *, is_shown: bool) -> Json:
    return {
        "id": session.id,
        "user": session.user,
        "uid": session.uid,
        "class": session.cls,
        "type": session.type,
        "state": session.state,
        "seat": session.seat,
        "vt": session.vt,
        "display": session.display,
        "tty": session.tty,
        "desktop": session.desktop,
        "since": session.since / 1e6,
        "remote": session.remote,
        "active": session.active,
        "locked": session.locked,
        "shown": is_shown,
    }


def status(now: Status) -> Json:
    """Return what the stream does and why; codec to height while it is sent."""
    stream: Json = {
        "codec": codec_name(now.codec),
        "encoder": now.encoder,
        "codec-reason": now.why,
        "width": now.width,
        "height": now.height,
    }
    return {
        "state": now.state.value,
        "reason": now.reason.value,
        "text": now.text,
        "session": now.session,
        "backend": now.backend,
        "agent-pid": now.agent_pid,
        "agent-restarts": now.agent_restarts,
        "host-codecs": [codec_name(it) for it in now.host_codecs],
        "next-retry": now.next_retry,
        **(stream if now.codec else {}),
    }


def history(events: Sequence[Event]) -> list[Json]:
    """Return the changes, the oldest first."""
    return [
        {
            "time": event.at,
            "session": event.status.session,
            "state": event.status.state.value,
            "reason": event.status.reason.value,
            "text": event.status.text,
        }
        for event in events
    ]


def displays(known: Iterable[UserDisplay]) -> list[Json]:
    """Return the answer to virtagent-query-displays."""
    return [
        {
            "display": it.name,
            "session": it.session,
            "type": it.type,
            "active": it.is_active,
            "connected": it.is_connected,
        }
        for it in known
    ]


def screens(known: Iterable[Screen]) -> list[Json]:
    """Return the answer to virtagent-query-screens."""
    return [
        {
            "output": it.output,
            "x": it.x,
            "y": it.y,
            "width": it.width,
            "height": it.height,
            "primary": it.is_primary,
        }
        for it in known
    ]
