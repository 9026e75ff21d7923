"""What users' agents run: over a real socket, with agents that lie, hang, die and say nothing."""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import logging
import os
import pwd
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessiond.errors import CommandError, NoAgentError, StartError
from sessiond.model import Ending, UserAgent
from sessiond.transport.passing import Passed
from sessiond.users import runs as module
from sessiond.users.audit import Audit
from sessiond.users.policy import Origin, Question
from sessiond.users.runs import MAX_SHOWN, MOST_OF_USER, Job, Run, Runs
from sessiond.wire import rpc
from tests.fixtures.loop import Clock, in_loop, turns
from tests.sessiond.users.served import FakeAgent, World
from tests.sessiond.users.served import world as agents

if TYPE_CHECKING:
    from collections.abc import Iterator

ME: Final = pwd.getpwuid(os.getuid()).pw_name
EXITED: Final = "COMMAND_EXITED"


class Bench(World):
    """Users' agents, and what they run."""

    runs: Runs

    async def agent(self) -> FakeAgent:
        agent = await super().agent()
        agent.sock.setblocking(False)
        return agent

    def begin(self, *words: str, passed: Passed | None = None) -> asyncio.Task[Run]:
        """Begin to start something."""
        question = Question(Origin.LOCAL, ME, caller="alice")
        job = Job(question, words or ("true",), "run-command", {"argv": list(words)})
        start = self.runs.start(job, passed or Passed([]))
        return asyncio.get_running_loop().create_task(start)

    async def start(self, agent: FakeAgent, *words: str) -> Run:
        """Start something; the agent says that it has pid 42."""
        task = self.begin(*words)
        await agent.say(rpc.Result((await agent.hear_call()).id, {"pid": 42}))
        return await task


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    with agents() as it:
        it.__class__ = Bench
        assert isinstance(it, Bench)
        audit = Audit()
        it.runs = Runs(it.users, audit)
        told, changed = it._on_notice, it._on_change

        def on_notice(agent: Any, notice: rpc.Notice) -> None:  # noqa: ANN401
            it.runs.on_exited(agent, notice.data)
            told(agent, notice)

        def on_change(before: Any, after: Any) -> None:  # noqa: ANN401
            if before:
                it.runs.on_gone(before)
            changed(before, after)

        it.users._on_notice, it.users._on_change = on_notice, on_change
        try:
            yield it
        finally:
            it.runs.close()
            audit.close()


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    room = socket.CMSG_SPACE(8 * 4)
    data, ancillary, _flags, _ = sock.recvmsg(1 << 16, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for _level, _kind, part in ancillary:
        fds.frombytes(part)
    return data, list(fds)


async def readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sock, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sock)


@in_loop
async def test_start_with_descriptors() -> None:
    with bench() as it:
        agent = await it.agent()
        pipes = [os.pipe() for _ in range(3)]
        task = it.begin("echo", "x", passed=Passed([write for _, write in pipes]))
        await readable(agent.sock)
        data, fds = receive(agent.sock)
        [call] = rpc.LineReader().feed(data)
        assert call == rpc.Call("run-command", {"argv": ["echo", "x"], "id": 1}, 1, fds=3)
        await agent.say(rpc.Result(1, {"pid": 42}))
        run = await task
        assert (run.id, run.pid, run.argv) == (1, 42, ("echo", "x"))
        assert run.agent.name == ME
        for at, fd in enumerate(fds):
            os.write(fd, b"%d" % at)
            os.close(fd)
        for at, (read, _) in enumerate(pipes):
            assert os.read(read, 9) == b"%d" % at
            assert select.select([read], [], [], 10)[0], "the daemon still has it"
            assert os.read(read, 9) == b""
            os.close(read)


