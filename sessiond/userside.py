"""The users' side of the daemon: their agents, the host channel, and what the host hears of both.

Joins the parts of ``sessiond.users`` with one another and, by ``Control``, with the seat. It knows
neither the stream port nor the bus's objects, and works without a port and without logind.
"""

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sessiond.bus.control import (
    DENIED,
    NO_SUCH_COMMAND,
    NO_SUCH_DISPLAY,
    NO_SUCH_SESSION,
    NO_USER_AGENT,
    NOT_CONNECTED,
    NOT_DONE,
    NOT_EXECUTABLE,
    Control,
    Run,
)
from sessiond.config import Config
from sessiond.errors import (
    CommandError,
    NoAgentError,
    NoDisplayError,
    NoSessionError,
    NotConnectedError,
    RefusedError,
    RequestError,
    SessiondError,
    StartError,
    UsageError,
)
from sessiond.model import (
    Order,
    Screen,
    SeatFacts,
    Status,
    TerminalSize,
    UserAgent,
    UserDisplay,
)
from sessiond.transport.edge import EdgePoller
from sessiond.transport.fds import OwnedFd
from sessiond.transport.objects import Spawn
from sessiond.transport.passing import Passed
from sessiond.transport.resizes import WindowSize, listener_command
from sessiond.transport.vchan import Vchan
from sessiond.users import policy
from sessiond.users.audit import Audit
from sessiond.users.commands import Commands, Seat
from sessiond.users.connection import COMMAND_EXITED, TERMINAL_RESIZED, Answer
from sessiond.users.displays import Displays, merge
from sessiond.users.host import HostChannel
from sessiond.users.listener import take_listener
from sessiond.users.local import Ask, LocalRuns
from sessiond.users.policy import Origin, Policy, Question, Verdict
from sessiond.users.qrexec import NO_DOMAIN, Qrexec
from sessiond.users.runs import Runs
from sessiond.users.server import OnChange, UserAgents
from sessiond.users.terminals import Terminals
from sessiond.wire import rpc
from sessiond.wire.arguments import Argument, Kind, check

log = logging.getLogger(__name__)

OFF: Final = "off"  # of the key host_channel
DISPLAYS_CHANGED: Final = "DISPLAYS_CHANGED"  # what an agent tells us
_NO_CHANNEL: Final = CommandError("there is no host channel: it is off")
_ERRORS: Final = {
    NoAgentError: NO_USER_AGENT,
    NoSessionError: NO_SUCH_SESSION,
    RefusedError: DENIED,
    NoDisplayError: NO_SUCH_DISPLAY,
    NotConnectedError: NOT_CONNECTED,
}
_NOT_STARTED: Final = {126: NOT_EXECUTABLE, 127: NO_SUCH_COMMAND}  # by StartError's exit code

_LONGEST_PATH: Final = 4095  # PATH_MAX without its end, linux/limits.h
_SIZE: Final = ("columns", "rows", "x-pixels", "y-pixels")
_RESIZED: Final = {
    "terminal": Argument(Kind.STR),
    **{name: Argument(Kind.INT) for name in _SIZE},
}

_Owned = frozenset[tuple[str, str]]
"""A user's displays with the ids of their sessions."""


