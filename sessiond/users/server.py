"""The users' agents that are connected: one a user, and the newest is the one.

Who an agent is, its connection says (SO_PEERCRED), and nothing else: the user's name is looked up
in the user database.
"""

import asyncio
import functools
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType

from sessiond.errors import NoAgentError, SessiondError
from sessiond.model import UserAgent
from sessiond.transport.accept import Acceptor
from sessiond.transport.drops import Drops
from sessiond.transport.passing import Passed
from sessiond.transport.peer import Peer, peer_of
from sessiond.transport.refusals import Refusals
from sessiond.users.connection import Answer, Connection, Limits, Notices
from sessiond.users.names import UserNames
from sessiond.wire import rpc

log = logging.getLogger(__name__)

OnChange = Callable[[UserAgent | None, UserAgent | None], None]
OnCall = Callable[[UserAgent, rpc.Call, Answer], None]
OnNotice = Callable[[UserAgent, rpc.Notice], None]


class UserAgents:
    """Owns the listening socket and the agents' connections; ``agents`` are those, by uid.

    Without a socket there is never an agent.

    ``on_change(before, after)`` is called when one came (``before`` is None), went (``after`` is
    None) or was replaced; ``on_call(agent, call, answer)`` when one asks the host, and
    ``answer(result)`` is for later, once; ``on_notice(agent, notice)`` when one tells something.
    What an agent sends is a stranger's word, whoever's it is.
    """

    def __init__(
        self,
        listener: socket.socket | None,
        on_change: OnChange,
        on_call: OnCall,
        on_notice: OnNotice,
        *,
        allow_root: bool,
        limits: Limits | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_change = on_change
        self._on_call = on_call
        self._on_notice = on_notice
        self._allow_root = allow_root
        self._limits = limits or Limits()
        self._names = UserNames()
        self._unnamed: dict[Connection, asyncio.TimerHandle] = {}
        self._served: dict[int, Connection] = {}  # by uid
        self._agents: dict[int, UserAgent] = {}
        self.agents: Mapping[int, UserAgent] = MappingProxyType(self._agents)
        self._came = Counter[int]()  # by uid, in this period
        self._period_ends = 0.0
        self._notices: dict[int, Notices] = {}  # by uid, of those who came in this period or stay
        self._refusals = Refusals("a user's agent")
        self._drops = Drops()
        self._acceptor: Acceptor | None = None
        if listener:
            self._acceptor = Acceptor(listener, self._drops, self._take, what="user's agent")
            self._acceptor.listen()

    def find(self, user: str) -> UserAgent:
        """Return the user's agent. Raises NoAgentError."""
        for agent in self._agents.values():
            if agent.name == user:
                return agent
        raise NoAgentError(user)

    def call(
        self,
        user: str,
        command: str,
        arguments: Mapping[str, object],
        passed: Passed | None = None,
    ) -> "asyncio.Future[object]":
        """Ask the user's agent; the future has the value that it answers, or a CommandError.

        The value is any that JSON has, and untrusted. Who stops waiting may cancel the future, or
        forget it. ``passed`` are descriptors that go along. Raises NoAgentError.
        """
        return self._served[self.find(user).uid].call(command, arguments, passed)

    def close(self) -> None:
        """Hang up on all and hear nobody any more; a second call does nothing.

        Nobody is told by ``on_change``; calls that wait end with an error.
        """
        if self._acceptor:
            self._acceptor.close()
        for connection, timer in self._unnamed.items():
            timer.cancel()
            connection.close()
        for uid, connection in self._served.items():
            connection.fail_calls(_gone(self._agents[uid]))
            connection.close()
        self._unnamed.clear()
        self._served.clear()
        self._agents.clear()
        self._refusals.close()

    # From its connection to its name.

    def _take(self, sock: socket.socket) -> None:
        peer = peer_of(sock)
        connection = Connection(sock, peer, self, self._limits, self._drops)
        try:
            self._check(peer)
            lookup = self._names.look_up(peer.uid)
        except SessiondError as error:
            self._refuse(connection, str(error))
            return
        self._came[peer.uid] += 1
        limit = self._limits.lookup
        reason = f"the user database does not say within {limit:g} s who uid {peer.uid} is"
        timer = self._loop.call_later(limit, self._refuse, connection, reason)
        self._unnamed[connection] = timer
        lookup.add_done_callback(functools.partial(self._on_name, connection))

    def _check(self, peer: Peer) -> None:
        """Raise SessiondError if this one is not to be served now."""
        limits = self._limits
        if peer.uid == 0 and not self._allow_root:
            raise SessiondError("root's agent is not served (users.allow_root)")
        if peer.pid <= 0:
            raise SessiondError("its process is in another PID namespace")
        if len(self._unnamed) + len(self._served) >= limits.connections:
            raise SessiondError(f"there are {limits.connections} connections already")
        if sum(it.peer.uid == peer.uid for it in self._unnamed) >= limits.unnamed:
            raise SessiondError(f"its user has {limits.unnamed} connections that wait already")
        if self._loop.time() >= self._period_ends:
            self._came.clear()
            self._notices = {uid: it for uid, it in self._notices.items() if uid in self._served}
            self._period_ends = self._loop.time() + limits.period
        if self._came[peer.uid] >= limits.often or self._came.total() >= limits.often_all:
            raise SessiondError(f"there were too many connections within {limits.period:g} s")

    def _on_name(self, connection: Connection, lookup: "asyncio.Future[str]") -> None:
        if connection not in self._unnamed:
            return  # it was refused, or all is over
        if connection.has_hung_up:
            self._forget(connection)
            connection.close()  # and must not take the place of one that is there
            return
        name = lookup.result()
        try:
            _check_process(connection.peer)
            self._check_name(connection.peer, name)
        except SessiondError as error:
            self._refuse(connection, str(error))
            return
        self._forget(connection)
        self._map(connection, name)

    def _check_name(self, peer: Peer, name: str) -> None:
        """Raise SessiondError where a name would mean two users."""
        for agent in self._agents.values():
            if agent.name == name and agent.uid != peer.uid:
                raise SessiondError(f"{name} is the name of uid {agent.uid} too, which is served")

    def _refuse(self, connection: Connection, reason: str) -> None:
        self._forget(connection)
        self._refusals.add(connection.peer.uid, connection.peer.pid, reason)
        connection.close(reason)

    def _forget(self, connection: Connection) -> None:
        if timer := self._unnamed.pop(connection, None):
            timer.cancel()

    # Served ones.

    def _map(self, connection: Connection, name: str) -> None:
        peer = connection.peer
        agent = UserAgent(peer.uid, name, peer.pid, time.time())
        before, old = self._agents.get(peer.uid), self._served.get(peer.uid)
        self._agents[peer.uid], self._served[peer.uid] = agent, connection
        if peer.uid not in self._notices:
            self._notices[peer.uid] = Notices(name, self._limits)
        connection.serve(agent, self._notices[peer.uid])
        if before and old:
            old.fail_calls("agent replaced")
            old.close(f"agent replaced: pid {peer.pid} has taken over")
            log.info("the agent of %s: pid %d has replaced pid %d", name, peer.pid, before.pid)
        else:
            log.info("the agent of %s has connected: uid %d, pid %d", name, peer.uid, peer.pid)
        self._on_change(before, agent)

    def on_call(self, connection: Connection, call: rpc.Call, answer: Answer) -> None:
        """Pass on what an agent asks the host."""
        self._on_call(connection.agent, call, answer)

    def on_notice(self, connection: Connection, notice: rpc.Notice) -> None:
        """Pass on what an agent tells."""
        self._on_notice(connection.agent, notice)

    def on_end(self, connection: Connection, fault: str) -> None:
        """Let an agent go that has hung up, or that broke a rule."""
        agent = connection.agent
        del self._agents[agent.uid], self._served[agent.uid]
        connection.fail_calls(_gone(agent))
        connection.close(fault)
        if fault:
            log.warning("the agent of %s, pid %d, is let go: %s", agent.name, agent.pid, fault)
        else:
            log.info("the agent of %s has gone: pid %d", agent.name, agent.pid)
        self._on_change(agent, None)


def _gone(agent: UserAgent) -> str:
    return f"agent of user '{agent.name}' has gone"


def _check_process(peer: Peer) -> None:
    """Raise SessiondError if the pid is not one of the user's: its number may be another's now.

    The uid is the connection's all the same, so a number that went to the same user does no harm.
    The folder itself belongs to who the process is, even where what is in it does not (proc(5)).
    """
    try:
        owner = os.stat(f"/proc/{peer.pid}").st_uid
    except OSError:
        raise SessiondError("its process has ended") from None
    if owner != peer.uid:
        raise SessiondError(f"its process belongs to uid {owner} now")
