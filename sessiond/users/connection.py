"""One agent's connection: calls both ways, and what an agent may cost us.

Every user may connect, so all that comes is a stranger's word: it is bounded in length and number,
and breaking a rule ends the connection. Who the agent is, no line says (``server``).
"""

import asyncio
import functools
import logging
import select
import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from sessiond.errors import CommandError, NoAnswerError, ProtocolError
from sessiond.model import UserAgent
from sessiond.transport.drops import Drops, read_nowait
from sessiond.transport.passing import Outgoing, Passed
from sessiond.transport.peer import Peer
from sessiond.users.budget import Budget
from sessiond.wire import rpc

log = logging.getLogger(__name__)

# Then the rest of the loop gets its turn: of the shortest lines that is 1000, and 10 ms.
READ_SIZE: Final = 16 << 10
WRITE_SIZE: Final = 256 << 10  # more than a Unix socket takes at once
MAX_TEXT: Final = 4096  # characters of an error's text

COMMAND_EXITED: Final = "COMMAND_EXITED"
"""The one notice that is heard always: it is about what we have asked for, or dropped unheard."""

TERMINAL_RESIZED: Final = "TERMINAL_RESIZED"
"""The one that an agent may have to give more often than the others."""

# To parse 12 MiB and to pass them on takes 0.15 s, for which nothing else is done.
LONG_ANSWERS: Final = frozenset({"guest-exec-status"})

