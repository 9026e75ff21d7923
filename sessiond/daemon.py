"""The composition root of the daemon: makes the parts and joins them by plain calls and facts."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

from sessiond.bus.access import Access
from sessiond.bus.command import Commands
from sessiond.bus.contract import find_contract
from sessiond.bus.manager import Manager
from sessiond.bus.paths import ROOT, session_path, user_path
from sessiond.bus.session import SessionObject
from sessiond.bus.user_agent import UserAgentObject
from sessiond.config import Config
from sessiond.control import Parts as ControlParts
from sessiond.control import SeatControl
from sessiond.displays.candidates import candidates, session_pids, signs
from sessiond.displays.cards import Cards
from sessiond.errors import RequestError, SessiondError
from sessiond.helper.keep import restore_connections
from sessiond.helper.listener import SocketTakenError, take_listener
from sessiond.helper.origin import Origin
from sessiond.helper.records import Told
from sessiond.helper.server import HelperServer
from sessiond.logind.client import LogindClient
from sessiond.model import KMS, NOBODY, Decision, SeatFacts, Session, Status, UserAgent
from sessiond.notify import Notifier
from sessiond.scope import move_to_scope
from sessiond.stream.agent import AgentStart
from sessiond.stream.keep import describe, restore
from sessiond.stream.kms import KmsHelper, open_helper
from sessiond.stream.launch import Identity, drop_privileges, environment, identify
from sessiond.stream.parts import Parts, Settings
from sessiond.stream.reconcile import PLACEHOLDER
from sessiond.stream.supervisor import Supervisor
from sessiond.stream.ways import Signs
from sessiond.transport.aside import run_aside
from sessiond.transport.bus import Bus
from sessiond.transport.edge import EdgePoller
from sessiond.transport.keep import HELPER_RECORDS, PAUSES, STREAM_PORT, STREAM_STATE
from sessiond.transport.names import NameWatch
from sessiond.transport.objects import ObjectServer
from sessiond.transport.vtfile import VtFile
from sessiond.users import policy
from sessiond.userside import UserSide
from sessiond.wire.helper import Record
from sessiond.wire.link import Candidate
from sessiond.wire.link import Config as AgentConfig

log = logging.getLogger(__name__)

FACTS_WITHIN: Final = 5.0  # seconds that logind has, before we are ready without its answer

_NOBODY: Final = Identity(NOBODY, NOBODY, (), "nobody", "/")


class Daemon:
    """Runs until SIGTERM or SIGINT, or until the bus is lost; SIGHUP is Reload.

    A lost bus ends the daemon with an error: systemd restarts it, and what it knows is read
    anew. The port stays with systemd's descriptor store where there is one.
    """

    def __init__(self, config: Config, load: Callable[[], Config]) -> None:
        """``load`` reads the configuration again. Raises UsageError."""
        self._config = config
        self._load = load
        self._notifier = Notifier()
        self._error: BaseException | None = None
        self._helpers: HelperServer | None = None
        self._has_facts = asyncio.Event()
        self._calls = set[asyncio.Task[None]]()  # that wait for polkit or logind

    async def run(self) -> None:
        """Serve. Raises BusError when the bus cannot be reached, has our name taken, or is lost."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_bug)
        poller = EdgePoller()
        try:
            with await Bus.connect(self._config.text("bus.address"), takes_fds=True) as bus:
                async with asyncio.TaskGroup() as tasks:
                    self._tasks = tasks
                    self._task = tasks.create_task(self._serve(bus, poller), name="serve")
                    for number in (signal.SIGTERM, signal.SIGINT):
                        loop.add_signal_handler(number, self._end)
        finally:
            poller.close()
        if self._error:
            raise self._error

    def _end(self) -> None:
        """End once: a second cancellation would break the first one's clean-up."""
        if not self._task.cancelling():
            self._task.cancel()

    async def _serve(self, bus: Bus, poller: EdgePoller) -> NoReturn:
        config = self._config
        self._stored = stored = self._notifier.take_stored()
        await bus.check_free(config.text("bus.name"))
        self._make_parts(bus, poller)
        # Every user can take an abstract name: whoever does shall not stop the stream by it.
        self._listener = self._take_listener(borne=SocketTakenError)
        displays, on_new = config.text("displays.sockets"), self._supervisor.on_new_display
        new_displays = NameWatch(displays, poller, on_new, is_folder=True)
        try:
            self._supervisor.start(restore(stored, config.text("stream.port")))
            self._control.restore(stored)
            self._notifier.drop_stored([STREAM_PORT, STREAM_STATE, HELPER_RECORDS, PAUSES])
            self._logind.start()
            # Who has us started by asking for our name is answered by one who knows something, or,
            # where logind says nothing, that.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._has_facts.wait(), FACTS_WITHIN)
            self._users.start()
            await bus.request_name(config.text("bus.name"))
            log.info("on the bus as %s", config.text("bus.name"))
            self._notifier.send(READY=1, STATUS=self._control.status.text)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hangup)
            self._watch()
            await bus.wait_closed()
            raise AssertionError("the bus was closed by nobody")
        finally:
            self._notifier.send(STOPPING=1)
            for call in self._calls:
                call.cancel()
            self._stop_helpers()
            self._notifier.store(self._control.hand_over())
            self._control.close()
            self._logind.close()
            self._vt.close()
            self._cards.close()
            new_displays.close()
            self._users.close()
            kept = await self._supervisor.close()
            if kept:
                self._notifier.store(describe(kept))

    def _make_parts(self, bus: Bus, poller: EdgePoller) -> None:
        config = self._config
        self._control = control = SeatControl(config)
        self._vt = VtFile(config.text("vt.active"), poller, control.on_vt)
        self._cards = Cards(config.text("capture.cards"), poller, control.on_cards)
        self._logind = LogindClient(bus, config.text("seat"), self._on_facts)
        self._supervisor = Supervisor(
            Parts(
                port_path=config.text("stream.port"),
                prepare=self._prepare,
                placeholder=self._placeholder,
                look=self._look,
                reread=self._logind.reread,
                on_status=control.on_status,
                on_agent=lambda key, pid: self._on_agent(bus, key, pid),
                on_agent_end=self._on_agent_end,
                on_proven=control.on_proven,
                on_ended=control.on_ended,
            ),
            _settings(config),
            poller,
        )
        control.attach(
            ControlParts(
                show=self._show,
                configure=self._configure,
                load=self._read,
                activate=self._logind.activate,
                switch_to=self._logind.switch_to,
                session_of=self._logind.session_of,
                restart_agent=self._supervisor.restart_agent,
                counters=self._supervisor.counters,
                on_change=self._on_change,
                on_news=self._on_news,
                on_record=self._supervisor.on_record,
                vt=lambda: self._vt.number,
                has_card=lambda: self._cards.are_there,
                spawn=self._spawn,
            ),
        )
        self._access = Access(bus)
        self._objects = ObjectServer(bus, ROOT, find_contract(), self._spawn)
        self._users = UserSide(
            config,
            self._stored,
            poller,
            control,
            on_agent=self._on_user_agent,
            spawn=self._spawn,
        )
        commands = Commands(bus, self._objects, self._users, self._access)
        self._objects.add(ROOT, Manager(control, self._users, self._access, commands))

    def _on_facts(self, facts: SeatFacts) -> None:
        self._control.on_facts(facts)
        self._has_facts.set()
        self._hear_helpers()

    def _take_listener(self, borne: type[SessiondError]) -> socket.socket | None:
        """Return the helpers' socket; where an error is ``borne``, say it, and go on without."""
        try:
            return take_listener(self._config.text("helper.socket"), self._stored)
        except borne as error:
            log.error("helpers are not heard: %s", error)  # noqa: TRY400 (one line)
            return None

    def _hear_helpers(self) -> None:
        """Begin to, once facts have come: before, nobody could say whose VT is whose."""
        if self._helpers or not self._listener or not self._has_facts.is_set():
            return
        self._helpers = HelperServer(
            self._listener,
            self._on_record,
            needs_xauthority=self._config.flag("helper.needs_xauthority"),
            allow_root=self._config.flag("helper.allow_root"),
        )
        rest = list(self._stored)  # theirs, or what another version of us has left
        self._helpers.adopt(restore_connections(self._stored))
        self._notifier.drop_stored(rest)
        self._stored.clear()

    def _on_record(self, record: Record, origin: Origin) -> str | None:
        told = Told(record.display, record.xauthority, origin.uid, origin.gid, origin.vt,
                    origin.leader, origin.leader_start)  # fmt: skip
        helpers = self._helpers
        assert helpers  # noqa: S101 (who calls us)

        def settle(refusal: str) -> None:
            if refusal:
                helpers.refuse(origin, refusal)
            else:
                helpers.acknowledge(origin)

        return self._control.on_record(told, origin.pid, settle)

    def _stop_helpers(self) -> None:
        if self._helpers:
            slowly = self._notifier.may_close_slowly
            kept = self._helpers.hand_over(may_close_slowly=slowly)
            self._notifier.store(kept, even_hung_up=True)
        elif self._listener:
            self._listener.close()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> object:
        task = self._tasks.create_task(coroutine, name="call")
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        return task

    def _show(self, decision: Decision, facts: SeatFacts) -> None:
        is_gap = facts.active not in facts.sessions
        self._supervisor.on_decision(decision, facts.sessions, is_gap=is_gap)

    def _read(self) -> Config:
        """Read the configuration and the policy again, and follow the latter. Raises UsageError."""
        config = self._load()
        self._users.follow(policy.read(config.text("exec.policy")))
        return config

    def _configure(self, config: Config) -> None:
        self._config = config
        self._supervisor.configure(_settings(config))
        self._listener = self._listener or self._take_listener(borne=SessiondError)
        self._hear_helpers()

    def _on_change(self, before: SeatFacts) -> None:
        """Let the objects on the bus be those of now."""
        control, objects = self._control, self._objects
        sessions = control.facts.sessions
        for gone in before.sessions.keys() - sessions.keys():
            objects.remove(session_path(gone))
        for new in sessions.keys() - before.sessions.keys():
            log.debug("session %s of %s has come", new, sessions[new].user)
            served = SessionObject(sessions[new], control, self._access)
            objects.add(session_path(new), served)
        for path in (ROOT, *map(session_path, sessions)):
            objects.changed(path)
        self._users.on_seat(before)
        if before.active != control.facts.active:
            pair = [[it, session_path(it)] for it in (before.active, control.facts.active)]
            objects.emit(ROOT, "SessionSwitched", *pair)

    def _on_news(self, status: Status) -> None:
        session = self._control.facts.sessions.get(status.session)
        fields = {
            "SESSION": status.session,
            "SESSION_USER": session.user if session else "",
            "AGENT_PID": status.agent_pid,
            "REASON": str(status.reason),
        }
        log.info("%s (%s): %s", status.state, status.reason, status.text, extra=fields)
        self._notifier.send(STATUS=f"{status.state}: {status.text}")
        self._users.on_news(status)

    def _on_user_agent(self, before: UserAgent | None, after: UserAgent | None) -> None:
        if before:
            self._objects.remove(user_path(before.uid))
        if after:
            self._objects.add(user_path(after.uid), UserAgentObject(after))

    def _on_agent(self, bus: Bus, key: str, pid: int) -> None:
        move_to_scope(bus, key, pid)
        if key != PLACEHOLDER:
            self._objects.emit(ROOT, "AgentStarted", key, pid)

    def _on_agent_end(self, key: str, pid: int, status: int, reason: str) -> None:
        if key != PLACEHOLDER:
            self._objects.emit(ROOT, "AgentExited", key, pid, status, reason)

    def _on_hangup(self) -> None:
        try:
            self._control.reload()
        except RequestError as error:
            log.error("the configuration was not reloaded: %s", error)  # noqa: TRY400 (one line)

    def _prepare(
        self, session: Session, backends: tuple[str, ...], ready: Callable[[AgentStart], None]
    ) -> None:
        if backends == (KMS,):
            self._prepare_kms(session, ready)
        else:
            self._prepare_users(session, backends, ready)

    def _prepare_users(
        self, session: Session, backends: tuple[str, ...], ready: Callable[[AgentStart], None]
    ) -> None:
        """Look up the account and the displays in a thread: both may take their time."""
        told = self._control.record_of(session.id)
        first = (Candidate("helper", told.display, told.xauthority),) if told else ()

        def look_up() -> AgentStart | None:
            pids = session_pids(session)
            there = signs(session, pids)  # first: what comes from now on may not be found
            is_console = session.type == "tty" and not told
            if is_console and not there:
                return None  # most consoles: not worth a process
            identity = identify(session.uid, session.gid, session.user)
            config = AgentConfig(
                session=session.id,
                uid=session.uid,
                vt=session.vt,
                seat=session.seat,
                candidates=(*first, *candidates(session)),
                pids=pids,
                codec_options=self._config.texts("stream.codec_options"),
                codecs=self._config.texts("stream.codec"),
                needs_proof=is_console,
                capture=backends,
            )
            command = [*drop_privileges(identity), *self._config.texts("stream.agent"), "stream"]
            env = environment(identity)
            return AgentStart(session.id, command, env, config, there=there)

        def done(future: "asyncio.Future[AgentStart | None]") -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error:
                log.error("session %s: the look-up failed: %r", session.id, error)
                self._supervisor.on_unprepared(session.id, str(error))
            elif start := future.result():
                ready(start)
            else:
                text = "Neither an X server nor a Wayland compositor runs in the session."
                self._supervisor.on_no_display(session.id, text)

        run_aside(look_up).add_done_callback(done)

    def _prepare_kms(self, session: Session, ready: Callable[[AgentStart], None]) -> None:
        """Have a helper read the card for an agent of nobody's."""

        def on_open(helper: KmsHelper) -> None:
            agent = self._config.texts("stream.agent")
            command = [*drop_privileges(_NOBODY), *agent, "stream", "--capture", KMS]
            config = AgentConfig(
                session=session.id,
                uid=NOBODY,
                vt=session.vt,
                seat=session.seat,
                codec_options=self._config.texts("stream.codec_options"),
                codecs=self._config.texts("stream.codec"),
                capture=(KMS,),
            )
            ready(AgentStart(session.id, command, environment(_NOBODY), config, helper))

        def on_failed(why: str) -> None:
            self._supervisor.on_no_helper(session.id, why)

        open_helper(self._config.text("capture.kms_socket"), session.vt, on_open, on_failed)

    def _look(self, session: Session, seen: Callable[[Signs], None]) -> None:
        """See in a thread what there is for the agent of the session's user."""

        def done(future: "asyncio.Future[Signs]") -> None:
            if not future.cancelled():
                seen(frozenset() if future.exception() else future.result())

        run_aside(lambda: signs(session, session_pids(session))).add_done_callback(done)

    def _placeholder(self, text: str) -> AgentStart:
        agent = self._config.texts("stream.agent")
        command = [*drop_privileges(_NOBODY), *agent, "placeholder", f"--text={text}"]
        # One picture: MJPEG is sharp, and every client decodes it.
        config = AgentConfig(PLACEHOLDER, NOBODY, codecs=("mjpeg",))
        return AgentStart(PLACEHOLDER, command, environment(_NOBODY), config)

    def _watch(self) -> None:
        if self._notifier.watchdog:
            self._notifier.send(WATCHDOG=1)
            asyncio.get_running_loop().call_later(self._notifier.watchdog, self._watch)

    def _on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the program at an exception that nobody expected: it knows nothing for sure now."""
        loop.default_exception_handler(context)
        self._error = context.get("exception")
        self._end()


def _settings(config: Config) -> Settings:
    return Settings(
        grace=config.seconds("stream.grace"),
        when_idle=config.text("stream.when_idle"),
        keep_warm=config.whole("agent.keep_warm"),
    )
