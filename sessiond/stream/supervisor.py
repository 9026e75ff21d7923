"""Makes the world match the decision: agents started and ended, one of them relayed to the port.

Owns the port, the agents, the back-off and the grace; all state is keyed by logind's session id.
What is decided comes in by ``on_decision``; what is so, goes out by ``on_status``.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence

from sessiond.model import KMS, Counters, Decision, Display, Reason, Session, Status
from sessiond.stream.agent import READY_TIMEOUT, Agent, AgentStart, Exit
from sessiond.stream.agents import Agents, Recency, own_memory
from sessiond.stream.explain import Situation, explain
from sessiond.stream.keep import KeptPort
from sessiond.stream.kms import NOT_READ
from sessiond.stream.parts import Parts, Settings
from sessiond.stream.port import HostPort
from sessiond.stream.reconcile import PLACEHOLDER, Action, Phase, Wanted, reconcile
from sessiond.stream.ways import Ways
from sessiond.transport.edge import EdgePoller
from sessiond.wire.device import HIDDEN_CURSOR, Format, Type, parse_format
from sessiond.wire.device import pack as pack_device
from sessiond.wire.link import DeviceMessage, Ready, Stats

log = logging.getLogger(__name__)

_NO_STREAM = Format(0, 0, 0)


class Supervisor:
    """Runs from ``start`` to ``close``."""

    def __init__(self, parts: Parts, settings: Settings, poller: EdgePoller) -> None:
        self._loop = asyncio.get_running_loop()
        self._parts = parts
        self._settings = settings
        self._stream = _NO_STREAM
        self._poller = poller
        self._port = HostPort(parts.port_path, poller, self)
        self._decision = Decision("", Reason.LOGIND_MISSING, "Waiting for systemd-logind.")
        self._sessions: Mapping[str, Session] = {}
        self._agents = Agents()
        self._recency = Recency()
        self._ways = Ways(parts.look, self._leave_card, self._settle)
        self._proven: frozenset[str] = frozenset()
        self._codecs: tuple[int, ...] = ()
        self._quality = False
        self._serial = 0
        self._frame_serial = 0  # of the newest frame that went to the port
        self._restarts = 0
        self._port_reason: Reason | None = Reason.PORT_MISSING
        self._port_text = "The stream port is not open yet."
        self._is_stalled = False
        self._placeholder_text = ""
        self._grace: asyncio.TimerHandle | None = None
        self._is_informed = False  # whether anything was decided yet
        self._is_settling = False
        self._is_closed = False

    def start(self, kept: KeptPort | None = None) -> None:
        """Open the port, or go on with one that was ``kept``."""
        if kept:
            self._port.adopt(kept)
        else:
            self._port.open()

    def configure(self, settings: Settings) -> None:
        """Follow other settings from now on."""
        self._settings = settings
        self._settle()

    def restart_agent(self) -> bool:
        """End the agent of the session that is to be shown, and start another at once.

        Returns whether there is such a session.
        """
        key = self._decision.session
        self._ways.forgive([key])
        agent = self._agents.get(key)
        if agent:
            agent.stop()
        self._settle()
        return bool(key)

    def counters(self) -> Counters:
        """Return what was sent so far."""
        return self._port.counters()

    async def close(self) -> KeptPort | None:
        """Stop every agent, wait for their ends, close the port.

        Returns a second descriptor of the port, and what else the next daemon needs: as long as
        somebody holds it, the port is open.
        """
        self._is_closed = True
        self._end_grace()
        self._ways.close()
        for agent in self._agents:
            agent.stop()
        await self._agents.wait_none()
        kept = self._port.hand_over(self._codecs)
        self._port.close()
        return kept

    def on_decision(
        self, decision: Decision, sessions: Mapping[str, Session], *, is_gap: bool
    ) -> None:
        """Show what is decided now; ``sessions`` are all that exist.

        ``is_gap``: no session at all is active, as in the middle of a login or a switch.
        """
        had, had_console = self._decision, self._is_console(self._decision.session)
        if had.session != decision.session:
            # Before all else. Who was shown may go on being so, as the one who tells of trouble:
            # what it had sent and is dropped here, it sends again.
            self._silence(self._agents.active())
        self._ways.follow(self._sessions, sessions)
        # What is being found out about another account, or one that has left, is not to be used.
        for key, it in self._sessions.items():
            if key not in sessions or sessions[key].uid != it.uid:
                self._agents.outdate(key)
        was_informed, self._is_informed = self._is_informed, True
        self._decision, self._sessions = decision, sessions
        # Who was not shown may have left something on what is a console now.
        is_end = had.session or (was_informed and self._is_console(decision.session))
        # A console that another follows, or that is there and not to be shown any more, is left
        # by nobody who is logging in.
        stays = had_console and any(map(self._is_console, (had.session, decision.session)))
        if not is_gap:
            self._end_grace()
        elif is_end and not stays and not self._grace:
            self._grace = self._loop.call_later(self._settings.grace, self._grace_is_over)
        wanted = self._candidate()
        self._recency.note(wanted, sessions)
        agent = self._agents.get(wanted)
        is_read = agent is not None and agent.is_kms and not agent.is_stopping
        # Where the card goes on being read, as after a gap, there is still a reason for it.
        is_other = (wanted, decision.route) != (had.session or had.probe, had.route)
        if wanted and is_other and not is_read:
            self._ways.forgive([wanted])
        if agent and not agent.is_stopping and _uses_other(agent, decision.route):
            agent.stop()  # it was allowed until now
        self._settle()

    def on_unprepared(self, session_id: str, why: str) -> None:
        """Take note that it could not be found out how a session's agent is started."""
        if self._agents.end_look_up(session_id):
            text = f"The agent cannot be started: {why}."
            self._ways.fail(session_id, Reason.AGENT_CRASHED, text)
        self._settle()

    def on_no_display(self, session_id: str, why: str) -> None:
        """Take note that there is no display yet, and nothing to start a user's agent for."""
        if self._agents.end_look_up(session_id):
            reason = Reason.NO_DISPLAY_FOUND
            if not self._ways.refuse(session_id, self._route(session_id), reason, why):
                self._ways.rest(session_id, reason, why)
        self._settle()

    def on_no_helper(self, session_id: str, why: str) -> None:
        """Take note that there is no KMS helper to start an agent with."""
        log.warning("session %s: there is no KMS helper: %s", session_id, why)
        if self._agents.end_look_up(session_id):
            self._ways.fail(session_id, Reason.DISPLAY_REFUSED, f"{NOT_READ}: {why}.")
        self._settle()

    def on_record(self, session_id: str, display: str) -> None:
        """Look again soon: a helper has named this session's display.

        An agent that has another one open, or still looks for one, ends; the next one tries the
        helper's first.
        """
        self._ways.on_record(session_id)
        self._agents.outdate(session_id)
        agent = self._agents.get(session_id)
        if agent and (not agent.ready or _server(agent.ready.display) != _server(display)):
            agent.stop()
        self._settle()

    def on_new_display(self) -> None:
        """Look again soon where none was found: one has come somewhere."""
        self._ways.on_new_display(self._sessions)

    # From the port.

    def on_port(self, reason: Reason | None, text: str) -> None:
        """Take note of the port's state."""
        self._port_reason, self._port_text = reason, text
        self._settle()

    def on_start(self, codecs: tuple[int, ...], *, quality: bool) -> None:
        """Begin a new stream, also for whoever is shown already."""
        self._codecs, self._quality = codecs, quality
        for agent in self._agents:
            agent.pause()
        self._settle()

    def on_stop(self) -> None:
        """Nobody watches."""
        self._codecs = ()
        self._port.drop_waiting()
        self._settle()

    def on_frame_sent(self, delay: float) -> None:
        """Ask the shown agent for the next frame, when it will be fresh."""
        agent = self._agents.active()
        if agent is None or agent.serial != self._frame_serial:
            return  # it was another's, or an earlier stream's: who is shown has credit already
        agent.tell_line(self._port.line_rate())
        if delay:
            self._loop.call_later(delay, self._credit, agent.key, agent.serial)
        else:
            self._credit(agent.key, agent.serial)

    def on_stalled(self, *, stalled: bool) -> None:
        """Tell it; a stalled host is waited for."""
        self._is_stalled = stalled
        self._tell()

    # From the agents.

    def on_ready(self, agent: Agent, ready: Ready) -> None:
        """Its display is open: it can be shown."""
        log.info("agent %d of %s shows %s (%s)", agent.pid, agent.key, ready.display, ready.rule)
        if agent.key == self._candidate() and _uses_other(agent, self._decision.route):
            agent.stop()  # it was allowed when it began
            self._settle()
            return
        self._ways.recover(agent.key, is_kms=agent.is_kms)
        session = self._sessions.get(agent.key)
        if session and session.vt and ready.vt == session.vt and not agent.is_kms:
            self._prove(self._proven | {agent.key})
        self._settle()

    def on_message(self, agent: Agent, message: DeviceMessage) -> None:
        """Relay it; an agent that is not active was not heard at all."""
        if agent is self._agents.active():
            if message.type is Type.DATA:
                self._frame_serial = agent.serial
            elif message.type is Type.FORMAT:
                self._stream = parse_format(message.data)
                self._tell()
            self._port.put(message.type, message.data)

    def on_stats(self, agent: Agent, stats: Stats) -> None:
        """Tell what it says of its stream."""
        log.debug("agent %d: %s", agent.pid, stats)
        if agent is self._agents.active():
            self._tell()

    def on_unavailable(self, agent: Agent) -> None:
        """Tell why there is no new picture, or that there is again."""
        log.debug("agent %d: unavailable: %r", agent.pid, agent.unavailable)
        if agent is self._agents.active():
            self._tell()

    def on_exit(self, agent: Agent, end: Exit) -> None:
        """Start it again later, unless it was stopped or its session is gone."""
        self._agents.remove(agent)
        self._parts.on_agent_end(agent.key, agent.pid, end.status, end.reason)
        if self._is_closed:
            return
        if not end.was_asked:
            self._restarts += 1
            log.warning("agent %d of %s ended: %s", agent.pid, agent.key, end.words)
            if agent.key in self._sessions or agent.key == PLACEHOLDER:
                self._suspect(agent, end)
            self._parts.reread(agent.key)  # closing is not signalled
        self._prove(self._proven - {agent.key})
        self._settle()

    # The rest.

    def _settle(self) -> None:
        if self._is_closed or self._is_settling:
            return  # an action's own consequence; the loop below sees it
        self._is_settling = True
        try:
            while actions := reconcile(self._wanted(), self._agents.phases()):
                for action in actions:
                    self._act(action)
        finally:
            self._is_settling = False
        if self._agents.is_kms(self._decision.session):
            self._ways.look_again(self._sessions[self._decision.session])
        self._mind_port()
        self._tell()

    def _mind_port(self) -> None:
        """With when_idle = "close", hold the port only while there is something to show.

        It is never closed while a client is asking: see ``stream.port``.
        """
        if self._port_reason is not None:
            return  # the port itself sees to it that it is opened
        is_wanted = (
            self._settings.when_idle != "close" or bool(self._codecs) or not self._sentence()
        )
        if is_wanted and not self._port.is_held:
            self._port.open()
        elif not is_wanted and self._port.is_held and self._is_informed:
            self._port.close()
            self._is_stalled = False

    def _wanted(self) -> Wanted:
        keep = self._kept()
        if self._port_reason is not None:
            return Wanted(keep=keep)
        session, candidate = self._decision.session, self._candidate()
        run = {candidate} if candidate and not self._ways.is_waiting(candidate) else set[str]()
        show = session if session and session not in self._ways else ""
        text = self._sentence()
        if self._codecs and text and self._settings.when_idle == "placeholder":
            is_current = PLACEHOLDER not in self._agents or text == self._placeholder_text
            if is_current and not self._ways.is_waiting(PLACEHOLDER):
                run.add(PLACEHOLDER)
                show = PLACEHOLDER
        return Wanted(frozenset(run), keep, show if self._codecs else "")

    def _kept(self) -> frozenset[str]:
        """Return who may go on having an agent.

        In a gap nobody is to be shown, and the one before may be again.
        """
        front = self._candidate() or (self._recency.newest if self._grace else "")
        alive = frozenset(key for key, it in self._sessions.items() if it.state != "closing")
        others = {
            key
            for key, phase in self._agents.phases().items()
            if phase is not Phase.STOPPING
            and not self._agents.is_late(key)
            and not self._agents.is_kms(key)  # what it has mapped may be another's screen next
            and key in alive - {front}
        }
        return (alive & {front}) | self._recency.latest(self._settings.keep_warm, among=others)

    def _sentence(self) -> str:
        """Return what a client has to be told instead of a picture; empty for nothing."""
        session = self._decision.session
        if session:
            return self._trouble_of(session)[1]
        return "" if self._grace or not self._is_informed else self._decision.text

    def _trouble_of(self, session: str) -> tuple[Reason | None, str]:
        """Return what keeps a session's agent from working; None and "" for nothing."""
        if not self._agents.is_late(session):
            return self._ways.explain(session, self._decision.remedy)
        account = self._sessions[session].user or self._sessions[session].uid
        text = (
            f"The user database has not answered for {READY_TIMEOUT:g} s about the account of "
            f"{account}: the agent waits for it. `id {account}` asks the same."
        )
        return Reason.AGENT_TIMEOUT, text

    def _act(self, action: Action) -> None:
        log.debug("%s %s", action.verb, action.key)
        agent = self._agents.get(action.key)
        match action.verb:
            case "launch" if action.key == PLACEHOLDER:
                self._placeholder_text = self._sentence()
                self._launch(self._parts.placeholder(self._placeholder_text))
            case "launch":
                self._agents.look_up(action.key, READY_TIMEOUT, self._settle)
                backends = self._ways.next_backends(action.key, self._route(action.key))
                self._parts.prepare(self._sessions[action.key], backends, self._prepared)
            case "stop" if agent:
                agent.stop()
            case "pause" if agent:
                self._silence(agent)
            case "activate" if agent:
                self._serial += 1
                agent.activate(
                    self._serial,
                    self._codecs,
                    quality=self._quality,
                    rate=self._port.line_rate(),
                )

    def _silence(self, agent: Agent | None) -> None:
        """Show this agent no more, and nothing that waits; it may be gone already."""
        if agent:
            agent.pause()
            self._loop.call_soon(self._tell_memory, agent)
        self._port.drop_waiting()
        if agent:
            self._port.put(Type.CURSOR_SET, pack_device(HIDDEN_CURSOR))

    def _prepared(self, start: AgentStart) -> None:
        wanted = self._wanted()  # who is not any more, has come too late
        is_current = self._agents.end_look_up(start.key) and not self._is_closed
        allowed = wanted.run | wanted.keep
        if start.helper:  # and so it is where that is not the way any more
            is_way = self._ways.may_read(start.key, self._route(start.key))
            allowed = wanted.run if is_way else frozenset()
        if is_current and start.key in allowed:
            self._launch(start)
        else:
            start.close()
        self._settle()

    def _launch(self, start: AgentStart) -> None:
        try:
            agent = Agent(start, self._poller, self)
        except OSError as error:
            log.error("an agent cannot be started: %s", error)  # noqa: TRY400 (one line)
            start.close()
            text = f"The agent cannot be started: {error}."
            self._ways.fail(start.key, Reason.AGENT_CRASHED, text)
            return
        log.info("agent %d started for %s", agent.pid, start.key)
        self._agents.add(agent)
        self._parts.on_agent(start.key, agent.pid)

    def _credit(self, key: str, serial: int) -> None:
        agent = self._agents.get(key)
        if agent and agent.is_active and agent.serial == serial:
            agent.give_credit()

    def _tell_memory(self, agent: Agent) -> None:
        """Say what an agent costs that stays; asked for once, when it is shown no more."""
        if agent.key != PLACEHOLDER and not agent.is_stopping:
            megabytes = own_memory(agent.pid) / 1e6
            fields = {"SESSION": agent.key, "AGENT_PID": agent.pid}
            text = "agent %d of session %s is kept, paused: %.1f MB of its own"
            log.info(text, agent.pid, agent.key, megabytes, extra=fields)

    def _suspect(self, agent: Agent, end: Exit) -> None:
        key, reason, text = agent.key, Reason(end.reason), end.sentence
        if reason is Reason.PAUSED_BY_USER:
            self._parts.on_ended(key)  # nothing has failed
            return
        route = self._route(key)
        there, is_lost = agent.there, end.was_ready
        if agent.is_kms or not self._ways.refuse(
            key, route, reason, text, there=there, is_lost=is_lost
        ):
            self._ways.fail(key, reason, text, is_probe=key == self._decision.probe)

    def _leave_card(self, key: str) -> None:
        """Let the user's agent be tried again, now that there is something for it."""
        agent = self._agents.get(key)
        if agent and agent.is_kms:
            log.info("session %s may have something to capture again", key)
            agent.stop()

    def _candidate(self) -> str:
        """Return who is to be captured; "" for nobody.

        In the middle of a login or a switch, too, no session is active on the VT in front: it is
        not a console's before the grace is over.
        """
        key = self._decision.session or self._decision.probe
        return "" if self._grace and self._is_console(key) else key

    def _route(self, key: str) -> tuple[str, ...]:
        """Return the back-ends that may capture a session; only for one that is to be captured."""
        is_wanted = key in {self._decision.session, self._decision.probe}
        return self._decision.route if is_wanted else ()

    def _is_console(self, key: str) -> bool:
        session = self._sessions.get(key)
        return session is not None and session.is_console

    def _prove(self, proven: frozenset[str]) -> None:
        if proven != self._proven:
            self._proven = proven
            self._parts.on_proven(proven)

    def _end_grace(self) -> None:
        if self._grace:
            self._grace.cancel()
            self._grace = None

    def _grace_is_over(self) -> None:
        self._grace = None
        self._recency.note(self._candidate(), self._sessions)
        self._settle()

    def _tell(self) -> None:
        reason, text = self._explain()
        session = self._sessions.get(self._decision.session)
        agent = self._agents.get(self._decision.session)
        active = self._agents.active() if self._port_reason is None and self._codecs else None
        stream = self._stream if active else _NO_STREAM
        stats = active.stats if active else None
        retries = [at for at in (self._ways.next_try(), self._port.next_try()) if at]
        self._parts.on_status(
            Status(
                session="" if session and session.is_console else self._decision.session,
                reason=reason,
                text=text,
                agent_pid=agent.pid if agent else 0,
                agent_restarts=self._restarts,
                host_codecs=self._codecs,
                backend=_backend(agent.ready) if agent and agent.ready else "",
                codec=stream.codec,
                width=stream.width,
                height=stream.height,
                encoder=stats.encoder if stats else "",
                why=stats.why if stats else "",
                next_retry=min(retries, default=0.0),
                displays={
                    it.key: Display(it.ready.display, it.ready.rule, _backend(it.ready))
                    for it in self._agents
                    if it.ready and it.key != PLACEHOLDER
                },
            )
        )

    def _explain(self) -> tuple[Reason, str]:
        key = self._decision.session
        agent = self._agents.get(key)
        return explain(
            Situation(
                decision=self._decision,
                port=(self._port_reason, self._port_text),
                trouble=self._trouble_of(key),
                name=f"VT {self._sessions[key].vt}" if self._is_console(key) else f"session {key}",
                refused=self._ways.refusal(key) if agent and agent.is_kms else "",
                unavailable=agent.unavailable if agent else "",
                is_asking=bool(self._codecs),
                is_ready=agent is not None and agent.ready is not None,
                is_stalled=self._is_stalled,
            )
        )


def _uses_other(agent: Agent, route: Sequence[str]) -> bool:
    """Return whether an agent captures by what is not in the route."""
    if agent.is_kms:
        return KMS not in route
    return agent.ready is not None and _backend(agent.ready) not in route


def _backend(ready: Ready) -> str:
    return ready.backend or "x11"


def _server(display: str) -> str:
    """Return a display's name without its screen: ``:0.0`` and ``:0`` are one server."""
    return display.partition(".")[0]
