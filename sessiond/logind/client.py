"""Follows login1 over the bus: the only place that knows its names.

Subscribes first, reads then, and follows the signals. Since the bus hands on answers and signals
in the order of their arrival, whatever comes last is right, and everything here may come twice:
a restarted logind announces every session again. What is signalled, and what is not, was measured
with systemd 252 and 257; closing, for one, is silent: whoever has a doubt about a session calls
``reread``.
"""

import asyncio
import logging
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final

from sessiond.errors import BusCallError, BusError
from sessiond.logind.properties import Tracked, reference, user_path
from sessiond.model import SeatFacts
from sessiond.transport.backoff import Backoff
from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_match import Match, Signal
from sessiond.transport.bus_signals import Answer, SignalHandler

log = logging.getLogger(__name__)

LOGIN1: Final = "org.freedesktop.login1"
MANAGER_PATH: Final = "/org/freedesktop/login1"
MANAGER: Final = "org.freedesktop.login1.Manager"
SESSION: Final = "org.freedesktop.login1.Session"
SEAT: Final = "org.freedesktop.login1.Seat"
USER: Final = "org.freedesktop.login1.User"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
NO_SUCH_SESSION: Final = "org.freedesktop.login1.NoSuchSession"
NO_SUCH_SEAT: Final = "org.freedesktop.login1.NoSuchSeat"
GONE: Final = ("org.freedesktop.DBus.Error.UnknownObject", NO_SUCH_SESSION)

READ_LIMIT: Final = 5.0  # seconds; it answers in less than a millisecond
ABSENCE: Final = 2.0  # seconds that a restart may take, in which what was known stands
MOST_SESSIONS: Final = 1024  # a user can make sessions by the hundred, with ssh


