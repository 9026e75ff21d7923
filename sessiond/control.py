"""What is known of the seat, what was ordered, what is decided from both, and what came of it.

The daemon's memory: facts come in from logind, the VT file and the agents, orders from the bus and
the configuration; decisions go to the stream, and what the stream does comes back as a status. The
parts are given to it as plain calls.
"""

import asyncio
import functools
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from sessiond.bus.control import NO_SUCH_SESSION, NOT_RELOADED, NOT_SWITCHED
from sessiond.config import KEYS, Config
from sessiond.errors import BusCallError, BusError, RequestError, UsageError
from sessiond.helper.keep import describe_records, restore_records
from sessiond.helper.life import Lives
from sessiond.helper.records import RecordRefusedError, Records, Told, is_bare
from sessiond.logind.autoswitch import choose, has_ended
from sessiond.logind.decide import Pause, Policy, decide, with_console
from sessiond.logind.keep import KeptPause, describe_pauses, restore_pauses
from sessiond.logind.routes import Capture
from sessiond.model import Counters, Decision, Event, Reason, SeatFacts, State, Status
from sessiond.transport.fds import OwnedFd
from sessiond.wire.device import codec_name

log = logging.getLogger(__name__)

HISTORY: Final = 256  # status changes that are remembered
RECENT: Final = 64  # sessions that were in front
SWITCH_LIMIT: Final = 5.0  # seconds; a switch takes milliseconds, an X server's end one or two
LASTING: Final = 1.0  # seconds after which a codec is told of; one that fails at once is not
ON_SESSION_END: Final = "on-session-end"


@dataclass(frozen=True, slots=True)
class Parts:
    """What it calls.

    ``show(decision, facts)`` makes the stream follow, of a console that is among the sessions of
    these facts alone, too; ``configure(config)`` is called for every
    configuration but the first; ``load()`` reads the configuration anew or raises UsageError.
    ``activate(session_id)``, ``switch_to(vt)`` and ``session_of(pid)`` are logind's; ``vt()`` is
    the VT in front, ``has_card()`` whether there is a graphics card. ``restart_agent`` returns
    whether there was one to restart.
    ``on_change(before)`` is called after every change, with the facts that were known before;
    ``on_news`` when State or Reason changed; ``on_record(session_id, display)`` when a helper has
    named one. ``spawn`` runs a coroutine in a task that somebody owns.
    """

    show: Callable[[Decision, SeatFacts], None]
    configure: Callable[[Config], None]
    load: Callable[[], Config]
    activate: Callable[[str], Awaitable[None]]
    switch_to: Callable[[int], Awaitable[None]]
    session_of: Callable[[int], Awaitable[str]]
    restart_agent: Callable[[], bool]
    counters: Callable[[], Counters]
    on_change: Callable[[SeatFacts], None]
    on_news: Callable[[Status], None]
    on_record: Callable[[str, str], None]
    vt: Callable[[], int]
    has_card: Callable[[], bool]
    spawn: Callable[[Coroutine[object, object, None]], object]