ENDINGS: Final[dict[str, tuple[dict[str, Any], Ending]]] = {
    "a code": ({"code": 3, "signal": 0}, Ending(3)),
    "zero": ({"code": 0, "signal": 0}, Ending(0)),
    "a signal": ({"code": 137, "signal": 9}, Ending(-1, 9)),
    "a signal alone": ({"signal": 9}, Ending(-1, 9)),
    "a code that is none": ({"code": 256, "signal": 0}, Ending(-1)),
    "a negative code": ({"code": -1, "signal": 0}, Ending(-1)),
    "a signal that is none": ({"code": 0, "signal": 65}, Ending(-1)),
    "a negative signal": ({"code": 0, "signal": -9}, Ending(-1)),
    "a text": ({"code": "3", "signal": 0}, Ending(-1)),
    "nothing": ({}, Ending(-1)),
}


@pytest.mark.parametrize(("data", "ending"), ENDINGS.values(), ids=ENDINGS)
@in_loop
async def test_end(data: dict[str, Any], ending: Ending) -> None:
    with bench() as it:
        agent = await it.agent()
        run = await it.start(agent)
        await agent.say(rpc.Notice(EXITED, {"id": run.id, **data}))
        assert await run.ended == ending


@in_loop
async def test_end_that_is_told_before_it_is_known_that_it_runs() -> None:
    with bench() as it:
        agent = await it.agent()
        task = it.begin()
        call = await agent.hear_call()
        ended = rpc.Notice(EXITED, {"id": call.arguments["id"], "code": 5, "signal": 0})
        await agent.say(rpc.Result(call.id, {"pid": 42}), ended)
        assert await (await task).ended == Ending(5)


@pytest.mark.parametrize("number", [2, 0, -1, "1", None, True, [1], 1.0])
@in_loop
async def test_ends_of_nothing_that_runs(number: object) -> None:
    with bench() as it:
        agent = await it.agent()
        run = await it.start(agent)
        await agent.say(rpc.Notice(EXITED, {"id": number, "code": 1, "signal": 0}))
        await agent.say(rpc.Notice(EXITED, {"id": run.id, "code": 2, "signal": 0}))
        assert await run.ended == Ending(2)


@in_loop
async def test_agent_of_another_user_ends_nothing() -> None:
    with bench() as it:
        agent = await it.agent()
        run = await it.start(agent)
        it.runs.on_exited(UserAgent(4711, "mallory", 7, 0.0), {"id": run.id, "signal": 9})
        assert not run.ended.done()
        await agent.say(rpc.Notice(EXITED, {"id": run.id, "code": 2, "signal": 0}))
        assert await run.ended == Ending(2)


@in_loop
async def test_many_ends_at_once_are_all_heard() -> None:
    """Other notices are limited in number."""
    with bench() as it:
        agent = await it.agent()
        runs = [await it.start(agent) for _ in range(60)]
        await agent.say(*(rpc.Notice(EXITED, {"id": run.id, "code": 1, "signal": 0})
                          for run in runs))  # fmt: skip
        for run in runs:
            assert await run.ended == Ending(1)


ANSWERS: Final[dict[str, tuple[object, int, str]]] = {
    "not found": ({"error-code": 127, "text": "no x"}, 127, "no x"),
    "refused": ({"error-code": 126, "text": "no"}, 126, "no"),
    "another problem": ({"error-code": 125, "text": "no"}, 125, "no"),
    "a long text": ({"error-code": 125, "text": "x" * 9999}, 125, "x" * MAX_SHOWN),
    "another code": ({"error-code": 0, "text": "no"}, 125, "nonsense"),
    "no text": ({"error-code": 127}, 125, "nonsense"),
    "no pid": ({"pid": 0}, 125, "nonsense"),
    "a pid that is none": ({"pid": 1 << 23}, 125, "nonsense"),
    "a text for a pid": ({"pid": "1"}, 125, "nonsense"),
    "nothing": (None, 125, "nonsense"),
    "a list": ([1], 125, "nonsense"),
}


@pytest.mark.parametrize(("value", "code", "text"), ANSWERS.values(), ids=ANSWERS)
@in_loop
async def test_not_started(value: object, code: int, text: str) -> None:
    with bench() as it:
        agent = await it.agent()
        task = it.begin()
        await agent.say(rpc.Result((await agent.hear_call()).id, value))
        with pytest.raises(StartError, match=text) as error:
            await task
        assert error.value.exit_code == code
        assert not it.runs._runs


