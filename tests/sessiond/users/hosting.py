"""A host channel in a loop, with everything real around it: the test is the host and the agents."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from sessiond.model import Event, Reason, SeatFacts, Session, Status, UserAgent
from sessiond.transport.edge import EdgePoller
from sessiond.transport.listening import listen_at
from sessiond.users.commands import Commands, Seat
from sessiond.users.displays import Displays
from sessiond.users.host import HostChannel
from sessiond.users.server import UserAgents
from sessiond.wire import rpc
from tests.fixtures.loop import Signal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from sessiond.users.connection import Answer

ME: Final = pwd.getpwuid(os.geteuid()).pw_name
LINE_LIMIT: Final = 64 << 20


def session(key: str, **known: Any) -> Session:  # noqa: ANN401 (its members)
    """Return one of ours, on a seat."""
    whole = {"uid": os.geteuid(), "gid": 0, "user": ME, "cls": "user", "type": "x11",
             "seat": "seat0", "state": "active", **known}  # fmt: skip
    return Session(id=key, path=f"/session/{key}", **whole)


def facts(*sessions: Session, active: str = "") -> SeatFacts:
    """Return what logind would have us know."""
    return SeatFacts(
        seat="seat0", has_logind=True, sessions={it.id: it for it in sessions}, active=active
    )


@dataclass
class World:
    """What the channel sees, to be changed by the test."""

    folder: Path
    facts: SeatFacts = field(default_factory=facts)
    status: Status = field(default_factory=lambda: Status(
        session="", reason=Reason.NO_ACTIVE_SESSION, text="Nobody is there."))  # fmt: skip
    events: list[Event] = field(default_factory=list)
    activated: list[str] = field(default_factory=list)
    may_activate: asyncio.Event = field(default_factory=asyncio.Event)
    activate_error: Exception | None = None
    told: list[rpc.Notice] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    signal: Signal = field(default_factory=Signal)
    agents: UserAgents = field(init=False)
    host: HostChannel = field(init=False)

    @property
    def path(self) -> str:
        """Where the host channel listens."""
        return str(self.folder / "host.sock")

    async def _activate(self, key: str) -> None:
        self.activated.append(key)
        self.signal.happened()
        await self.may_activate.wait()
        if self.activate_error:
            raise self.activate_error

    def _history(self, limit: int) -> Sequence[Event]:
        return self.events[-limit:] if limit else self.events

    def _on_change(self, _before: UserAgent | None, _after: UserAgent | None) -> None:
        self.signal.happened()

    def _on_call(self, agent: UserAgent, call: rpc.Call, answer: Answer) -> None:
        self.host.ask(agent, call, answer)

    def seat(self) -> Seat:
        """Return what the commands ask."""
        displays = Displays(
            self.agents, lambda: self.facts, lambda: self.status.displays, self._activate
        )
        return Seat(
            facts=lambda: self.facts,
            status=lambda: self.status,
            history=self._history,
            activate=self._activate,
            displays=displays,
            agents=self.agents,
        )

    async def client(self) -> Client:
        """Return a host that has connected."""
        return Client(*await asyncio.open_unix_connection(self.path, limit=LINE_LIMIT))

    async def agent(self) -> Agent:
        """Return an agent of ours that is served."""
        before = self.agents.agents.get(os.geteuid())
        streams = await asyncio.open_unix_connection(
            str(self.folder / "agents" / "agent.sock"), limit=LINE_LIMIT
        )
        await self.signal.until(lambda: self.agents.agents.get(os.geteuid()) not in {before, None})
        return Agent(*streams)


@contextlib.asynccontextmanager
async def world(
    folder: Path, *, place: str = "", allow_root: bool = True, starts: bool = True
) -> AsyncIterator[World]:
    """Make a host channel, at a socket unless PLACE is something else, and end it."""
    made = World(folder)
    made.may_activate.set()
    poller = EdgePoller()
    listener = listen_at(str(folder / "agents" / "agent.sock"), 0o600)
    listener.setblocking(False)
    async with asyncio.TaskGroup() as tasks:
        made.agents = UserAgents(
            listener,
            made._on_change,
            made._on_call,
            lambda _agent, notice: made.told.append(notice),
            allow_root=allow_root,
        )
        spawned = set[asyncio.Task[None]]()
        made.host = HostChannel(
            place or f"unix:{made.path}",
            poller,
            made.agents,
            Commands(made.seat()),
            lambda work: spawned.add(tasks.create_task(work)),
            may_run=lambda user: user not in made.refused,
        )
        try:
            if starts:
                made.host.start()
            yield made
        finally:
            for task in spawned:
                task.cancel()
            made.host.close()
            made.agents.close()
            poller.close()


class _Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


class Client(_Peer):
    """A host."""

    def send(self, data: bytes | Mapping[str, object]) -> None:
        """Send bytes, or an object as a line."""
        self.writer.write(data if isinstance(data, bytes) else json.dumps(data).encode() + b"\n")

    async def line(self) -> bytes:
        """Return the next line, b"" at the end."""
        return await self.reader.readline()

    async def read(self) -> dict[str, Any]:
        """Return the next line's object."""
        line = await self.line()
        assert line, "the channel was closed"
        found = json.loads(line)
        assert isinstance(found, dict)
        return found

    async def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """Return the answer to a request without id."""
        self.send({"execute": command, "arguments": arguments})
        return await self.read()

    async def value(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 (JSON)
        """Return what a command returns."""
        answer = await self.ask(command, **arguments)
        assert "return" in answer, answer
        return answer["return"]

    async def error(self, command: str, **arguments: object) -> tuple[str, str]:
        """Return the class and the text of the error that a command ends with."""
        answer = await self.ask(command, **arguments)
        return answer["error"]["class"], answer["error"]["desc"]


class Agent(_Peer):
    """A user's agent; the user is who runs the test."""

    def send(self, message: rpc.Message) -> None:
        """Send a line."""
        self.writer.write(rpc.encode(message))

    async def read(self) -> rpc.Message:
        """Return the next message."""
        line = await self.reader.readline()
        assert line, "the daemon has hung up"
        return rpc.parse(line)

    async def call(self) -> rpc.Call:
        """Return the next call."""
        message = await self.read()
        assert isinstance(message, rpc.Call), message
        return message

    async def answer(self, value: object) -> rpc.Call:
        """Answer the next call; return it."""
        call = await self.call()
        self.send(rpc.Result(call.id, value))
        return call
