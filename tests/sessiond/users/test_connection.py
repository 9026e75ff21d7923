"""Calls both ways, and agents that hang, die, flood, lie or break the rules."""

from __future__ import annotations

import array
import asyncio
import gc
import logging
import os
import pwd
import socket
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessiond.errors import CommandError
from sessiond.transport import drops
from sessiond.users.connection import MAX_TEXT, READ_SIZE, Limits
from sessiond.wire import rpc
from tests.fixtures.loop import Clock, in_loop, turns
from tests.sessiond.users.served import World, world

if TYPE_CHECKING:
    from tests.sessiond.users.served import FakeAgent

ME: Final = pwd.getpwuid(os.getuid()).pw_name
GONE: Final = f"^agent of user '{ME}' has gone$"


async def fault(it: World, agent: FakeAgent) -> str:
    """Return why an agent that was served is let go."""
    *_, farewell = await agent.hear_end()
    assert isinstance(farewell, rpc.Farewell)
    assert it.changes[-1][1] is None
    assert not it.users.agents
    return farewell.text


def pending(it: World) -> int:
    """Return how many calls wait for our agent."""
    return len(it.users._served[os.getuid()]._calls)


@in_loop
async def test_answers_in_any_order() -> None:
    with world() as it:
        agent = await it.agent()
        futures = [it.users.call(ME, "guest-exec", {"path": str(at)}) for at in range(3)]
        calls = [await agent.hear_call() for _ in futures]
        assert [call.arguments for call in calls] == [{"path": "0"}, {"path": "1"}, {"path": "2"}]
        assert len({call.id for call in calls}) == 3
        values = [None, "ü\n", {"pid": [1, 2.5, True]}]
        await agent.say(*(rpc.Result(calls[at].id, values[at]) for at in (2, 0, 1)))
        assert [await it for it in futures] == values


@pytest.mark.parametrize(
    ("error", "cls", "text"),
    [
        ({"class": "CommandNotFound", "desc": "no"}, "CommandNotFound", "no"),
        ({"class": "MyOwn", "desc": "no"}, "GenericError", "no"),
        ({"class": "GenericError", "desc": "x" * 9999}, "GenericError", "x" * MAX_TEXT),
    ],
)
@in_loop
async def test_errors(error: dict[str, str], cls: str, text: str) -> None:
    with world() as it:
        agent = await it.agent()
        future = it.users.call(ME, "guest-nope", {})
        call = await agent.hear_call()
        await agent.say(rpc.Result(call.id, error=CommandError(error["desc"], error["class"])))
        with pytest.raises(CommandError) as raised:
            await future
        assert (raised.value.cls, str(raised.value)) == (cls, text)


@in_loop
async def test_half_lines_and_answers_that_nobody_waits_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with world() as it:
        agent = await it.agent()
        future = it.users.call(ME, "guest-ping", {})
        call = await agent.hear_call()
        await agent.say(rpc.Result(call.id + 1, "wrong"), rpc.Result(0, "wrong"))
        line = rpc.encode(rpc.Result(call.id, "right"))
        for at in range(len(line)):
            assert not future.done()
            await agent.say(line[at : at + 1])
            await turns(3)
        await agent.say(rpc.Result(call.id, "twice"))
        assert await future == "right"
        again = it.users.call(ME, "guest-ping", {})
        await agent.say(rpc.Result((await agent.hear_call()).id, "again"))
        assert await again == "again"
        assert caplog.text.count("answers what nobody waits for") == 3


@in_loop
async def test_one_that_hangs() -> None:
    with world() as it:
        clock = Clock()
        agent = await it.agent()
        first = it.users.call(ME, "guest-ping", {})
        clock.advance(29)
        second = it.users.call(ME, "guest-ping", {})
        await turns(5)
        assert not first.done()
        clock.advance(1)
        with pytest.raises(CommandError, match=f"^agent of user '{ME}' did not answer within 30 s"):
            await first
        assert not second.done()
        late = (await agent.hear_call()).id
        await agent.say(rpc.Result(late, "late"), rpc.Result((await agent.hear_call()).id, "soon"))
        assert await second == "soon"
        assert not pending(it)


@pytest.mark.parametrize("last_words", [b"", b'{"return": 1, "id"', b"{}\n"])
@in_loop
async def test_one_that_dies_with_calls_pending(last_words: bytes) -> None:
    with world() as it:
        agent = await it.agent()
        futures = [it.users.call(ME, "guest-ping", {}) for _ in range(3)]
        call = await agent.hear_call()
        await agent.say(rpc.Result(call.id, "done"), last_words)
        agent.sock.close()
        assert await futures[0] == "done", "it was said before"
        for future in futures[1:]:
            with pytest.raises(CommandError, match=GONE):
                await future
        assert it.changes[-1][1] is None


