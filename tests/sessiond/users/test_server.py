"""Who is served, as whom, and in whose place."""

from __future__ import annotations

import asyncio
import logging
import os
import pwd
import select
import threading
import time
from typing import TYPE_CHECKING, Final

import pytest

from sessiond.errors import CommandError, NoAgentError
from sessiond.model import UserAgent
from sessiond.users import names
from sessiond.users.connection import Limits
from sessiond.wire import rpc
from tests.fixtures.loop import Clock, in_loop, turns
from tests.sessiond.helper.peers import NOBODY, peer, wait_line
from tests.sessiond.users.served import FakeAgent, world

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_ENTRY: Final = 54321  # a uid that the user database does not know
ME: Final = pwd.getpwuid(os.getuid()).pw_name

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, for another user")

ECHO: Final = """
import json
connect()
print("connected", flush=True)
for line in sock.makefile():
    call = json.loads(line)
    if "id" not in call:
        print(call["error"]["desc"], flush=True)
        break
    answer = {"return": [os.getuid(), call["execute"]], "id": call["id"]}
    sock.sendall(json.dumps(answer).encode() + b"\\n")
"""


class Hung:
    """The user database, which says nothing until it is told to go on."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.goes_on = threading.Event()

    def name_of(self, uid: int) -> str:
        self.asked.append(uid)
        self.goes_on.wait()
        return f"user{uid}"


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hung]:
    database = Hung()
    monkeypatch.setattr(names, "name_of", database.name_of)
    yield database
    database.goes_on.set()
    for thread in threading.enumerate():
        if thread.name == "aside":
            thread.join()


async def refusal(agent: FakeAgent) -> str:
    """Return why an agent is let go."""
    (farewell,) = await agent.hear_end()
    assert isinstance(farewell, rpc.Farewell)
    return farewell.text


def is_at_rest() -> bool:
    """Whether nothing but the test's own deadline waits for a time."""
    loop = asyncio.get_running_loop()
    waiting = [it for it in loop._scheduled if not it.cancelled()]  # type: ignore[attr-defined]
    return len(waiting) == 1


@in_loop
async def test_one_comes_and_goes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with world() as it:
        before = time.time()
        agent = await it.agent()
        ((nobody, came),) = it.changes
        assert nobody is None
        assert came
        assert came == UserAgent(os.getuid(), ME, os.getpid(), came.since)
        assert before <= came.since <= time.time()
        assert it.users.agents == {os.getuid(): came}
        assert it.users.find(ME) is came
        agent.sock.close()
        await it.wait_changes(2)
        assert it.changes[1] == (came, None)
        assert not it.users.agents
        with pytest.raises(NoAgentError, match=f"no agent connected for user '{ME}'"):
            it.users.find(ME)
        with pytest.raises(NoAgentError):
            await it.users.call(ME, "guest-ping", {})
        assert caplog.messages[1:] == [
            f"the agent of {ME} has connected: uid {os.getuid()}, pid {os.getpid()}",
            f"the agent of {ME} has gone: pid {os.getpid()}",
        ]
        assert is_at_rest()


@pytest.mark.parts
@needs_root
@in_loop
async def test_two_users_are_two_agents() -> None:
    with world() as it:
        ours = await it.agent()
        with peer(it.path, ECHO, uid=NOBODY) as child:
            await it.wait_changes(2)
            theirs = it.users.agents[NOBODY]
            assert (theirs.name, theirs.pid) == (pwd.getpwuid(NOBODY).pw_name, child.pid)
            asked = it.users.call(theirs.name, "guest-ping", {})
            mine = it.users.call(ME, "guest-info", {})
            assert await asked == [NOBODY, "guest-ping"]
            call = await ours.hear_call()
            assert call.command == "guest-info"
            left = it.users.call(ME, "guest-ping", {})
        await it.wait_changes(3)
        assert it.changes[2] == (theirs, None)
        assert not mine.done()
        await ours.say(rpc.Result(call.id, 7))
        assert await mine == 7
        left.cancel()


@pytest.mark.parts
@needs_root
@in_loop
async def test_without_an_entry_the_name_is_the_number() -> None:
    with world() as it, peer(it.path, ECHO, uid=NO_ENTRY):
        await it.wait_changes(1)
        assert await it.users.call(f"#{NO_ENTRY}", "guest-ping", {}) == [NO_ENTRY, "guest-ping"]


