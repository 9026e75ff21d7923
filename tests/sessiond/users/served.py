"""A server of users' agents in a test, what it told, and agents as a test wants them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from sessiond.users.connection import Answer, Limits
from sessiond.users.listener import take_listener
from sessiond.users.server import UserAgents
from sessiond.wire import rpc
from tests.fixtures.loop import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sessiond.model import UserAgent


class FakeAgent:
    """A user's agent that says what the test wants."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.connect(path)
        except OSError:
            self.sock.close()
            raise
        self.sock.setblocking(False)
        self._reader = rpc.LineReader()
        self._heard: list[rpc.Message] = []

    async def say(self, *messages: rpc.Message | bytes) -> None:
        """Send messages, or any bytes at all."""
        data = b"".join(it if isinstance(it, bytes) else rpc.encode(it) for it in messages)
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def hear(self) -> rpc.Message:
        """Return the next message; EOFError at the end."""
        while not self._heard:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20)
            if not data:
                raise EOFError
            self._heard += self._reader.feed(data)
        return self._heard.pop(0)

    async def hear_call(self) -> rpc.Call:
        """Return the next message, which is a call."""
        call = await self.hear()
        assert isinstance(call, rpc.Call), call
        return call

    async def hear_end(self) -> list[rpc.Message]:
        """Return what comes until the end, at which it hangs up as well."""
        heard = []
        # A reset comes where the server had not read all.
        with self.sock, contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                heard.append(await self.hear())
        return heard


class World:
    """A server, and what it told; ``on_call()`` is called when an agent asks the host."""

    def __init__(self, folder: str, limits: Limits, *, allow_root: bool) -> None:
        self.changes: list[tuple[UserAgent | None, UserAgent | None]] = []
        self.calls: list[tuple[UserAgent, rpc.Call, Answer]] = []
        self.notices: list[tuple[UserAgent, rpc.Notice]] = []
        self.on_call: Callable[[], None] = lambda: None
        self.signal = Signal()
        self._agents: list[FakeAgent] = []
        self.path = f"{folder}/agent.sock"
        self.users = UserAgents(
            take_listener(self.path, {}),
            self._on_change,
            self._on_call,
            self._on_notice,
            allow_root=allow_root,
            limits=limits,
        )

    def _on_change(self, before: UserAgent | None, after: UserAgent | None) -> None:
        self.changes.append((before, after))
        self.signal.happened()

    def _on_call(self, agent: UserAgent, call: rpc.Call, answer: Answer) -> None:
        self.calls.append((agent, call, answer))
        self.on_call()
        self.signal.happened()

    def _on_notice(self, agent: UserAgent, notice: rpc.Notice) -> None:
        self.notices.append((agent, notice))
        self.signal.happened()

    def connect(self) -> FakeAgent:
        """Connect, and be served soon."""
        self._agents.append(FakeAgent(self.path))
        return self._agents[-1]

    def close(self) -> None:
        """End the server and all agents."""
        self.users.close()
        for agent in self._agents:
            agent.sock.close()

    async def agent(self) -> FakeAgent:
        """Connect, and return when it is served."""
        count = len(self.changes)
        agent = self.connect()
        await self.signal.until(lambda: len(self.changes) > count)
        return agent

    async def wait_changes(self, count: int) -> None:
        """Return when so many agents came, went or were replaced."""
        await self.signal.until(lambda: len(self.changes) >= count)


@contextlib.contextmanager
def world(limits: Limits | None = None, *, allow_root: bool = True) -> Iterator[World]:
    """Serve at a place that every user reaches."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        it = World(folder, limits or Limits(), allow_root=allow_root)
        try:
            yield it
        finally:
            it.close()