@in_loop
async def test_what_it_said_before_it_went_is_heard_though_writing_fails() -> None:
    with world() as it:
        agent = await it.agent()
        first = it.users.call(ME, "guest-ping", {})
        await agent.say(rpc.Result((await agent.hear_call()).id, "done"))
        agent.sock.close()
        second = it.users.call(ME, "guest-ping", {})  # EPIPE
        assert await first == "done"
        with pytest.raises(CommandError, match=GONE):
            await second


@in_loop
async def test_who_does_not_wait_any_more_is_no_trouble() -> None:
    complaints = list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
    with world() as it:
        agent = await it.agent()
        it.users.call(ME, "guest-ping", {}).cancel()
        forgotten = it.users.call(ME, "guest-ping", {})
        del forgotten
        await agent.say(rpc.Result((await agent.hear_call()).id, "for nobody"))
        await agent.say(rpc.Result((await agent.hear_call()).id, error=CommandError("no")))
        while pending(it):
            await turns(1)
        agent.sock.close()
        await it.wait_changes(2)
        gc.collect()
        await turns(2)
    assert not complaints


@in_loop
async def test_too_many_calls_wait() -> None:
    with world() as it:
        agent = await it.agent()
        futures = [it.users.call(ME, "guest-ping", {}) for _ in range(64)]
        with pytest.raises(CommandError, match=f"64 calls wait for the agent of user '{ME}' alr"):
            await it.users.call(ME, "guest-ping", {})
        await agent.say(rpc.Result((await agent.hear_call()).id, 1))
        assert await futures[0] == 1
        more = it.users.call(ME, "guest-ping", {})
        for _ in range(63):
            await agent.hear_call()
        await agent.say(rpc.Result((await agent.hear_call()).id, 2))
        assert await more == 2


@in_loop
async def test_requests_to_the_host() -> None:
    with world() as it:
        agent = await it.agent()
        await agent.say(*(rpc.Call("host-do", {"n": n}, 7) for n in range(9)))
        refused = await agent.hear()
        assert isinstance(refused, rpc.Result)
        assert (refused.id, str(refused.error)) == (7, "8 requests wait for the host already")
        assert [call.arguments["n"] for _, call, _ in it.calls] == list(range(8))
        assert {asker for asker, _, _ in it.calls} == {it.users.find(ME)}
        for _, _, answer in it.calls:
            answer(rpc.Result(99, "yes"))
            answer(rpc.Result(7, "twice"))
        for _ in range(8):
            assert await agent.hear() == rpc.Result(7, "yes")
        await agent.say(rpc.Call("host-do", {}, 8))
        await it.signal.until(lambda: len(it.calls) == 9)
        it.calls[8][2](rpc.Result(8, error=CommandError("no", "CommandNotFound")))
        last = await agent.hear()
        assert isinstance(last, rpc.Result)
        assert last.error
        assert (str(last.error), last.error.cls) == ("no", "CommandNotFound")


@in_loop
async def test_a_name_that_is_claimed_is_not_heard() -> None:
    line = (
        b'{"execute": "x", "id": 1, "x-virtagent-username": "other", "user": "other", "uid": 0}\n'
    )
    with world() as it:
        agent = await it.agent()
        await agent.say(line, line.replace(b'"execute"', b'"event"'))
        await it.signal.until(lambda: bool(it.notices))
        assert it.calls[0][:2] == (it.users.find(ME), rpc.Call("x", {}, 1))
        assert it.notices == [(it.users.find(ME), rpc.Notice("x"))]
        assert list(it.users.agents) == [os.getuid()]


@in_loop
async def test_a_flood_of_notices(caplog: pytest.LogCaptureFixture) -> None:
    with world() as it:
        clock = Clock()
        agent = await it.agent()
        await agent.say(*(rpc.Notice("X", {"n": n}) for n in range(100)), rpc.Call("end", {}, 1))
        await it.signal.until(lambda: bool(it.calls))
        assert [notice.data["n"] for _, notice in it.notices] == list(range(20))
        clock.advance(10)
        while not caplog.messages:
            await turns(1)
        assert caplog.messages == [f"the agent of {ME}: 80 notices suppressed"]
        await agent.say(rpc.Notice("Y"))
        await it.signal.until(lambda: len(it.notices) == 21)


@in_loop
async def test_a_flood_of_notices_by_one_agent_after_the_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with world() as it:
        clock = Clock()
        for goes_first in (True, False, False):  # else the next one takes over
            agent = await it.agent()
            await agent.say(*(rpc.Notice("X") for _ in range(15)), rpc.Call("end", {}, 1))
            await it.signal.until(lambda: bool(it.calls))
            it.calls.clear()
            if goes_first:
                agent.sock.close()
                await it.wait_changes(len(it.changes) + 1)
        assert len(it.notices) == Limits().notices
        clock.advance(10)
        await (await it.agent()).say(rpc.Notice("Y"))
        await it.signal.until(lambda: len(it.notices) == Limits().notices + 1)
        counts = [int(text.split()[4]) for text in caplog.messages]
        assert sum(counts) == 3 * 15 - Limits().notices


