"""The users' side, with a real host and a real agent's connection: what each hears of the seat."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from sessiond.bus.control import NO_SUCH_DISPLAY, NO_USER_AGENT, NOT_CONNECTED, NOT_DONE
from sessiond.config import KEYS, Config
from sessiond.errors import RequestError
from sessiond.model import Display, Event, Reason, Status, UserAgent, UserDisplay
from sessiond.transport.edge import EdgePoller
from sessiond.transport.fds import OwnedFd
from sessiond.users.listener import NAME
from sessiond.userside import UserSide
from sessiond.wire import rpc
from tests.fixtures.loop import Signal, in_loop
from tests.fixtures.pseudo import Pseudo
from tests.sessiond.bus.test_manager import FakeControl
from tests.sessiond.users.hosting import LINE_LIMIT, ME, Agent, Client, facts, session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

UID = os.geteuid()
MINE = session("1", display=":0", vt=7)
OTHERS = session("2", uid=UID + 1, user="bob", display=":1", vt=8)
QUIET = Status(session="", reason=Reason.NO_ACTIVE_SESSION, text="Nobody is there.")


class World:
    """A seat that the test moves, and the users' side of it."""

    def __init__(
        self, folder: Path, poller: EdgePoller, stored: Mapping[str, OwnedFd], **keys: object
    ) -> None:
        self.seat = FakeControl()
        self.seat.facts, self.seat.status = facts(), QUIET
        self.changes: list[tuple[int, int]] = []
        self.signal = Signal()
        self._tasks = set[asyncio.Task[None]]()
        self._socket, self._host = folder / "run" / "agent.sock", folder / "host.sock"
        values = {name: key.default for name, key in KEYS.items()} | {
            "users.socket": str(self._socket),
            "users.allow_root": True,
            "host_channel": f"unix:{self._host}",
        }
        named = {name.replace(".", "_"): name for name in KEYS}
        changed: dict[str, Any] = {named[name]: value for name, value in keys.items()}
        self.side = UserSide(
            Config(values | changed),
            stored,
            poller,
            self.seat,
            on_agent=self._on_agent,
            spawn=self._spawn,
        )

    def _on_agent(self, before: UserAgent | None, after: UserAgent | None) -> None:
        self.changes.append((before.pid if before else 0, after.pid if after else 0))
        self.signal.happened()

    def _spawn(self, work: Any) -> object:  # noqa: ANN401 (a coroutine)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def cancel(self) -> None:
        """End what was spawned, as the daemon does at its own end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def agent(self) -> Agent:
        """Return an agent of ours that is served."""
        count = len(self.changes)
        agent = Agent(*await asyncio.open_unix_connection(str(self._socket), limit=LINE_LIMIT))
        await self.signal.until(lambda: len(self.changes) > count)
        return agent

    async def host(self) -> Client:
        """Return a host that hears and takes everything."""
        host = Client(*await asyncio.open_unix_connection(str(self._host), limit=LINE_LIMIT))
        await host.value("virtagent-set-capabilities", events=True, requests=True)
        return host

    def move(self, *sessions: Any, active: str = "") -> None:  # noqa: ANN401
        """Let the facts be others."""
        before, self.seat.facts = self.seat.facts, facts(*sessions, active=active)
        self.side.on_seat(before)


@contextlib.asynccontextmanager
async def world(
    folder: Path, stored: Mapping[str, OwnedFd] = MappingProxyType({}), **keys: object
) -> AsyncIterator[World]:
    poller = EdgePoller()
    made = World(folder, poller, stored, **keys)
    try:
        made.side.start()
        yield made
    finally:
        made.side.close()
        poller.close()


async def events(host: Client) -> list[tuple[str, Any]]:
    """Return what the host was told until now."""
    host.send({"execute": "guest-ping"})
    told = []
    while "return" not in (line := await host.read()):
        told.append((line["event"].removeprefix("VIRTAGENT_"), line["data"]))
    return told


CHANGED = ("DISPLAYS_CHANGED", {"user": ME, "uid": UID})


@in_loop
async def test_host_hears_of_agents_and_so_does_the_bus(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.host() as host:
        me = {"user": ME, "uid": UID, "pid": os.getpid()}
        first = await it.agent()
        assert await events(host) == [("USER_CONNECTED", me)]
        assert list(it.side.agents) == [UID]
        second = await it.agent()
        assert await events(host) == [("USER_DISCONNECTED", me), ("USER_CONNECTED", me)]
        await second.close()
        await it.signal.until(lambda: not it.side.agents)
        assert await events(host) == [("USER_DISCONNECTED", me)]
        pid = os.getpid()
        assert it.changes == [(0, pid), (pid, pid), (pid, 0)]
        await first.close()


@in_loop
async def test_host_hears_of_other_displays_of_users_with_an_agent(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.host() as host:
        it.move(OTHERS)
        async with await it.agent():
            await events(host)
            it.move(MINE, OTHERS)
            assert await events(host) == [CHANGED]
            it.move(MINE, replace(OTHERS, display=":5"))
            it.move(replace(MINE, locked=True), OTHERS)
            it.move(MINE, OTHERS, session("3", type="tty"))
            it.move(MINE, OTHERS)
            assert await events(host) == [], "another's, another fact, and none"
            it.seat.status = replace(QUIET, displays=MappingProxyType({"1": Display(":3", "x")}))
            it.side.on_seat(it.seat.facts)
            it.side.on_seat(it.seat.facts)
            assert await events(host) == [CHANGED], "once"
            it.move(OTHERS)
            assert await events(host) == [CHANGED]


@in_loop
async def test_host_hears_what_an_agent_notices_of_displays_alone(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.host() as host, await it.agent() as agent:
        await events(host)
        agent.send(rpc.Notice("SOMETHING", {}))
        agent.send(rpc.Notice("DISPLAYS_CHANGED", {"user": "root"}))
        line = await host.read()
        assert (line["event"], line["data"]) == (f"VIRTAGENT_{CHANGED[0]}", CHANGED[1])
        assert line["x-virtagent-username"] == ME
        assert await events(host) == [], "of the one alone"


@in_loop
async def test_host_hears_of_terminals_that_agents_watch(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.host() as host, await it.agent() as agent:
        await events(host)
        size = {"columns": 80, "rows": 0, "x-pixels": 65535, "y-pixels": 1}
        data = {"terminal": "/dev/pts/1", **size}
        for nonsense in (
            {},
            size,
            data | {"rows": -1},
            data | {"columns": 65536},
            data | {"columns": "80"},
            data | {"terminal": 1},
            data | {"terminal": "/" + "x" * 4095},
            data | {"user": "root"},
        ):
            agent.send(rpc.Notice("TERMINAL_RESIZED", nonsense))
        agent.send(rpc.Notice("TERMINAL_RESIZED", data))
        line = await host.read()
        assert (line["event"], line["data"]) == ("VIRTAGENT_TERMINAL_RESIZED", data)
        assert line["x-virtagent-username"] == ME
        assert await events(host) == [], "of the one alone"


@pytest.mark.parts
@in_loop
async def test_host_hears_of_terminals_of_the_configuration(tmp_path: Path) -> None:
    with Pseudo() as pty:
        async with world(tmp_path, terminals_watch=(pty.path,)) as it, await it.host() as host:
            columns = 1
            while not (heard := await events(host)):  # until it is listened to
                columns += 1
                pty.resize(columns, 24)
            (name, data), *_ = heard
            assert name == "TERMINAL_RESIZED"
            assert data == data | {"terminal": pty.path, "rows": 24, "x-pixels": 0}
            await it.cancel()


@in_loop
async def test_host_hears_of_switches_and_of_the_stream(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.host() as host:
        it.move(MINE, OTHERS, active="1")
        it.move(MINE, OTHERS, active="1")
        it.move(MINE, OTHERS, active="2")
        it.side.on_news(QUIET)
        assert await events(host) == [
            ("SESSION_SWITCHED", {"from": "", "to": "1"}),
            ("SESSION_SWITCHED", {"from": "1", "to": "2"}),
            ("STREAM_STATE", {"state": "no-session", "reason": "no-active-session",
                              "text": "Nobody is there.", "session": ""}),
        ]  # fmt: skip


@in_loop
async def test_host_asks_the_seat(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.host() as host:
        it.seat.facts = facts(MINE, active="1")
        it.seat.events = [Event(5.0, QUIET)]
        assert [s["id"] for s in await host.value("virtagent-list-sessions")] == ["1"]
        assert (await host.value("virtagent-get-status"))["reason"] == "no-active-session"
        assert (await host.value("virtagent-get-history"))[0]["time"] == 5.0
        assert await host.value("virtagent-activate-session", session="1") == {}
        assert it.seat.orders == [("activate", "1")]
        it.seat.refusal = RequestError("a.b.C", "not now")
        assert await host.error("virtagent-activate-session", session="1") == (
            "GenericError", "not now"
        )  # fmt: skip


@in_loop
async def test_an_agent_asks_the_host(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.host() as host, await it.agent() as agent:
        await events(host)
        agent.send(rpc.Call("open-it", {"a": 1}, 7))
        request = await host.read()
        assert (request["execute"], request["x-virtagent-username"]) == ("open-it", ME)
        host.send({"return": 5, "id": request["id"]})
        assert await agent.read() == rpc.Result(7, 5)


@in_loop
async def test_without_a_host_channel_agents_are_served_all_the_same(tmp_path: Path) -> None:
    async with world(tmp_path, host_channel="off") as it, await it.agent() as agent:
        it.move(MINE, active="1")
        it.side.on_news(QUIET)
        agent.send(rpc.Call("open-it", {}, 7))
        answer = await agent.read()
        assert isinstance(answer, rpc.Result)
        assert str(answer.error) == "there is no host channel: it is off"
        asking = asyncio.get_running_loop().create_task(_displays(it.side))
        await agent.answer([{"display": ":0", "connected": False}])
        assert [display.name for display in await asking] == [":0"]


async def _displays(side: UserSide) -> list[UserDisplay]:
    return list(await side.displays(ME))


@in_loop
async def test_systemds_socket_is_taken(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "given"))
        listening.listen()
        stored = {NAME: OwnedFd(os.dup(listening.fileno()))}
    async with world(tmp_path, stored) as it:
        assert not (tmp_path / "run").exists()
        with pytest.raises(ValueError, match="closed"):
            stored[NAME].fileno()
        streams = await asyncio.open_unix_connection(str(tmp_path / "given"))
        await it.signal.until(lambda: len(it.changes) == 1)
        await Agent(*streams).close()


@in_loop
async def test_what_cannot_be_had_is_logged_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "host.sock").write_text("in the way")
    (tmp_path / "run").write_text("in the way")
    async with world(tmp_path) as it:
        assert it.side.agents == {}
        it.move(MINE, active="1")
        with pytest.raises(RequestError) as raised:
            it.side.find(ME)
        assert raised.value.name == NO_USER_AGENT
    assert "users' agents are not heard" in caplog.text
    assert "the host is not heard" in caplog.text


@pytest.mark.parametrize(
    ("display", "answers", "name", "words"),
    [
        (":9", [[]], NO_SUCH_DISPLAY, f"user '{ME}' has no display ':9'"),
        (":0", [[]], NOT_CONNECTED, "display ':0' is not connected"),
        (":0", ["nonsense"], NOT_DONE, "nonsense"),
        (":0", [[{"display": ":0", "connected": True}], 5], NOT_DONE, "nonsense"),
    ],
)
@in_loop
async def test_what_is_not_done_has_a_name_on_the_bus(
    tmp_path: Path, display: str, answers: list[object], name: str, words: str
) -> None:
    async with world(tmp_path) as it, await it.agent() as agent:
        it.move(MINE)
        asking = asyncio.get_running_loop().create_task(_screens(it.side, display))
        for answer in answers:
            await agent.answer(answer)
        with pytest.raises(RequestError, match=words) as raised:
            await asking
        assert raised.value.name == name


async def _screens(side: UserSide, display: str) -> None:
    await side.screens(ME, display)


@in_loop
async def test_the_end_is_heard_by_both_and_told_to_nobody(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        host, agent = await it.host(), await it.agent()
        await events(host)
        it.side.close()
        assert await host.line() == b""
        assert await agent.reader.read() == b""
        it.side.on_news(QUIET)
        assert len(it.changes) == 1
        await host.close()
        await agent.close()