# The set is closed (QEMU, qapi/error.json): another word is no class.
_CLASSES: Final = frozenset({
    "GenericError", "CommandNotFound", "DeviceNotActive", "DeviceNotFound", "KVMMissingCap",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """What agents may cost; times are in seconds, sizes in bytes."""

    connections: int = 64  # each costs a descriptor
    unnamed: int = 4  # of those, of one user while the name is looked up
    lookup: float = 10.0  # for the user database
    often: int = 20  # connections of one user in a period: each one is told to the host
    often_all: int = 200  # of all users
    period: float = 10.0
    answer: float = 30.0  # for an agent
    calls: int = 64  # that one agent has to answer
    requests: int = 8  # of one agent that the host has to answer
    notices: int = 20  # of one user's agents in a period
    resizes: int = 700  # likewise: of 16 terminals, four in a second (transport.resizes)
    unsent: int = 16 << 20  # that one agent has not read
    unasked: int = 1 << 20  # a line that is no answer, or no long one
    values: int = 1 << 14  # of JSON in one line: to parse them takes 15 ms


Answer = Callable[[rpc.Result], None]


class Notices:
    """What a user's agents may tell, one after the other: a newer one has what is left."""

    def __init__(self, user: str, limits: Limits) -> None:
        tell = functools.partial(_tell_suppressed, user)
        self._resizes = Budget(limits.resizes, limits.period, tell)
        self._others = Budget(limits.notices, limits.period, tell)

    def take(self, event: str) -> bool:
        """Return whether a notice is heard, by those before it."""
        if event == COMMAND_EXITED:
            return True
        return (self._resizes if event == TERMINAL_RESIZED else self._others).take()

    def close(self) -> None:
        """Say what there is left to say."""
        self._resizes.close()
        self._others.close()


class Handler(Protocol):
    """Who hears of a connection that is served."""

    def on_call(self, connection: "Connection", call: rpc.Call, answer: Answer) -> None:
        """The agent asks the host; ``answer`` may come at any time, or never."""

    def on_notice(self, connection: "Connection", notice: rpc.Notice) -> None:
        """Something has happened at the agent."""

    def on_end(self, connection: "Connection", fault: str) -> None:
        """It has hung up, or, with a ``fault``, is to be let go; the last call."""


@dataclass(frozen=True, slots=True)
class _Pending:
    future: "asyncio.Future[object]"
    timer: asyncio.TimerHandle


class Connection:
    """Owns an accepted socket. Nothing is read of it before ``serve``, nor after its end."""

    def __init__(
        self, sock: socket.socket, peer: Peer, handler: Handler, limits: Limits, drops: Drops
    ) -> None:
        self.peer = peer
        self.agent: UserAgent
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._handler = handler
        self._limits = limits
        self._drops = drops
        self._reader = rpc.LineReader(max_values=limits.values)
        self._unsent = Outgoing()
        self._is_writing = False  # when it can be written to, that is
        self._is_deaf = False  # it takes nothing any more
        self._is_closed = False
        self._calls: dict[int, _Pending] = {}  # by id
        self._last_id = 0
        # Long answers by id, those that come too late to be waited for among them.
        self._owed = deque[int](maxlen=limits.calls)
        self._requests = 0
        self._notices: Notices | None = None

    @property
    def has_hung_up(self) -> bool:
        """Whether nothing more can come of the peer than what has."""
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    def serve(self, agent: UserAgent, notices: Notices) -> None:
        """Hear the peer, which is this agent, from now on."""
        self.agent = agent
        self._notices = notices
        self._loop.add_reader(self._sock, self._on_readable)

    def call(
        self, command: str, arguments: Mapping[str, object], passed: Passed | None = None
    ) -> "asyncio.Future[object]":
        """Ask the agent; the future has the value that it answers, or a CommandError.

        ``passed`` are descriptors that go with it, and are closed when they are sent, or not.
        """
        future: asyncio.Future[object] = self._loop.create_future()
        if len(self._calls) >= self._limits.calls:
            text = (
                f"{len(self._calls)} calls wait for the agent of user '{self.agent.name}' already"
            )
            if passed:
                passed.close()
            _fail(future, CommandError(text))
            return future
        self._last_id = number = self._last_id + 1
        timer = self._loop.call_later(self._limits.answer, self._give_up, number)
        self._calls[number] = _Pending(future, timer)
        if command in LONG_ANSWERS:
            self._owed.append(number)
        self._send(rpc.Call(command, arguments, number, len(passed.fds) if passed else 0), passed)
        return future

    def fail_calls(self, text: str) -> None:
        """Let every call that waits end with this error."""
        pending, self._calls = self._calls, {}
        for it in pending.values():
            it.timer.cancel()
            _fail(it.future, NoAnswerError(text))

    def close(self, farewell: str = "") -> None:
        """Hang up, with a last word if there is one; a second call does nothing.

        Answers of the host that come later are dropped.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._sock)
        if farewell:
            self._unsent.add(rpc.encode(rpc.Farewell(farewell)))
            self._write()  # who does not read does not hear it
        self._loop.remove_writer(self._sock)
        self._unsent.clear()
        if self._notices:
            self._notices.close()
        self._drops.close(self._sock)

    # What comes.

    def _on_readable(self) -> None:
        fault = ""
        try:
            data = read_nowait(self._sock, READ_SIZE)
            if data:
                self._feed(data)
                return
        except BlockingIOError:
            return
        except ProtocolError as error:
            fault = str(error)
        except OSError as error:
            log.debug("the connection of pid %d failed: %s", self.peer.pid, error.strerror)
        self._end(fault)

    def _feed(self, data: bytes) -> None:
        """Take what it says. Raises ProtocolError."""
        self._reader.limit = rpc.MAX_LINE if self._owed else self._limits.unasked
        for message in self._reader.feed(data):
            self._handle(message)
            if self._is_closed:
                return

    def _handle(self, message: rpc.Message) -> None:
        log.debug("from pid %d: %s", self.peer.pid, type(message).__name__)
        is_owed = isinstance(message, rpc.Result) and message.id in self._owed
        if self._reader.length > self._limits.unasked and not is_owed:
            raise ProtocolError(
                f"a line that nobody asked for is over {self._limits.unasked} bytes"
            )
        match message:
            case rpc.Result():
                self._settle(message)
            case rpc.Call():
                self._ask(message)
            case rpc.Notice():
                if self._notices and self._notices.take(message.event):
                    self._handler.on_notice(self, message)
            case rpc.Farewell():
                raise ProtocolError("an error has no id")

    def _settle(self, result: rpc.Result) -> None:
        if result.id in self._owed:
            self._owed.remove(result.id)
        pending = self._calls.pop(result.id, None)
        if not pending:
            log.debug("pid %d answers what nobody waits for", self.peer.pid)
            return
        pending.timer.cancel()
        if result.error:
            _fail(pending.future, _bounded(result.error))
        elif not pending.future.done():
            pending.future.set_result(result.value)

    def _not_passed(self, number: int, error: OSError) -> None:
        log.warning("the agent of %s: descriptors are not passed: %s", self.agent.name, error)
        if pending := self._calls.pop(number, None):
            pending.timer.cancel()
            _fail(pending.future, CommandError(f"descriptors cannot be passed: {error.strerror}"))

    def _give_up(self, number: int) -> None:
        limit = self._limits.answer
        text = f"agent of user '{self.agent.name}' did not answer within {limit:g} s"
        _fail(self._calls.pop(number).future, NoAnswerError(text))

    def _ask(self, call: rpc.Call) -> None:
        if self._requests >= self._limits.requests:
            error = CommandError(f"{self._requests} requests wait for the host already")
            self._send(rpc.Result(call.id, error=error))
            return
        self._requests += 1
        waits = [call.id]

        def answer(result: rpc.Result) -> None:
            if waits:  # only the first answer counts
                self._requests -= 1
                self._send(rpc.Result(waits.pop(), result.value, result.error))

        self._handler.on_call(self, call, answer)

    # What goes: every byte by ``_write``.

    def _send(self, message: rpc.Message, passed: Passed | None = None) -> None:
        if self._is_closed or self._is_deaf:
            log.debug("to pid %d: %s is dropped", self.peer.pid, type(message).__name__)
            if passed:
                passed.close()
            return
        data = rpc.encode(message)
        log.debug("to pid %d: %s, %d bytes", self.peer.pid, type(message).__name__, len(data))
        if passed and isinstance(message, rpc.Call):
            self._unsent.add(data, passed, functools.partial(self._not_passed, message.id))
        else:
            self._unsent.add(data)
        if not self._is_writing:
            self._write()
        if len(self._unsent) > self._limits.unsent:
            self._end(f"it has not read {len(self._unsent)} bytes")

    def _write(self) -> None:
        try:
            self._unsent.send(self._sock, WRITE_SIZE)
        except BlockingIOError:
            pass
        except OSError:
            # What it has said before it went is still to be read; its end follows.
            self._is_deaf = True
            self._unsent.clear()
        if self._is_writing and not self._unsent:
            self._is_writing = False
            self._loop.remove_writer(self._sock)
        elif self._unsent and not self._is_writing:
            self._is_writing = True
            self._loop.add_writer(self._sock, self._write)

    def _end(self, fault: str) -> None:
        self._handler.on_end(self, fault)


def _tell_suppressed(user: str, count: int) -> None:
    log.warning("the agent of %s: %d notices suppressed", user, count)


def _bounded(error: CommandError) -> CommandError:
    """Return a stranger's error as one that may be passed on."""
    cls = error.cls if error.cls in _CLASSES else "GenericError"
    return CommandError(str(error)[:MAX_TEXT], cls)


def _fail(future: "asyncio.Future[object]", error: CommandError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # nobody has to wait for it: no complaint when it is collected