class UserSide:
    """Agents are heard from the beginning, the host from ``start`` on.

    ``on_agent(before, after)`` is called when an agent came, went or was replaced, as by
    ``UserAgents``. ``inherited`` is what systemd handed over; what is taken of it is closed there.
    Where the agents' socket or the host channel cannot be had, that is logged: the stream needs
    neither.
    """

    def __init__(
        self,
        config: Config,
        inherited: Mapping[str, OwnedFd],
        poller: EdgePoller,
        seat: Control,
        *,
        on_agent: OnChange,
        spawn: Spawn,
    ) -> None:
        self._seat = seat
        self._on_agent = on_agent
        self._users = users = UserAgents(
            _listener(config.text("users.socket"), inherited),
            self._on_change,
            self._on_call,
            self._on_notice,
            allow_root=config.flag("users.allow_root"),
        )
        self._displays = Displays(
            users, lambda: seat.facts, lambda: seat.status.displays, seat.activate
        )
        self._policy = _first_policy(config)
        self._audit = Audit()
        self._runs = Runs(users, self._audit)
        self._local = LocalRuns(
            self._runs,
            users,
            policy=lambda: self._policy,
            facts=lambda: seat.facts,
            opened=lambda: seat.status.displays,
        )
        asked = Seat(
            facts=lambda: seat.facts,
            status=lambda: seat.status,
            history=seat.history,
            activate=seat.activate,
            displays=self._displays,
            agents=users,
        )
        self._host: HostChannel | None = None
        if (place := config.text("host_channel")) != OFF:
            self._host = HostChannel(
                place, poller, users, Commands(asked), spawn, may_run=self._may_run
            )
        self._qrexec: Qrexec | None = None
        if (domain := config.whole("qrexec.domain")) != NO_DOMAIN:
            # The host's programs run as root, and no user's program is to be taken for one of them.
            folder = Path(config.text("qrexec.socket_dir"))
            vchan = Vchan(domain, folder, peers={0, os.geteuid()})
            callers = config.text("qrexec.calls")
            self._qrexec = Qrexec(
                vchan, callers, self._runs, self._audit, decide=self._decide, spawn=spawn
            )
        watched = config.texts("terminals.watch")
        self._terminals = Terminals(watched, listener_command, poller, spawn, self._on_resize)
        self._owned: dict[int, _Owned] = {}  # by uid, of users with an agent

    def start(self) -> None:
        """Hear the host."""
        if self._host:
            try:
                self._host.start()
            except SessiondError as error:
                log.error("the host is not heard: %s", error)  # noqa: TRY400 (one line)
        if self._qrexec:
            self._qrexec.start()
        self._terminals.start()

    def close(self) -> None:
        """Hang up on the host and on the agents."""
        if self._host:
            self._host.close()
        if self._qrexec:
            self._qrexec.close()
        self._runs.close()
        self._users.close()
        self._audit.close()

    def follow(self, rules: Policy) -> None:
        """Decide by these rules from now on who may run what."""
        self._policy = rules

    # What the bus asks.

    @property
    def agents(self) -> Mapping[int, UserAgent]:
        """Those that are connected, by uid."""
        return self._users.agents

    def find(self, user: str) -> UserAgent:
        """Return the agent of a user of that name."""
        with _for_the_bus():
            return self._users.find(user)

    async def displays(self, user: str) -> Sequence[UserDisplay]:
        """Return the user's displays."""
        with _for_the_bus():
            return await self._displays.query(user)

    async def screens(self, user: str, display: str) -> Sequence[Screen]:
        """Return the screens of a display that the agent is connected to."""
        with _for_the_bus():
            return await self._displays.screens(user, display)

    async def connect(self, user: str, display: str, *, show: bool) -> str:
        """Let the agent connect to a display; return the session that it belongs to."""
        with _for_the_bus():
            return await self._displays.connect(user, display, show=show)

    async def run(self, order: Order, passed: Passed, ask: Ask) -> Run:
        """Have a command run for a local caller."""
        with _for_the_bus():
            return await self._local.run(order, passed, ask)

    async def kill(self, run: Run, number: int) -> None:
        """Send a signal to what runs."""
        with _for_the_bus():
            await self._runs.signal(run.id, number)

    async def resize(self, run: Run, size: TerminalSize) -> None:
        """Set the size of the terminal of what runs."""
        with _for_the_bus():
            await self._runs.resize(run.id, size)

    def _may_run(self, user: str) -> bool:
        """Return whether the host may run commands as a user."""
        return self._decide(Question(Origin.HOST, user)) is Verdict.ALLOW

    def _decide(self, question: Question) -> Verdict:
        return self._policy.decide(question)

    # What the host hears.

    def on_seat(self, before: SeatFacts) -> None:
        """Take that facts or the stream are others than before."""
        facts = self._seat.facts
        if facts.active != before.active:
            self._tell("SESSION_SWITCHED", {"from": before.active, "to": facts.active})
        for uid, agent in self.agents.items():
            now = self._owned_by(uid)
            if self._owned[uid] != now:
                self._owned[uid] = now
                self._tell_displays(agent)

    def on_news(self, status: Status) -> None:
        """Take that the stream's state or its reason is another."""
        data = {
            "state": status.state.value,
            "reason": status.reason.value,
            "text": status.text,
            "session": status.session,
        }
        self._tell("STREAM_STATE", data)

    def _on_change(self, before: UserAgent | None, after: UserAgent | None) -> None:
        if before:
            self._runs.on_gone(before)
            del self._owned[before.uid]
            self._tell("USER_DISCONNECTED", _described(before), before.name)
        if after:
            self._owned[after.uid] = self._owned_by(after.uid)
            self._tell("USER_CONNECTED", _described(after), after.name)
        self._on_agent(before, after)

    def _on_call(self, agent: UserAgent, call: rpc.Call, answer: Answer) -> None:
        if self._host:
            self._host.ask(agent, call, answer)
        else:
            answer(rpc.Result(call.id, error=_NO_CHANNEL))

    def _on_notice(self, agent: UserAgent, notice: rpc.Notice) -> None:
        if notice.event == DISPLAYS_CHANGED:
            self._tell_displays(agent)
        elif notice.event == COMMAND_EXITED:
            self._runs.on_exited(agent, notice.data)
        elif notice.event == TERMINAL_RESIZED:
            self._on_agents_resize(agent, notice.data)
        else:
            log.debug("the agent of %s tells what nobody knows", agent.name)

    def _on_resize(self, path: str, size: WindowSize, user: str | None = None) -> None:
        self._tell(TERMINAL_RESIZED, {"terminal": path, **size.described()}, user)

    def _on_agents_resize(self, agent: UserAgent, untrusted_data: Mapping[str, Any]) -> None:
        try:
            data = check(untrusted_data, _RESIZED)
            size = WindowSize.of(*(data[name] for name in _SIZE))
        except (CommandError, ValueError) as error:
            log.debug("the agent of %s tells nonsense: %s", agent.name, error)
            return
        if len(data["terminal"]) > _LONGEST_PATH:
            log.debug("the agent of %s tells of a path that there cannot be", agent.name)
            return
        self._on_resize(data["terminal"], size, agent.name)

    def _owned_by(self, uid: int) -> _Owned:
        displays = merge(uid, self._seat.facts, self._seat.status.displays, ())
        return frozenset((it.name, it.session) for it in displays)

    def _tell_displays(self, agent: UserAgent) -> None:
        data = {"user": agent.name, "uid": agent.uid}
        self._tell("DISPLAYS_CHANGED", data, agent.name)

    def _tell(self, event: str, data: Mapping[str, Any], user: str | None = None) -> None:
        if self._host:
            self._host.tell(f"VIRTAGENT_{event}", data, user)


def _listener(path: str, inherited: Mapping[str, OwnedFd]) -> socket.socket | None:
    try:
        return take_listener(path, inherited)
    except SessiondError as error:
        log.error("users' agents are not heard: %s", error)  # noqa: TRY400 (one line)
        return None


def _first_policy(config: Config) -> Policy:
    try:
        return policy.read(config.text("exec.policy"))
    except UsageError as error:
        log.error("nobody may run anything: %s", error)  # noqa: TRY400 (one line)
        return policy.NOTHING


def _described(agent: UserAgent) -> dict[str, object]:
    return {"user": agent.name, "uid": agent.uid, "pid": agent.pid}


@contextmanager
def _for_the_bus() -> Iterator[None]:
    """Give what is not done a name of the bus's; the text stays."""
    try:
        yield
    except CommandError as error:
        raise RequestError(_ERRORS.get(type(error), NOT_DONE), str(error)) from None
    except StartError as error:
        name = _NOT_STARTED.get(error.exit_code, NOT_DONE)
        raise RequestError(name, str(error)) from None