@in_loop
async def test_error_of_the_agent_and_what_may_run_all_the_same() -> None:
    with bench() as it:
        agent = await it.agent()
        task = it.begin()
        await agent.say(rpc.Result((await agent.hear_call()).id, error=CommandError("never")))
        with pytest.raises(CommandError, match="never"):
            await task
        killing = await agent.hear_call()
        assert killing.command == "signal-command"
        assert killing.arguments == {"id": 1, "signal": 9}


@in_loop
async def test_no_agent() -> None:
    with bench() as it:
        read, write = os.pipe()
        with pytest.raises(NoAgentError):
            await it.begin(passed=Passed([write]))
        assert select.select([read], [], [], 10)[0]
        assert os.read(read, 1) == b""
        os.close(read)


@in_loop
async def test_agent_that_hangs() -> None:
    """What it starts in the end, it is to kill."""
    with bench() as it:
        clock = Clock()
        agent = await it.agent()
        task = it.begin()
        call = await agent.hear_call()
        clock.advance(31)
        with pytest.raises(CommandError, match="did not answer"):
            await task
        killing = await agent.hear_call()
        assert killing.arguments == {"id": call.arguments["id"], "signal": 9}
        await agent.say(rpc.Result(call.id, {"pid": 42}), rpc.Result(killing.id, {}))
        await agent.say(rpc.Notice(EXITED, {"id": 1, "code": 0, "signal": 9}))
        assert (await it.start(agent)).id == 2


@in_loop
async def test_start_that_nobody_waits_for() -> None:
    with bench() as it:
        agent = await it.agent()
        task = it.begin()
        await agent.hear_call()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await agent.hear_call()).arguments["signal"] == 9


@pytest.mark.parametrize("is_replaced", [True, False])
@in_loop
async def test_agent_that_goes_takes_all_along(*, is_replaced: bool) -> None:
    with bench() as it:
        agent = await it.agent()
        run = await it.start(agent)
        starting = it.begin()
        await agent.hear_call()
        if is_replaced:
            await it.agent()
        else:
            agent.sock.close()
        assert await run.ended == Ending(-1)
        with pytest.raises(CommandError, match=r"gone|replaced"):
            await starting
        with pytest.raises(CommandError, match="it has ended"):
            await it.runs.signal(run.id, 9)
        assert not it.runs._runs


@in_loop
async def test_next_agent_tells_nothing_of_what_was_before() -> None:
    with bench() as it:
        run = await it.start(await it.agent())
        agent = await it.agent()
        assert await run.ended == Ending(-1)
        other = await it.start(agent)
        await agent.say(rpc.Notice(EXITED, {"id": run.id, "code": 0, "signal": 0}))
        await agent.say(rpc.Notice(EXITED, {"id": other.id, "code": 4, "signal": 0}))
        assert await other.ended == Ending(4)


@in_loop
async def test_signal() -> None:
    with bench() as it:
        agent = await it.agent()
        run = await it.start(agent)
        loop = asyncio.get_running_loop()
        for value, error in ((rpc.Result(0, {}), None), (rpc.Result(0), CommandError("no"))):
            sending = loop.create_task(it.runs.signal(run.id, signal.SIGUSR1))
            call = await agent.hear_call()
            assert (call.command, call.arguments) == ("signal-command", {"id": 1, "signal": 10})
            await agent.say(rpc.Result(call.id, value.value, error))
            if error:
                with pytest.raises(CommandError, match="no"):
                    await sending
            else:
                await sending


@in_loop
async def test_end_is_by_hang_up_and_then_by_kill_until_it_is() -> None:
    with bench() as it:
        clock = Clock()
        agent = await it.agent()
        run = await it.start(agent)
        run.end()
        run.end()
        expected = [(0, 1), (2, 9), (4, 9), (8, 9), (16, 9), (32, 9), (64, 9), (64, 9)]
        for after, number in expected:
            clock.advance(after)
            call = await agent.hear_call()
            assert call.arguments == {"id": 1, "signal": number}
            await agent.say(rpc.Result(call.id, error=CommandError("busy")))
            await turns(5)
        await agent.say(rpc.Notice(EXITED, {"id": 1, "code": 0, "signal": 9}))
        await run.ended
        clock.advance(1000)
        asking = it.users.call(ME, "guest-ping", {})
        assert not asking.done()
        assert (await agent.hear_call()).command == "guest-ping", "and nothing before it"