class LogindClient:
    """Tells ``on_facts`` what logind knows of ``seat``, at each change and once per loop turn.

    The facts' ``vt`` is the active session's, 0 without one; ``proven`` is empty: others know
    better. Nothing is told before the first reading is complete. Without logind on the bus,
    ``has_logind`` is False and nothing else is known; when it was there, that is told only after
    ``ABSENCE`` seconds, for the sessions outlive its restart.
    """

    def __init__(self, bus: Bus, seat: str, on_facts: Callable[[SeatFacts], None]) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._seat = seat
        self._on_facts = on_facts
        self._subscriptions: tuple[tuple[Match, SignalHandler], ...] = (
            (_from_manager("SessionNew"), self._on_session_new),
            (_from_manager("SessionRemoved"), self._on_session_removed),
            (_from_manager("SeatNew"), self._on_seat_new),
            (_from_manager("SeatRemoved"), self._on_seat_removed),
            (_changed(SEAT), self._on_seat_changed),
            (_changed(SESSION), self._on_session_changed),
        )
        self._owner: str | None = None
        self._generation = 0  # answers to what was asked before a restart are void
        self._open = 0
        self._is_reading = False
        self._backoff = Backoff()
        self._retry: asyncio.TimerHandle | None = None
        self._absence: asyncio.TimerHandle | None = None  # while it may be restarting
        self._seat_path = ""
        self._active = ""
        self._tracked: dict[str, Tracked] = {}
        self._ids: dict[str, str] = {}
        self._told: SeatFacts | None = None
        self._publish: asyncio.Handle | None = None
        self._is_closed = False

    def start(self) -> None:
        """Begin; to be called once."""
        for match, handler in self._subscriptions:
            self._bus.subscribe(match, handler)
        self._bus.watch_owner(LOGIN1, self._on_owner)

    def close(self) -> None:
        """End: nothing more is told. The bus stays the caller's."""
        if self._is_closed:
            return
        self._is_closed = True
        self._end_absence()
        self._forget_all()
        if self._publish:
            self._publish.cancel()
        self._bus.unwatch_owner(LOGIN1, self._on_owner)
        for match, handler in self._subscriptions:
            self._bus.unsubscribe(match, handler)

    def reread(self, session_id: str) -> None:
        """Read a session again, since something about it failed; new facts come if it changed."""
        tracked = self._tracked.get(session_id)
        if tracked:
            self._read_session(tracked)

    async def activate(self, session_id: str) -> None:
        """Bring a session to the front. Raises BusCallError (NoSuchSession, ...) or BusError."""
        tracked = self._tracked.get(session_id)
        if tracked is None:
            raise BusCallError(NO_SUCH_SESSION, f"no session {session_id!r}")
        await self._bus.call(Call(LOGIN1, tracked.path, SESSION, "Activate"))

    async def switch_to(self, vt: int) -> None:
        """Bring a VT to the front. Raises BusCallError (NoSuchSeat, ...) or BusError."""
        if not self._seat_path:
            raise BusCallError(NO_SUCH_SEAT, f"no seat {self._seat!r}")
        await self._bus.call(Call(LOGIN1, self._seat_path, SEAT, "SwitchTo", "u", [vt]))

    async def session_of(self, pid: int) -> str:
        """Return the id of the session that a process is in, "" for none. Raises BusError."""
        try:
            [path] = await self._bus.call(
                Call(LOGIN1, MANAGER_PATH, MANAGER, "GetSessionByPID", "u", [pid]), limit=READ_LIMIT
            )
        except BusCallError:
            return ""
        return self._ids.get(path, "")

    def _on_owner(self, owner: str) -> None:
        if self._is_closed or owner == self._owner:
            return
        is_first = self._owner is None
        log.info("logind is %s", "there" if owner else "not there")
        self._owner = owner
        self._forget_all()
        self._end_absence()
        if owner:
            self._read_all()
        elif is_first:
            self._changed()
            # Makes the bus start it, where the bus knows how.
            self._bus.call_nowait(Call(LOGIN1, MANAGER_PATH, MANAGER, "ListSessions"), _ignore)
        else:
            self._absence = self._loop.call_later(ABSENCE, self._is_gone)

    def _is_gone(self) -> None:
        self._absence = None
        self._changed()

    def _end_absence(self) -> None:
        if self._absence:
            self._absence.cancel()
            self._absence = None

    def _read_all(self) -> None:
        self._is_reading = True
        self._retry = None
        self._ask(Call(LOGIN1, MANAGER_PATH, MANAGER, "GetSeat", "s", [self._seat]), self._on_seat)
        self._ask(Call(LOGIN1, MANAGER_PATH, MANAGER, "ListSessions"), self._on_sessions)

    def _on_seat(self, answer: list[Any] | BusCallError) -> None:
        if not isinstance(answer, BusCallError):
            self._seat_path = answer[0]
            self._read_active()
        elif answer.name != NO_SUCH_SEAT:  # a machine without one may get one: SeatNew
            self._read_again_later(answer)

    def _on_sessions(self, answer: list[Any] | BusCallError) -> None:
        if isinstance(answer, BusCallError):
            self._read_again_later(answer)
            return
        self._backoff.reset()
        for session_id, _uid, _user, _seat, path in answer[0]:
            self._track(session_id, path)

    def _read_again_later(self, error: BusCallError) -> None:
        log.error("cannot read logind's sessions: %s", error)
        self._forget_all()
        self._retry = self._loop.call_later(self._backoff.delay(), self._read_all)
        self._changed()

    def _read_active(self) -> None:
        def learn(answer: list[Any] | BusCallError) -> None:
            active = None if isinstance(answer, BusCallError) else answer[0]
            self._set_active(*reference(active))

        call = Call(LOGIN1, self._seat_path, PROPERTIES, "Get", "ss", [SEAT, "ActiveSession"])
        self._ask(call, learn)

    def _on_seat_new(self, signal: Signal) -> None:
        seat, path = signal.body
        if seat == self._seat:
            self._seat_path = path
            self._read_active()

    def _on_seat_removed(self, signal: Signal) -> None:
        if signal.body[0] == self._seat:
            self._seat_path = ""
            self._set_active("", "")

    def _on_seat_changed(self, signal: Signal) -> None:
        _, values, invalidated = signal.body
        if signal.path != self._seat_path:
            return
        if "ActiveSession" in values:
            self._set_active(*reference(values["ActiveSession"]))
        elif "ActiveSession" in invalidated:
            self._read_active()

    def _set_active(self, session_id: str, path: str) -> None:
        if session_id == self._active:
            return
        self._active = session_id
        if session_id in self._tracked:
            self.reread(session_id)  # it may have begun to close while it was not looked at
        elif session_id:
            self._track(session_id, path, is_active=True)
        self._changed()

    def _on_session_new(self, signal: Signal) -> None:
        self._track(*signal.body)

    def _on_session_removed(self, signal: Signal) -> None:
        self._forget(signal.body[0])

    def _on_session_changed(self, signal: Signal) -> None:
        _, values, invalidated = signal.body
        tracked = self._tracked.get(self._ids.get(signal.path, ""))
        if tracked is None:
            return
        tracked.properties.update(values)
        if invalidated:
            self._read_session(tracked)
        self._changed()

    def _track(self, session_id: str, path: str, *, is_active: bool = False) -> None:
        tracked = self._tracked.get(session_id)
        if tracked is None or tracked.path != path:
            self._forget(session_id)
            if len(self._tracked) >= MOST_SESSIONS + is_active:
                log.warning("too many sessions: session %s is ignored", session_id)
                return
            tracked = self._tracked[session_id] = Tracked(session_id, path)
            self._ids[path] = session_id
        self._read_session(tracked)

    def _read_session(self, tracked: Tracked) -> None:
        def learn(answer: list[Any] | BusCallError) -> None:
            if self._tracked.get(tracked.id) is not tracked:
                return
            if isinstance(answer, BusCallError):
                self._lose(tracked, answer)
                return
            tracked.properties = answer[0]
            if tracked.gid is None:
                self._read_gid(tracked)
            self._changed()

        self._ask(Call(LOGIN1, tracked.path, PROPERTIES, "GetAll", "s", [SESSION]), learn)

    def _read_gid(self, tracked: Tracked) -> None:
        def learn(answer: list[Any] | BusCallError) -> None:
            if self._tracked.get(tracked.id) is not tracked:
                return
            if isinstance(answer, BusCallError):
                self._lose(tracked, answer)
                return
            tracked.gid = answer[0]
            self._changed()

        path = user_path(tracked.properties)
        if path:
            self._ask(Call(LOGIN1, path, PROPERTIES, "Get", "ss", [USER, "GID"]), learn)

    def _lose(self, tracked: Tracked, error: BusCallError) -> None:
        if error.name in GONE:  # before it could be read: usual for a short session
            self._forget(tracked.id)
        else:  # what is known of it stays
            log.warning("session %s cannot be read: %s", tracked.id, error)

    def _forget(self, session_id: str) -> None:
        tracked = self._tracked.pop(session_id, None)
        if tracked:
            self._ids.pop(tracked.path, None)
            self._changed()

    def _forget_all(self) -> None:
        self._generation += 1
        self._open = 0
        self._is_reading = False
        if self._retry:
            self._retry.cancel()
            self._retry = None
        self._seat_path = self._active = ""
        self._tracked.clear()
        self._ids.clear()

    def _ask(self, call: Call, on_answer: Callable[[list[Any] | BusCallError], None]) -> None:
        generation = self._generation
        self._open += 1

        def check(answer: Answer) -> None:
            if generation != self._generation or isinstance(answer, BusError):
                return  # a lost bus is told by ``Bus.wait_closed``
            on_answer(answer)
            self._open -= generation == self._generation
            if self._open == 0 and self._is_reading:
                self._is_reading = False
                self._changed()

        self._bus.call_nowait(call, check, limit=READ_LIMIT)

    def _changed(self) -> None:
        if not (self._is_reading or self._absence or self._publish or self._is_closed):
            self._publish = self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        self._publish = None
        facts = self._facts()
        if not (self._is_reading or self._absence) and facts != self._told:
            self._told = facts
            self._on_facts(facts)

    def _facts(self) -> SeatFacts:
        where = (self._seat, self._active)
        found = [tracked.session(where) for tracked in self._tracked.values()]
        sessions = {session.id: session for session in found if session}
        front = sessions.get(self._active)
        return SeatFacts(
            seat=self._seat,
            has_logind=bool(self._owner),
            sessions=MappingProxyType(sessions),
            active=self._active,
            vt=front.vt if front else 0,
            is_whole=self._retry is None,
        )


def _from_manager(member: str) -> Match:
    return Match(sender=LOGIN1, path=MANAGER_PATH, interface=MANAGER, member=member)


def _changed(interface: str) -> Match:
    return Match(sender=LOGIN1, interface=PROPERTIES, member="PropertiesChanged", arg0=interface)


def _ignore(answer: Answer) -> None:
    log.debug("asked the bus to start logind: %s", type(answer).__name__)