@in_loop
async def test_resizes_may_be_told_more_often(caplog: pytest.LogCaptureFixture) -> None:
    with world() as it:
        agent = await it.agent()
        often = Limits().resizes
        resizes = [rpc.Notice("TERMINAL_RESIZED", {"n": n}) for n in range(often + 5)]
        await agent.say(*resizes, rpc.Notice("X"), rpc.Call("end", {}, 1))
        await it.signal.until(lambda: bool(it.calls))
        assert [notice for _, notice in it.notices] == [*resizes[:often], rpc.Notice("X")]
        agent.sock.close()
        await it.wait_changes(2)
        assert caplog.messages == [f"the agent of {ME}: 5 notices suppressed"]


@in_loop
async def test_what_was_suppressed_is_told_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    with world() as it:
        agent = await it.agent()
        await agent.say(*(rpc.Notice("X") for _ in range(25)))
        agent.sock.close()
        await it.wait_changes(2)
        assert caplog.messages == [f"the agent of {ME}: 5 notices suppressed"]
        loop = asyncio.get_running_loop()
        waiting = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        assert len(waiting) == 1, "the test's own deadline"


@in_loop
async def test_after_its_end_nothing_is_heard() -> None:
    with world() as it:
        agent = await it.agent()
        it.on_call = it.users.close
        await agent.say(rpc.Call("first"), rpc.Call("second"), b"garbage\n")
        assert await agent.hear_end() == []
        assert [call.command for _, call, _ in it.calls] == ["first"]


