"""What helpers have told, joined with what else is known of the seat. No I/O.

A record belongs to a session and goes away with it. Where there is no logind, a record *is* a
session, named for its VT, until the leader of the helper's kernel session ends.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sessiond.model import SeatFacts, Session


class RecordRefusedError(Exception):
    """The record is not taken; the text says why."""


@dataclass(frozen=True, slots=True)
class Told:
    """A helper's words, and who said them: ``vt`` is 0 without a controlling VT.

    ``leader`` is the pid of the leader of the helper's kernel session, ``leader_start`` when that
    process began (``origin.Origin``).
    """

    display: str
    xauthority: str
    uid: int
    gid: int
    vt: int
    leader: int
    leader_start: int


@dataclass(frozen=True, slots=True)
class Taken:
    """A record and what it belongs to: logind's session of that id and that beginning.

    "" and 0 without logind: then the record itself says what it belongs to.
    """

    told: Told
    session: str = ""
    since: int = 0

    def is_of(self, session: Session | None) -> bool:
        """Whether that is the session: an id may come again."""
        told = self.told
        return (
            session is not None
            and (session.id, session.since, session.uid) == (self.session, self.since, told.uid)
            and told.vt in {0, session.vt}
        )


class Records:
    """The newest record of each session; ``vt_owner(vt)`` is the uid that has the VT, by its file.

    Raises OSError if there is no such VT.
    """

    def __init__(self, seat: str, vt_owner: Callable[[int], int]) -> None:
        self._seat = seat
        self._vt_owner = vt_owner
        self._by_session: dict[str, Taken] = {}
        self._by_vt: dict[int, Told] = {}  # of the time without logind

    def of(self, session_id: str) -> Told | None:
        """Return the record of a session."""
        return self.all().get(session_id)

    def all(self) -> Mapping[str, Told]:
        """Return the records by session, as they are now."""
        with_logind = {key: taken.told for key, taken in self._by_session.items()}
        return {**self._bare(), **with_logind}

    def taken(self) -> list[Taken]:
        """Return what ``restore`` and, without logind, ``add`` need to have all records again."""
        return [*map(Taken, self._by_vt.values()), *self._by_session.values()]

    def restore(self, taken: Taken) -> None:
        """Take back the record of a session of logind's; the next ``prune`` sees if it is so."""
        self._by_session[taken.session] = taken

    def on_vt(self, vt: int) -> Told | None:
        """Return the record of a VT, of the time without logind."""
        return self._by_vt.get(vt)

    def add(self, told: Told, facts: SeatFacts, session_id: str = "") -> str:
        """Take a record; return the id of the session that it belongs to.

        ``session_id`` is that of the helper's own session, where logind knows it; it is only
        needed without a controlling VT. Raises RecordRefusedError.
        """
        if facts.has_logind:
            session = _placed(told, facts, session_id)
            self._by_session[session.id] = Taken(told, session.id, session.since)
            return session.id
        if not told.vt:
            raise RecordRefusedError("it has no virtual terminal, and there is no logind to ask")
        try:
            owner = self._vt_owner(told.vt)
        except OSError as error:
            raise RecordRefusedError(f"VT {told.vt}: {error.strerror}") from None
        if owner != told.uid:
            raise RecordRefusedError(f"VT {told.vt} belongs to uid {owner}")
        self._by_vt[told.vt] = told
        return _bare_id(told.vt)

    def prune(self, facts: SeatFacts) -> None:
        """Forget the records of sessions that are gone.

        When logind has come, those of the time without it are placed in its sessions, or gone.
        """
        if not facts.has_logind:
            return
        self._by_session = {
            key: taken
            for key, taken in self._by_session.items()
            if taken.is_of(facts.sessions.get(key))
        }
        without, self._by_vt = self._by_vt, {}
        for told in without.values():
            with contextlib.suppress(RecordRefusedError):
                self.add(told, facts)

    def forget(self, told: Told, before: Told | None = None) -> None:
        """Forget a record of the time without logind, in favour of the one before if there is one.

        Its leader has ended, or cannot be watched.
        """
        if self._by_vt.get(told.vt) is told:
            del self._by_vt[told.vt]
            if before:
                self._by_vt[told.vt] = before

    def join(self, facts: SeatFacts, vt: int) -> SeatFacts:
        """Return the facts with the records in them; ``vt`` is the one in front.

        A session of type tty that has a record counts as one with a display.
        """
        if facts.has_logind:
            return replace(facts, proven=facts.proven | self._by_session.keys())
        if not self._by_vt:
            return facts
        active = _bare_id(vt)
        sessions = {
            key: Session(
                id=key, path="/", uid=told.uid, gid=told.gid, seat=self._seat, vt=told.vt,
                type="x11", cls="user", state="online", display=told.display,
                active=key == active,
            )
            for key, told in self._bare().items()
        }  # fmt: skip
        return replace(
            facts,
            sessions=MappingProxyType(sessions),
            active=active if active in sessions else "",
            vt=vt,
        )

    def _bare(self) -> Mapping[str, Told]:
        return {_bare_id(vt): told for vt, told in self._by_vt.items()}


def _bare_id(vt: int) -> str:
    return f"vt{vt}"  # logind's ids are numbers, or begin with c


def is_bare(session_id: str) -> bool:
    """Whether this is a session of the time without logind."""
    return session_id.startswith("vt")


def _placed(told: Told, facts: SeatFacts, session_id: str) -> Session:
    """Return the session on the helper's VT, or that its process is in, or the user's only one."""
    on_seat = [s for s in facts.sessions.values() if s.seat == facts.seat and s.vt]
    if told.vt:
        where, here = f"VT {told.vt}", [s for s in on_seat if s.vt == told.vt]
    elif session_id:
        where, here = f"session {session_id}", [s for s in on_seat if s.id == session_id]
    else:  # started by the user's manager, which is in no session
        where, here = f"uid {told.uid}", [s for s in on_seat if s.uid == told.uid]
        if len(here) > 1:
            raise RecordRefusedError(f"{where} has {len(here)} sessions, and nothing says which")
    if not here:
        raise RecordRefusedError(f"{where} has no session with a screen on {facts.seat}")
    own = [session for session in here if session.uid == told.uid]
    if not own:
        raise RecordRefusedError(f"{where} belongs to uid {here[0].uid}")
    return max(own, key=lambda session: (session.active, session.since))
