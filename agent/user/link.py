"""The connection to the daemon: its calls are answered, and ours go to the host.

When it ends, everything that belongs to it ends: who connects again is another agent for the
daemon.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from agent.user.lines import Lines
from sessiond.errors import CommandError, SessiondError
from sessiond.transport.passing import Passed
from sessiond.transport.peer import peer_of
from sessiond.wire import rpc

log = logging.getLogger(__name__)

MAX_CALLS: Final = 64  # of the daemon's, that are being answered; it asks no more at a time
MAX_ASKED: Final = 1 << 20  # bytes of a call of ours; more the daemon takes only as an answer

Answer = Callable[[str, Mapping[str, Any], Passed], object]
Spawn = Callable[[Awaitable[None]], object]


class NoSocketError(SessiondError):
    """There is no such socket; it may come."""


def connect(path: str, uids: frozenset[int]) -> socket.socket:
    """Return a non-blocking connection to the socket ``path``, which one of ``uids`` listens at.

    Raises NoSocketError or SessiondError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
        uid = peer_of(sock).uid
        if uid not in uids:
            raise SessiondError(f"at {path} a program of uid {uid} listens")  # noqa: TRY301
    except FileNotFoundError:
        sock.close()
        raise NoSocketError(f"spice-sessiond does not run: there is no {path}") from None
    except OSError as error:
        sock.close()
        raise SessiondError(f"{path} cannot be connected to: {error.strerror}") from None
    except SessiondError:
        sock.close()
        raise
    return sock


class Link:
    """Owns a connection to the daemon. ``ended`` has the reason when it has ended.

    ``answer`` does a command, with the descriptors that came with it, which it closes; where that
    takes time, ``spawn`` gets what is to be awaited.
    ``is_refused``: the daemon has said that it does not want this agent.
    """

    def __init__(self, sock: socket.socket, answer: Answer, spawn: Spawn) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer = answer
        self._spawn = spawn
        self._calls = 0
        self._asked = dict[int, asyncio.Future[object]]()
        self._last_id = 0
        self.is_refused = False
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self._lines = Lines(sock, self._take, self._end)

    def ask(self, command: str, arguments: Mapping[str, Any]) -> "asyncio.Future[object]":
        """Ask the host; the future has its answer, or a CommandError. Raises CommandError."""
        call = rpc.Call(command, arguments, self._last_id + 1)
        if len(rpc.encode(call)) > MAX_ASKED:
            raise CommandError(f"a call of over {MAX_ASKED} bytes")
        self._last_id = call.id
        future: asyncio.Future[object] = self._loop.create_future()
        self._asked[call.id] = future
        self._lines.send(call)
        return future

    def tell(self, event: str, data: Mapping[str, Any] | None = None) -> None:
        """Send a notice."""
        self._lines.send(rpc.Notice(event, data or {}))

    def close(self) -> None:
        """Hang up; a second call does nothing."""
        self._lines.close()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(CommandError("the connection to spice-sessiond is lost"))
                future.exception()  # nobody has to wait for it
        self._asked.clear()

    def _end(self, reason: str) -> None:
        self.close()
        if not self.ended.done():
            self.ended.set_result(reason)

    def _take(self, message: rpc.Message) -> None:
        match message:
            case rpc.Call():
                self._do(message)
            case rpc.Result():
                self._settle(message)
            case rpc.Farewell():
                self.is_refused = True
                self._end(f"spice-sessiond does not want this agent: {message.text}")
            case rpc.Notice():
                pass  # a newer daemon's

    def _do(self, call: rpc.Call) -> None:
        """Answer it, now or later. Raises ProtocolError."""
        passed = self._lines.take_fds(call.fds)
        try:
            if self._calls >= MAX_CALLS:
                passed.close()
                raise CommandError(f"{MAX_CALLS} calls are being answered")  # noqa: TRY301
            value = self._answer(call.command, call.arguments, passed)
        except CommandError as error:
            self._lines.send(rpc.Result(call.id, error=error))
            return
        if isinstance(value, Awaitable):
            self._calls += 1
            self._spawn(self._finish(call.id, value))
        else:
            self._lines.send(rpc.Result(call.id, value))

    async def _finish(self, number: int, value: Awaitable[object]) -> None:
        try:
            result = rpc.Result(number, await value)
        except CommandError as error:
            result = rpc.Result(number, error=error)
        finally:
            self._calls -= 1
        self._lines.send(result)

    def _settle(self, result: rpc.Result) -> None:
        future = self._asked.pop(result.id, None)
        if future is None or future.done():
            log.debug("an answer that nobody waits for: %d", result.id)
        elif result.error:
            future.set_exception(result.error)
        else:
            future.set_result(result.value)