class SeatControl:
    """The seat; ``facts`` and ``status`` are what is so now.

    The parts tell it what they know, and are told: so it is made first, and ``attach`` ed to them.
    """

    def __init__(self, config: Config) -> None:
        self._loop = asyncio.get_running_loop()
        self._config = config
        self._parts: Parts
        self.facts = self._said = SeatFacts(seat=config.text("seat"))  # with records, and without
        self._proven: frozenset[str] = frozenset()
        self._records = Records(config.text("seat"), _vt_owner)
        self._lives = Lives()
        self.status = Status(
            session="", reason=Reason.LOGIND_MISSING, text="The daemon is starting."
        )
        self.is_enabled = config.flag("stream.enabled")
        self.auto_switch = config.text("switch.auto")
        self._paused: dict[str, Pause] = {}
        self._kept: list[KeptPause] = []  # of the daemon before us, until its sessions are known
        self._recent = deque[str](maxlen=RECENT)  # the latest first
        self._history = deque[Event](maxlen=HISTORY)
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._switch_timer: asyncio.TimerHandle | None = None
        self._told_codec = 0
        self._codec_timer: asyncio.TimerHandle | None = None

    def attach(self, parts: Parts) -> None:
        """Call these from now on."""
        self._parts = parts

    def close(self) -> None:
        """Order nothing more."""
        self._cancel_switch()
        if self._codec_timer:
            self._codec_timer.cancel()
        self._lives.close()

    # Facts.

    def on_facts(self, facts: SeatFacts) -> None:
        """Take what logind says."""
        self._said = facts
        self._records.prune(facts)
        self._update()

    def on_vt(self, _vt: int) -> None:
        """Take that another VT is in front."""
        self._update()

    def on_proven(self, sessions: frozenset[str]) -> None:
        """Take which sessions have a display on their VT."""
        self._proven = sessions
        self._update()

    def on_ended(self, session_id: str) -> None:
        """Take that somebody at the screen has ended a session's recording.

        That is a pause like any of its user's: it holds until it is resumed.
        """
        if session_id not in self.facts.sessions or session_id in self._paused:
            return
        text = "session %s: %s, for the recording was ended at the screen"
        log.info(text, session_id, Reason.PAUSED_BY_USER, extra={"SESSION": session_id})
        self._paused[session_id] = Pause.AT_SCREEN
        self._update()

    def on_cards(self) -> None:
        """Take that there is a graphics card now, or none any more."""
        self._update()

    def on_record(self, told: Told, pid: int, settle: Callable[[str], None]) -> str | None:
        """Take what the helper ``pid`` tells. Return "", or why it is refused.

        None where only logind can say which session the helper is in: ``settle`` is called with
        the same later. Who waits for that is limited by the connections that there may be.
        """
        if not self._said.has_logind or told.vt:
            return self._take(told, "")

        async def place() -> None:
            settle(self._take(told, await self._parts.session_of(pid)))

        self._parts.spawn(place())
        return None

    def _take(self, told: Told, session_id: str) -> str:
        known = self._records.all()
        try:
            placed = self._place(told, session_id)
        except RecordRefusedError as error:
            return str(error)
        before = known.get(placed)
        if before == told:
            return ""  # said before; a user can say it a thousand times a second
        level = logging.DEBUG if before else logging.INFO
        log.log(level, "session %s: a helper names display %s", placed, told.display)
        self._update()
        self._parts.on_record(placed, told.display)
        return ""

    def _place(self, told: Told, session_id: str) -> str:
        """Keep a record for as long as it holds; return its session. Raises RecordRefusedError."""
        on_vt = self._records.on_vt(told.vt)
        placed = self._records.add(told, self._said, session_id)
        if self._said.has_logind:
            return placed
        try:
            forget = functools.partial(self._forget, told)
            self._lives.watch(told.vt, told.leader, told.leader_start, forget)
        except OSError as error:
            self._records.forget(told, on_vt)
            why = error.strerror or error
            text = f"the leader of its kernel session, process {told.leader}: {why}"
            raise RecordRefusedError(text) from None
        return placed

    def _forget(self, told: Told) -> None:
        self._records.forget(told)
        self._update()

    def hand_over(self) -> dict[str, OwnedFd]:
        """Return what helpers have told, and what is paused, to be stored.

        See ``helper.keep`` and ``logind.keep``. What is known without logind is not: a VT may be
        another user's next.
        """
        sessions = self.facts.sessions
        paused = [
            KeptPause(key, sessions[key].since, pause)
            for key, pause in self._paused.items()
            if key in sessions and not is_bare(key)
        ]
        return describe_records(self._records.taken()) | describe_pauses(self._kept + paused)

    def restore(self, stored: dict[str, OwnedFd]) -> None:
        """Take out what ``hand_over`` gave. To be called before any facts have come.

        What is not so any more is forgotten: now without logind, else when it says what is.
        """
        self._kept = restore_pauses(stored)
        for taken in restore_records(stored):
            if taken.session:
                self._records.restore(taken)
                continue
            try:
                self._place(taken.told, "")
            except RecordRefusedError as error:
                log.info("what a helper had told is forgotten: %s", error)

    def record_of(self, session_id: str) -> Told | None:
        """Return what a helper has told of a session."""
        return self._records.of(session_id)

    def on_status(self, status: Status) -> None:
        """Take what the stream does."""
        before, self.status = self.status, status
        if status == before:
            return
        if (status.session, status.reason) != (before.session, before.reason):
            self._history.append(Event(time.time(), status))
            self._parts.on_news(status)
        if self._has_other_codec() and not self._codec_timer:
            self._codec_timer = self._loop.call_later(LASTING, self._mind_codec)
        self._parts.on_change(self.facts)

    def _has_other_codec(self) -> bool:
        # A sentence in place of a session is MJPEG always, and no news.
        is_shown = self.status.state is State.STREAMING
        return is_shown and self.status.codec not in {0, self._told_codec}

    def _mind_codec(self) -> None:
        """Tell of another codec, also when the first is not what was configured."""
        self._codec_timer = None
        if not self._has_other_codec():
            return
        before, now = self._told_codec, self.status
        self._told_codec = now.codec
        if not (before or now.why):
            return
        by = f" ({now.encoder})" if now.encoder else ""
        why = f", because {now.why}" if now.why else ""
        text = f"The codec is {codec_name(now.codec)}{by} now{why}."
        fields = {"SESSION": now.session, "CODEC": codec_name(now.codec)}
        log.info("%s", text, extra=fields)
        self._history.append(Event(time.time(), replace(now, text=text)))

    def _update(self) -> None:
        has_card = self._parts.has_card()
        said = replace(self._said, proven=self._proven, has_card=has_card)
        before, self.facts = self.facts, self._records.join(said, self._parts.vt())
        facts = self.facts
        self._take_kept()
        # A logind that restarts knows its sessions again; a helper's VT may be another user's next.
        self._paused = {
            key: why
            for key, why in self._paused.items()
            if key in facts.sessions or not (facts.has_logind or is_bare(key))
        }
        if facts.active and facts.active != before.active:
            if facts.active in self._recent:
                self._recent.remove(facts.active)
            self._recent.appendleft(facts.active)
        self._mind_auto_switch(before)
        self._decide()
        self._parts.on_change(before)
        self._wake()

    def _take_kept(self) -> None:
        """Let what was paused before a restart be so, where it is the same session."""
        sessions = self.facts.sessions
        for it in self._kept:
            if it.session in sessions and sessions[it.session].since == it.since:
                self._paused[it.session] = it.pause
        is_all = self.facts.has_logind and self.facts.is_whole
        self._kept = [it for it in self._kept if not (is_all or it.session in sessions)]

    def _decide(self) -> None:
        facts = with_console(self._in_front())
        decision = decide(facts, self._policy())
        log.debug("decided: %s", decision)
        self._parts.show(decision, facts)

    def _in_front(self) -> SeatFacts:
        front = self.facts.sessions.get(self.facts.active)
        return replace(self.facts, vt=front.vt if front and front.vt else self._parts.vt())

    def _policy(self) -> Policy:
        return Policy(
            deny_users=frozenset(self._config.texts("stream.deny_users")),
            is_enabled=self.is_enabled,
            paused=MappingProxyType(self._paused),
            capture=Capture(
                order=self._config.texts("capture.order"),
                greeter_order=self._config.texts("capture.greeter_order"),
                console_order=self._config.texts("capture.console_order"),
                kms=self._config.text("capture.kms"),
            ),
        )

    # What is asked.

    def counters(self) -> Counters:
        """Return what was sent so far."""
        return self._parts.counters()

    def history(self, limit: int) -> Sequence[Event]:
        """Return the newest changes, the oldest of them first; all for 0."""
        events = list(self._history)
        return events[-limit:] if limit else events

    def reason_of(self, session_id: str) -> Reason:
        """Return why a session is or is not shown, or would be if it were in front."""
        if not self.is_enabled:
            return Reason.PAUSED_BY_ADMIN
        if self.status.state is State.NO_PORT or session_id == self.facts.active:
            return self.status.reason
        decision = decide(replace(self.facts, active=session_id), self._policy())
        nobody = Reason.OK if self.status.host_codecs else Reason.HOST_NOT_ASKING
        return decision.reason or nobody

    def is_paused_by_admin(self, session_id: str) -> bool:
        """Whether an administrator has paused this session."""
        return self._paused.get(session_id) is Pause.BY_ADMIN

    # Orders.

    def set_enabled(self, *, enabled: bool) -> None:
        """Pause or resume everything."""
        log.info("streaming %s", "resumed" if enabled else "paused")
        self.is_enabled = enabled
        self._update()

    def set_auto_switch(self, value: str) -> None:
        """Choose what follows the end of the shown session."""
        log.info("automatic switch: %s", value)
        self.auto_switch = value
        self._cancel_switch()
        self._parts.on_change(self.facts)

    def set_streaming(self, session_id: str, *, enabled: bool, by_owner: bool) -> None:
        """Pause or resume one session."""
        if session_id not in self.facts.sessions:
            raise RequestError(NO_SUCH_SESSION, f"session {session_id} has ended")
        by = Pause.BY_USER if by_owner else Pause.BY_ADMIN
        if enabled == (session_id in self._paused):
            log.info("session %s: %s", session_id, "resumed" if enabled else by.reason)
        self._paused.pop(session_id, None)
        if not enabled:
            self._paused[session_id] = by
        self._update()

    def restart_agent(self) -> None:
        """End the shown session's agent, and start another at once."""
        if not self._parts.restart_agent():
            raise RequestError(NO_SUCH_SESSION, f"no session is to be shown: {self.status.text}")

    async def activate(self, session_id: str) -> None:
        """Bring a session to the front, and return when it is there."""
        what = f"session {session_id}"
        await self._switch(what, self._parts.activate(session_id), lambda: (
            self.facts.active == session_id))  # fmt: skip

    async def switch_to(self, vt: int) -> None:
        """Bring a VT to the front, and return when it is there."""
        await self._switch(f"VT {vt}", self._parts.switch_to(vt), lambda: (
            self._in_front().vt == vt))  # fmt: skip

    async def _switch(
        self, what: str, order: Awaitable[None], is_there: Callable[[], bool]
    ) -> None:
        try:
            async with asyncio.timeout(SWITCH_LIMIT):
                await order
                await self._until(is_there)
        except TimeoutError:
            text = f"{what} did not come to the front within {SWITCH_LIMIT:g} s"
            raise RequestError(NOT_SWITCHED, text) from None
        except (BusCallError, BusError) as error:
            raise RequestError(NOT_SWITCHED, f"logind refused {what}: {error}") from None

    async def _until(self, condition: Callable[[], bool]) -> None:
        if condition():
            return
        waiting = (condition, self._loop.create_future())
        self._waiting.append(waiting)
        try:
            await waiting[1]
        finally:
            self._waiting.remove(waiting)

    def _wake(self) -> None:
        for condition, future in self._waiting:
            if condition() and not future.done():
                future.set_result(None)

    # The configuration.

    def reload(self) -> None:
        """Read the configuration again and follow it."""
        try:
            new = self._parts.load()
        except UsageError as error:
            raise RequestError(NOT_RELOADED, str(error)) from None
        differing = self._config.differing(new)
        fixed = sorted(key for key in differing if not KEYS[key].is_live)
        kept = {key: self._config.values[key] for key in fixed}
        self._config = replace(new, values={**new.values, **kept})
        if "stream.enabled" in differing:
            self.is_enabled = new.flag("stream.enabled")
        if "switch.auto" in differing:
            self.auto_switch = new.text("switch.auto")
            self._cancel_switch()
        log.info("reloaded; new: %s", ", ".join(sorted(differing - set(fixed))) or "nothing")
        self._parts.configure(self._config)
        self._update()
        if fixed:
            text = f"needs a restart: {', '.join(fixed)}; all else is in force"
            raise RequestError(NOT_RELOADED, text)

    # After the end of the shown session.

    def _mind_auto_switch(self, before: SeatFacts) -> None:
        if self._switch_timer and self.facts.active not in {"", before.active}:
            log.info("no automatic switch: session %s is in front", self.facts.active)
            self._cancel_switch()
        is_wanted = self.auto_switch == ON_SESSION_END and not self._switch_timer
        if is_wanted and has_ended(before, self.facts):
            delay = self._config.seconds("switch.delay")
            self._switch_timer = self._loop.call_later(delay, self._switch_now)

    def _cancel_switch(self) -> None:
        if self._switch_timer:
            self._switch_timer.cancel()
            self._switch_timer = None

    def _switch_now(self) -> None:
        self._switch_timer = None
        chosen = choose(self.facts, self._recent)
        if not chosen:
            log.info("the shown session has ended, and there is no other to switch to")
            return
        log.info("the shown session has ended: switching to session %s", chosen)
        self._parts.spawn(self._try_activate(chosen))

    async def _try_activate(self, session_id: str) -> None:
        try:
            await self.activate(session_id)
        except RequestError as error:
            log.warning("the automatic switch failed: %s", error)


def _vt_owner(vt: int) -> int:
    """Return the uid that a VT's device file belongs to: login(1) gives it to who logs in."""
    return os.stat(f"/dev/tty{vt}").st_uid