@in_loop
async def test_a_flood_gets_its_turn_and_no_more() -> None:
    with world(Limits(notices=1 << 20)) as it:
        agent = await it.agent()
        line = rpc.encode(rpc.Notice("X"))
        agent.sock.send(line * (3 * READ_SIZE // len(line)))
        heard = []
        while len(it.notices) < 2 * READ_SIZE // len(line):
            before = len(it.notices)
            await turns(1)
            heard.append(len(it.notices) - before)
        assert max(heard) <= READ_SIZE // len(line) + 1


@in_loop
async def test_one_that_does_not_read(caplog: pytest.LogCaptureFixture) -> None:
    with world() as it:
        await it.agent()
        futures = []
        while it.users.agents:
            futures.append(it.users.call(ME, "guest-exec", {"input": "x" * (1 << 20)}))
            assert len(futures) <= 18
        assert len(futures) >= 16
        for future in futures:
            with pytest.raises(CommandError, match=GONE):
                await future
        assert "is let go: it has not read 1" in caplog.text


@in_loop
async def test_one_that_reads_slowly_gets_all() -> None:
    with world() as it:
        agent = await it.agent()
        futures = [it.users.call(ME, "x", {"input": str(at) * (1 << 20)}) for at in range(8)]
        for at in range(8):
            call = await agent.hear_call()
            assert call.arguments["input"] == str(at) * (1 << 20)
            await agent.say(rpc.Result(call.id, at))
        assert [await it for it in futures] == list(range(8))
        assert not it.users._served[os.getuid()]._is_writing


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"garbage\n", "a line is no JSON"),
        (b"[]\n", "a line is no JSON object"),
        (b"{}\n", "a line is neither a call nor an answer nor an event"),
        (b'{"return": 1}\n', "an id is no whole number, or out of range"),
        (b'{"execute": 5}\n', "a name is no text of a sensible length"),
        (b'{"error": {"class": "GenericError", "desc": "x"}}\n', "an error has no id"),
    ],
)
@in_loop
async def test_one_that_breaks_the_rules(
    line: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    with world() as it:
        agent = await it.agent()
        future = it.users.call(ME, "guest-ping", {})
        await agent.say(rpc.Notice("BEFORE"), line, rpc.Notice("AFTER"))
        assert await fault(it, agent) == why
        assert [notice.event for _, notice in it.notices] == ["BEFORE"]
        with pytest.raises(CommandError, match=GONE):
            await future
        assert caplog.messages == [f"the agent of {ME}, pid {os.getpid()}, is let go: {why}"]


@in_loop
async def test_a_long_answer_is_heard_and_no_other_long_line() -> None:
    long = "x" * (Limits().unasked + 1)
    with world() as it:
        agent = await it.agent()
        future = it.users.call(ME, "guest-exec-status", {})
        call = await agent.hear_call()
        await agent.say(rpc.Result(call.id, long))
        assert await future == long
        await agent.say(b"x" * (Limits().unasked + 1))
        assert await fault(it, agent) == f"a line is over {Limits().unasked} bytes"


@in_loop
async def test_a_long_answer_to_what_has_none_is_not_heard() -> None:
    long = rpc.Result(1, "x" * Limits().unasked)
    with world() as it:
        agent = await it.agent()
        future = it.users.call(ME, "guest-ping", {})
        await agent.hear_call()
        await agent.say(long)
        assert await fault(it, agent) == f"a line is over {Limits().unasked} bytes"
        assert future.exception()

        agent = await it.agent()
        futures = [it.users.call(ME, f"guest-{command}", {}) for command in ("ping", "exec-status")]
        await agent.hear_call()
        await agent.say(long)
        text = f"a line that nobody asked for is over {Limits().unasked} bytes"
        assert await fault(it, agent) == text
        assert all(future.exception() for future in futures)


@in_loop
async def test_a_long_answer_may_come_late() -> None:
    with world() as it:
        clock = Clock()
        agent = await it.agent()
        first, call = it.users.call(ME, "guest-exec-status", {}), await agent.hear_call()
        clock.advance(30)
        with pytest.raises(CommandError, match="did not answer"):
            await first
        await agent.say(rpc.Result(call.id, "x" * (Limits().unasked + 1)))
        second = it.users.call(ME, "guest-ping", {})
        await agent.say(rpc.Result((await agent.hear_call()).id, 1))
        assert await second == 1


@in_loop
async def test_a_long_line_that_is_no_answer_is_not_heard_instead_of_one() -> None:
    with world() as it:
        agent = await it.agent()
        future = it.users.call(ME, "guest-exec-status", {})
        await agent.hear_call()
        await agent.say(rpc.Notice("LONG", {"x": "x" * Limits().unasked}))
        text = f"a line that nobody asked for is over {Limits().unasked} bytes"
        assert await fault(it, agent) == text
        assert future.exception()
        assert not it.notices


@in_loop
async def test_an_answer_of_too_many_values() -> None:
    most = Limits().values
    with world() as it:
        agent = await it.agent()
        first = it.users.call(ME, "guest-exec-status", {})
        second = it.users.call(ME, "guest-exec-status", {})
        value = [list[int]()] * (most - 3)  # each costs a comma or a bracket
        await agent.hear_call()
        await agent.say(rpc.Result((await agent.hear_call()).id, value[: most // 2 - 3]))
        assert await second == value[: most // 2 - 3]
        await agent.say(rpc.Result(1, value))
        assert await fault(it, agent) == f"a line may have over {most} values"
        assert first.exception()


@in_loop
async def test_an_answer_that_is_too_long() -> None:
    with world() as it:
        agent = await it.agent()
        future = it.users.call(ME, "guest-exec-status", {})
        await agent.hear_call()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await agent.say(b"x" * (rpc.MAX_LINE + (1 << 20)))
        assert await fault(it, agent) == f"a line is over {rpc.MAX_LINE} bytes"
        assert future.exception()


@in_loop
async def test_descriptors_that_are_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drops, "_SO_PASSRIGHTS", 9999)  # an older kernel
    ours, theirs = os.pipe()
    with world() as it:
        agent = await it.agent()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs]))
        agent.sock.sendmsg([rpc.encode(rpc.Notice("X"))], [rights])
        os.close(theirs)
        assert await fault(it, agent) == "it passes descriptors"
        assert not it.notices
        assert os.read(ours, 1) == b""  # nobody has it open
    os.close(ours)


@in_loop
async def test_descriptors_are_refused_by_a_newer_kernel() -> None:
    with world() as it:
        agent = await it.agent()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [agent.sock.fileno()]))
        try:
            agent.sock.sendmsg([rpc.encode(rpc.Notice("X"))], [rights])
        except PermissionError:
            await agent.say(rpc.Notice("Y"))
            await it.signal.until(lambda: bool(it.notices))
            assert it.notices[0][1].event == "Y"
        else:
            pytest.skip("the kernel is older than Linux 6.16")


@in_loop
async def test_nothing_wakes_the_loop_at_rest() -> None:
    with world() as it:
        agent = await it.agent()
        future = it.users.call(ME, "guest-ping", {})
        await agent.say(rpc.Result((await agent.hear_call()).id, 1), rpc.Notice("X"))
        await future
        await agent.say(rpc.Call("host-do", {}, 1))
        await it.signal.until(lambda: bool(it.calls))
        it.calls[0][2](rpc.Result(1, {}))
        await agent.hear()
        loop = asyncio.get_running_loop()
        waiting = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        assert len(waiting) == 1, "the test's own deadline"
        watched = [key for key in loop._selector.get_map().values() if key.data[1]]  # type: ignore[attr-defined]
        assert not watched, "nothing is to be written"
