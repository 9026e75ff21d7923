"""The composition root of the daemon: makes the parts and joins them by plain calls and facts."""

import asyncio
import logging
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

from sessiond.bus.manager import PATH, Manager, View
from sessiond.config import Config
from sessiond.displays.candidates import candidates, has_x_server, session_pids
from sessiond.logind.client import LogindClient
from sessiond.logind.decide import Policy, decide
from sessiond.model import Decision, Reason, SeatFacts, Session, Status
from sessiond.notify import Notifier
from sessiond.scope import move_to_scope
from sessiond.stream.agent import AgentStart
from sessiond.stream.keep import PORT, STATE, describe, restore
from sessiond.stream.launch import NOBODY, Identity, drop_privileges, environment, identify
from sessiond.stream.reconcile import PLACEHOLDER
from sessiond.stream.supervisor import Parts, Supervisor
from sessiond.transport.bus import Bus
from sessiond.transport.edge import EdgePoller
from sessiond.transport.names import NameWatch
from sessiond.transport.vtfile import VtFile
from sessiond.wire.link import Config as AgentConfig

log = logging.getLogger(__name__)

HISTORY: Final = 256  # status changes that are remembered
_NOBODY: Final = Identity(NOBODY, NOBODY, (), "nobody", "/")


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the history; ``at`` is in seconds since 1970."""

    at: float
    status: Status


class Daemon:
    """Runs until SIGTERM or SIGINT, or until the bus is lost.

    A lost bus ends the daemon with an error: systemd restarts it, and what it knows is read
    anew. The port stays with systemd's descriptor store where there is one.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._notifier = Notifier()
        self._policy = Policy(deny_users=frozenset(config.texts("stream.deny_users")))
        self._facts = SeatFacts(seat=config.text("seat"))
        self._proven: frozenset[str] = frozenset()
        self._status = Status(
            session="", reason=Reason.LOGIND_MISSING, text="Waiting for systemd-logind."
        )
        self.history: deque[Event] = deque(maxlen=HISTORY)
        self._error: BaseException | None = None

    async def run(self) -> None:
        """Serve. Raises BusError when the bus cannot be reached, has our name taken, or is lost."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_bug)
        poller = EdgePoller()
        try:
            with await Bus.connect(self._config.text("bus.address")) as bus:
                async with asyncio.TaskGroup() as tasks:
                    self._task = tasks.create_task(self._serve(bus, poller), name="serve")
                    for number in (signal.SIGTERM, signal.SIGINT):
                        loop.add_signal_handler(number, self._task.cancel)
        finally:
            poller.close()
        if self._error:
            raise self._error

    async def _serve(self, bus: Bus, poller: EdgePoller) -> NoReturn:
        self._manager = Manager(self._view)
        bus.export(PATH, self._manager)
        await bus.request_name(self._config.text("bus.name"))
        self._vt = VtFile(self._config.text("vt.active"), poller, lambda _: self._decide())
        self._logind = LogindClient(bus, self._config.text("seat"), self._on_facts)
        self._supervisor = Supervisor(
            Parts(
                port_path=self._config.text("stream.port"),
                grace=self._config.seconds("stream.grace"),
                when_idle=self._config.text("stream.when_idle"),
                prepare=self._prepare,
                placeholder=self._placeholder,
                reread=self._logind.reread,
                on_status=self._on_status,
                on_agent=lambda key, pid: move_to_scope(bus, key, pid),
                on_proven=self._on_proven,
            ),
            poller,
        )
        # Of the folder's names: a socket in it stands for all.
        displays = f"{self._config.text('displays.sockets')}/X0"
        new_displays = NameWatch(displays, poller, self._supervisor.on_new_display)
        try:
            stored = self._notifier.take_stored()
            self._supervisor.start(restore(stored, self._config.text("stream.port")))
            self._logind.start()
            self._notifier.send(READY=1, STATUS=self._status.text)
            self._watch()
            await bus.wait_closed()
            raise AssertionError("the bus was closed by nobody")
        finally:
            self._notifier.send(STOPPING=1)
            self._logind.close()
            self._vt.close()
            new_displays.close()
            kept = await self._supervisor.close()
            if kept:
                with kept.fd as port, describe(kept) as state:
                    self._notifier.store(**{PORT: port, STATE: state})

    def _on_facts(self, facts: SeatFacts) -> None:
        self._facts = facts
        self._decide()

    def _on_proven(self, sessions: frozenset[str]) -> None:
        self._proven = sessions
        self._decide()

    def _decide(self) -> None:
        vt = self._facts.vt or self._vt.number
        facts = replace(self._facts, vt=vt, proven=self._proven)
        decision: Decision = decide(facts, self._policy)
        log.debug("decided: %s", decision)
        is_gap = facts.active not in facts.sessions
        self._supervisor.on_decision(decision, facts.sessions, is_gap=is_gap)

    def _prepare(self, session: Session, ready: Callable[[AgentStart], None]) -> None:
        """Look up the account and the displays in a thread: both may take their time."""

        def look_up() -> AgentStart | None:
            pids = session_pids(session)
            is_console = session.type == "tty"
            if is_console and not has_x_server(pids):
                return None  # most consoles: not worth a process
            identity = identify(session.uid, session.gid, session.user)
            config = AgentConfig(
                session=session.id,
                uid=session.uid,
                vt=session.vt,
                seat=session.seat,
                candidates=candidates(session),
                pids=pids,
                codec_options=self._config.texts("stream.codec_options"),
                needs_proof=is_console,
            )
            command = [*drop_privileges(identity), *self._config.texts("stream.agent"), "stream"]
            return AgentStart(session.id, command, environment(identity), config)

        def done(future: "asyncio.Future[AgentStart | None]") -> None:
            if future.cancelled():
                return
            error = future.exception()
            if isinstance(error, OSError):
                self._supervisor.on_unprepared(session.id, str(error))
            elif start := future.result():
                ready(start)
            else:
                self._supervisor.on_no_display(session.id, "No X server runs in the session.")

        asyncio.get_running_loop().run_in_executor(None, look_up).add_done_callback(done)

    def _placeholder(self, text: str) -> AgentStart:
        agent = self._config.texts("stream.agent")
        command = [*drop_privileges(_NOBODY), *agent, "placeholder", "--text", text]
        return AgentStart(
            PLACEHOLDER, command, environment(_NOBODY), AgentConfig(PLACEHOLDER, NOBODY)
        )

    def _on_status(self, status: Status) -> None:
        if status == self._status:
            return
        is_news = (status.session, status.reason) != (self._status.session, self._status.reason)
        self._status = status
        if is_news:
            session = self._facts.sessions.get(status.session)
            fields = {
                "SESSION": status.session,
                "SESSION_USER": session.user if session else "",
                "AGENT_PID": status.agent_pid,
                "REASON": str(status.reason),
            }
            log.info("%s (%s): %s", status.state, status.reason, status.text, extra=fields)
            self.history.append(Event(time.time(), status))
            self._notifier.send(STATUS=f"{status.state}: {status.text}")
        self._manager.changed()

    def _view(self) -> View:
        session = self._facts.sessions.get(self._status.session)
        return View(self._status, session.path if session else "/", self._facts.seat)

    def _watch(self) -> None:
        if self._notifier.watchdog:
            self._notifier.send(WATCHDOG=1)
            asyncio.get_running_loop().call_later(self._notifier.watchdog, self._watch)

    def _on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the program at an exception that nobody expected: it knows nothing for sure now."""
        loop.default_exception_handler(context)
        self._error = context.get("exception")
        self._task.cancel()