@pytest.mark.parametrize("name", ["", "a\nb", "a\udc80", "x" * 256, "ü" * 128])
def test_a_name_that_no_line_could_carry_is_none(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = pwd.struct_passwd((name, "x", 5, 5, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: entry)
    assert names.name_of(5) == "#5"


@pytest.mark.parts
@pytest.mark.parametrize("allowed", [True, False])
@needs_root
@in_loop
async def test_root_is_refused_unless_it_is_allowed(
    *, allowed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with world(allow_root=allowed) as it:
        agent = it.connect()
        if allowed:
            await it.wait_changes(1)
            agent.sock.close()
        else:
            assert await refusal(agent) == "root's agent is not served (users.allow_root)"
            assert f"a user's agent of uid 0, pid {os.getpid()}, is refused: root's" in caplog.text
        with peer(it.path, ECHO, uid=NOBODY):
            await it.signal.until(lambda: NOBODY in it.users.agents)


@in_loop
async def test_the_newest_takes_over_in_this_order(caplog: pytest.LogCaptureFixture) -> None:
    """Mapped; calls fail; the host's answers are dropped; closed; logged."""
    caplog.set_level(logging.INFO)
    order = []
    with world() as it:
        old = await it.agent()
        came = it.users.find(ME)
        calls = [it.users.call(ME, "guest-ping", {}) for _ in range(3)]
        for call in calls:
            call.add_done_callback(lambda it: order.append(str(it.exception())))
        asked = [await old.hear_call() for _ in calls]
        await old.say(rpc.Call("guest-info", {}, 5))
        await it.signal.until(lambda: bool(it.calls))

        new = await it.agent()
        before, after = it.changes[1]
        assert before is came
        assert after is it.users.find(ME)
        assert it.users.agents == {os.getuid(): after}
        next_one = it.users.call(ME, "guest-ping", {})
        await turns(2)
        assert order == ["agent replaced"] * 3
        it.calls[0][2](rpc.Result(5, "an answer for the old one"))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await old.say(rpc.Result(asked[0].id, "too late"))
        pid = os.getpid()
        assert await refusal(old) == f"agent replaced: pid {pid} has taken over"
        assert caplog.messages[-1] == f"the agent of {ME}: pid {pid} has replaced pid {pid}"
        await new.say(rpc.Result((await new.hear_call()).id, "new"))
        assert await next_one == "new"
        assert it.changes == [(None, before), (before, after)]


@in_loop
async def test_one_that_does_not_read_is_replaced_as_well() -> None:
    with world() as it:
        old = await it.agent()
        call = it.users.call(ME, "guest-exec", {"input": "x" * (1 << 20)})
        new = await it.agent()
        with pytest.raises(CommandError, match=r"^agent replaced$"):
            await call
        await turns(3)
        assert select.select([old.sock], [], [], 0)[0]
        it.users.close()
        assert await new.hear_end() == []
        watched = asyncio.get_running_loop()._selector.get_map()  # type: ignore[attr-defined]
        assert len(watched) == 1, "the loop's own"


@in_loop
async def test_one_that_has_hung_up_replaces_nobody() -> None:
    with world() as it:
        agent = await it.agent()
        it.connect().sock.close()
        half = it.connect()
        half.sock.shutdown(1)
        assert await half.hear_end() == []
        assert len(it.changes) == 1
        call = it.users.call(ME, "guest-ping", {})
        await agent.say(rpc.Result((await agent.hear_call()).id, "still there"))
        assert await call == "still there"


@in_loop
async def test_a_hung_user_database_stops_nobody(hung: Hung) -> None:
    with world() as it:
        clock = Clock()
        agents = [it.connect() for _ in range(4)]
        fifth = it.connect()
        assert await refusal(fifth) == "its user has 4 connections that wait already"
        assert hung.asked == [os.getuid()], "a thread each would be many"
        clock.advance(Limits().lookup)
        for agent in agents:
            text = f"the user database does not say within 10 s who uid {os.getuid()} is"
            assert await refusal(agent) == text
        it.connect()
        await turns(20)
        assert len(hung.asked) == 1
        hung.goes_on.set()
        await it.wait_changes(1)
        assert it.users.find(f"user{os.getuid()}").uid == os.getuid()


@in_loop
async def test_of_those_that_waited_the_last_is_the_one(hung: Hung) -> None:
    with world() as it:
        agents = [it.connect() for _ in range(3)]
        await turns(10)
        hung.goes_on.set()
        await it.wait_changes(3)
        first, second, last = agents
        assert (await refusal(first)).startswith("agent replaced")
        assert (await refusal(second)).startswith("agent replaced")
        call = it.users.call(f"user{os.getuid()}", "guest-ping", {})
        await last.say(rpc.Result((await last.hear_call()).id, 1))
        assert await call == 1


@in_loop
async def test_too_many_hung_look_ups(
    hung: Hung, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(names, "MAX_HANGING", 0)
    with world() as it:
        assert await refusal(it.connect()) == "the user database does not answer"
        assert not hung.asked
    assert "is refused: the user database does not answer" in caplog.text


@in_loop
async def test_closing_while_a_name_is_looked_up(
    hung: Hung, caplog: pytest.LogCaptureFixture
) -> None:
    with world() as it:
        agent = it.connect()
        while not hung.asked:
            await turns(1)
        it.users.close()
        assert await agent.hear_end() == []
        hung.goes_on.set()
        await turns(20)
        assert not it.changes
        assert not caplog.messages
        assert is_at_rest()


@in_loop
async def test_too_many_connections() -> None:
    with world(Limits(connections=1)) as it:
        agent = await it.agent()
        assert await refusal(it.connect()) == "there are 1 connections already"
        agent.sock.close()
        await it.wait_changes(2)
        (await it.agent()).sock.close()


@pytest.mark.parametrize("limits", [Limits(often=2), Limits(often_all=2)])
@in_loop
async def test_too_often(limits: Limits) -> None:
    with world(limits) as it:
        clock = Clock()
        (await it.agent()).sock.close()
        (await it.agent()).sock.close()
        assert await refusal(it.connect()) == "there were too many connections within 10 s"
        clock.advance(10)
        (await it.agent()).sock.close()


@pytest.mark.parts
@needs_root
@in_loop
async def test_a_process_that_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    code = "connect(); os.fork() or sys.stdin.read()"  # a child has the connection, too
    with world() as it:
        with peer(it.path, code, uid=NOBODY) as child:
            child.wait()
            while "refused" not in caplog.text:
                await turns(1)
        assert f"pid {child.pid}, is refused: its process has ended" in caplog.text


@pytest.mark.parts
@needs_root
@in_loop
async def test_a_process_that_is_another_users_now(caplog: pytest.LogCaptureFixture) -> None:
    code = f"connect(); os.setuid({NOBODY}); print('changed', flush=True); sys.stdin.read()"
    with world() as it, peer(it.path, code) as child:
        assert wait_line(child) == b"changed\n"
        while "refused" not in caplog.text:
            await turns(1)
        assert f"is refused: its process belongs to uid {NOBODY} now" in caplog.text


@pytest.mark.parts
@needs_root
@in_loop
async def test_one_name_is_one_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "name_of", lambda _uid: "twin")
    with world() as it:
        await it.agent()
        with peer(it.path, ECHO, uid=NOBODY) as child:
            assert wait_line(child) == b"connected\n"
            said = await asyncio.to_thread(wait_line, child)
        assert said == b"twin is the name of uid 0 too, which is served\n"


@in_loop
async def test_close_ends_all_and_leaves_nothing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with world() as it:
        agent = await it.agent()
        call = it.users.call(ME, "guest-ping", {})
        await agent.say(rpc.Call("guest-ping", {}, 1))
        await it.signal.until(lambda: bool(it.calls))
        it.users.close()
        with pytest.raises(CommandError, match=f"agent of user '{ME}' has gone"):
            await call
        assert not any(isinstance(heard, rpc.Farewell) for heard in await agent.hear_end())
        it.calls[0][2](rpc.Result(1))
        it.users.close()
        assert len(it.changes) == 1
        assert not it.users.agents
        with pytest.raises(ConnectionRefusedError):
            it.connect()
        assert is_at_rest()
        assert len(asyncio.all_tasks()) == 1
    assert len(os.listdir("/proc/self/fd")) <= before