@in_loop
async def test_so_many_at_one_time() -> None:
    most = MOST_OF_USER[Origin.LOCAL]
    with bench() as it:
        agent = await it.agent()
        runs = [await it.start(agent) for _ in range(most)]
        with pytest.raises(StartError, match=f"{most} commands of user '{ME}' run already"):
            await it.begin()
        await agent.say(rpc.Notice(EXITED, {"id": runs[7].id, "code": 0, "signal": 0}))
        await runs[7].ended
        await it.start(agent)


@in_loop
async def test_so_many_of_all_local_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LOCAL", 2)  # fewer than of one user, of whom there is one
    with bench() as it:
        agent = await it.agent()
        for _ in range(2):
            await it.start(agent)
        with pytest.raises(StartError, match="2 commands of local callers run already"):
            await it.begin()


@in_loop
async def test_long_words_are_kept_in_part() -> None:
    with bench() as it:
        agent = await it.agent()
        words = ["x" * 1000] * 10
        task = it.begin(*words)
        call = await agent.hear_call()
        assert call.arguments["argv"] == words
        await agent.say(rpc.Result(call.id, {"pid": 42}))
        run = await task
        assert len(run.argv) == 5
        assert run.argv[-1].endswith("...")
        assert sum(map(len, run.argv)) <= MAX_SHOWN + 3


@in_loop
async def test_no_word_gets_past_what_is_kept() -> None:
    with bench() as it:
        agent = await it.agent()
        run = await it.start(agent, "x" * MAX_SHOWN, "y" * MAX_SHOWN, "z")
        assert run.argv == ("x" * MAX_SHOWN, "...")
        run = await it.start(agent, *[""] * 10 * MAX_SHOWN)
        assert len(run.argv) == MAX_SHOWN + 1


@in_loop
async def test_what_runs_keeps_none_of_its_many_words() -> None:
    """They cost twenty times what they have cost their caller: each is an object."""
    with bench() as it:
        agent = await it.agent()
        last = "".join(["la", "st"])
        before = sys.getrefcount(last)
        run = await it.start(agent, "x" * MAX_SHOWN, "", last)
        assert not run.ended.done()
        assert sys.getrefcount(last) == before


@in_loop
async def test_journal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sessiond.users.audit")
    with bench() as it:
        agent = await it.agent()
        endings: list[dict[str, Any]] = [{"code": 3, "signal": 0}, {"signal": 15}, {}]
        for data in endings:
            run = await it.start(agent, "sh", "-c", "it's\n")
            await agent.say(rpc.Notice(EXITED, {"id": run.id, **data}))
            await run.ended
        task = it.begin("nope")
        await agent.say(
            rpc.Result((await agent.hear_call()).id, {"error-code": 127, "text": "secret"})
        )
        with pytest.raises(StartError):
            await task
        job = Job(Question(Origin.QREXEC, ME, "my.Clock"), ("my.Clock",), "serve-command", {})
        it.runs.refuse(job, "refused by the policy")
        await turns(3)
    said = [record.getMessage().rpartition(", ")[0] for record in caplog.records]
    words = """alice -> {}: run 'sh' ['-c' "it's\\n"], id {}: {}"""
    ends = ("exit code 3", "killed by signal 15", "lost")
    assert said == [
        *itertools.chain.from_iterable(
            (words.format(ME, at, "started, pid 42"), words.format(ME, at, end))
            for at, end in enumerate(ends, 1)
        ),
        f"alice -> {ME}: run 'nope' [], id 4: not started, 127",
        f"qrexec -> {ME}: run 'my.Clock' [], id 5: refused by the policy",
    ]
    assert caplog.records[0].__dict__["CALLER"] == "alice"
    assert "secret" not in caplog.text
