"""A qrexec agent whose daemon, whose users' agents and whose callers do what they should not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pwd
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

from sessiond.transport.vchan import Vchan
from sessiond.users import qrexec_callers, qrexec_commands, qrexec_control
from sessiond.users.audit import Audit
from sessiond.users.listener import take_listener
from sessiond.users.policy import Policy, parse
from sessiond.users.qrexec import Qrexec
from sessiond.users.runs import Runs
from sessiond.users.server import UserAgents
from sessiond.wire import rpc
from sessiond.wire.exec import (
    LOCAL_IDENT,
    Chunk,
    Connect,
    Exec,
    ExitCode,
    Hello,
    JustExec,
    OnControl,
    Place,
    Refuse,
    Stream,
    Terminated,
    Trigger,
    pack,
)
from sessiond.wire.exec_control import Control, ControlRole
from sessiond.wire.exec_data import Data, DataRole
from tests.fixtures.loop import Clock, Signal, in_loop, turns
from tests.sessiond.users.served import FakeAgent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from sessiond.model import UserAgent

ME: Final = pwd.getpwuid(os.getuid()).pw_name
CALL: Final = Trigger(b"test.Service", b"somewhere", LOCAL_IDENT)
RULES: Final = """
[[rule]]
caller = "qrexec"
service = "command"
user = "*"
allow = true
"""
GOODBYE: Final = [Chunk(Stream.STDOUT, b""), Chunk(Stream.STDERR, b"")]


class Daemon:
    """The host's daemon, which reads only when it is told to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.control = Control(ControlRole.DAEMON)
        self._heard: list[Hello | OnControl] = []

    async def say(self, *messages: OnControl) -> None:
        data = b"".join(map(self.control.send, messages))
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def greet(self, version: int = 4) -> Self:
        hello = self.control.send_hello(Hello(version))
        await asyncio.get_running_loop().sock_sendall(self.sock, hello)
        assert isinstance(await self.hear(), Hello)
        return self

    async def hear(self) -> Hello | OnControl:
        """Return the next message; EOFError at the end."""
        while not self._heard:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
            if not data:
                raise EOFError
            self._heard += self.control.receive(data)
        return self._heard.pop(0)


class Bench:
    """Domain 42, with everything around it in a folder."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        folder.chmod(0o755)
        self.folder = folder
        self.calls = folder / "calls"
        self.changed = Signal()
        self._tasks = set[asyncio.Task[None]]()
        self._socks = contextlib.ExitStack()
        self._agents = UserAgents(
            take_listener(f"{folder}/agent.sock", {}),
            self._on_change,
            lambda *_: None,
            lambda agent, notice: self._runs.on_exited(agent, notice.data),
            allow_root=True,
        )
        self._audit = Audit()
        self._runs = Runs(self._agents, self._audit)
        vchan = Vchan(42, folder)
        self._qrexec = Qrexec(
            vchan,
            str(self.calls),
            self._runs,
            self._audit,
            decide=policy.decide,
            spawn=self._spawn,
        )
        self._qrexec.start()

    def _on_change(self, before: UserAgent | None, _after: UserAgent | None) -> None:
        if before:
            self._runs.on_gone(before)
        self.changed.happened()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> object:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        self._qrexec.close()
        self._runs.close()
        self._agents.close()
        self._audit.close()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        self._socks.close()
        assert all(isinstance(it, asyncio.CancelledError) for it in ended), ended

    @property
    def is_blocked(self) -> bool:
        """Whether the daemon has more to read than it takes."""
        link = self._qrexec._link
        return link is not None and link._duplex.is_blocked

    async def connect(self, path: Path) -> socket.socket:
        """Return a connection, as soon as somebody listens there."""
        sock = self._socks.enter_context(socket.socket(socket.AF_UNIX))
        sock.setblocking(False)
        while sock.connect_ex(str(path)):
            await turns(1)
        return sock

    async def daemon(self, version: int = 4) -> Daemon:
        return await Daemon(await self.connect(self.folder / "vchan.42.0.512.sock")).greet(version)

    async def agent(self) -> FakeAgent:
        """Let an agent of ours be there."""
        agent = FakeAgent(f"{self.folder}/agent.sock")
        self._socks.enter_context(agent.sock)
        await self.changed.until(lambda: bool(self._agents.agents))
        return agent

    def serve(self, port: int) -> socket.socket:
        """Serve a data channel."""
        listener = self._socks.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(f"{self.folder}/vchan.43.42.{port}.sock")
        listener.listen(1)
        listener.setblocking(False)
        return listener

    async def accept(self, listener: socket.socket) -> socket.socket:
        sock, _ = await asyncio.get_running_loop().sock_accept(listener)
        return self._socks.enter_context(sock)


@contextlib.asynccontextmanager
async def bench(rules: str = RULES) -> AsyncIterator[Bench]:
    with tempfile.TemporaryDirectory() as folder:
        it = Bench(Path(folder), parse(rules, "rules"))
        try:
            yield it
        finally:
            await it.close()


async def hear_all(sock: socket.socket) -> list[object]:
    """Be a data channel's client; return what is said until its end."""
    loop, data, heard = asyncio.get_running_loop(), Data(DataRole.CLIENT), list[object]()
    await loop.sock_sendall(sock, data.send_hello())
    while received := await loop.sock_recv(sock, 1 << 16):
        heard += data.receive(received)
    sock.close()
    return heard


def command(port: int, text: str = "true", user: str = ME) -> Exec:
    return Exec(Place(43, port), f"{user}:{text}".encode())


# The daemon.


@in_loop
async def test_a_daemon_that_says_nothing_makes_room() -> None:
    async with bench() as it:
        clock = Clock()
        path = it.folder / "vchan.42.0.512.sock"
        silent = Daemon(await it.connect(path))
        assert isinstance(await silent.hear(), Hello)
        assert not path.exists(), "there is one at a time"
        clock.advance(qrexec_control.HELLO_TIMEOUT)
        with pytest.raises(EOFError):
            await silent.hear()
        clock.advance(1)  # the back-off
        await it.daemon()


@in_loop
async def test_a_daemon_that_reads_nothing_is_not_heard_and_holds_up_callers() -> None:
    async with bench() as it:
        daemon = await it.daemon()
        daemon.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        name = b"x" * 60_000
        loop = asyncio.get_running_loop()
        count = 40  # far more than any buffer takes
        callers = [await it.connect(it.calls) for _ in range(count)]
        for caller in callers:
            await loop.sock_sendall(caller, pack(Trigger(name, b"somewhere", LOCAL_IDENT)))
        while not it.is_blocked:  # the name is looked up in a thread
            await turns(1)
        listener = it.serve(1)
        await daemon.say(command(1))
        await turns(200)
        with pytest.raises(BlockingIOError):
            listener.accept()
        heard = [await daemon.hear() for _ in range(count)]
        await it.accept(listener)
        assert all(isinstance(call, Trigger) and call.service == name for call in heard)
        assert len({call.ident for call in heard if isinstance(call, Trigger)}) == count


@in_loop
async def test_a_call_that_does_not_fit_into_an_older_version_is_refused() -> None:
    async with bench() as it:
        daemon = await it.daemon(version=2)
        loop = asyncio.get_running_loop()
        long, short = await it.connect(it.calls), await it.connect(it.calls)
        await loop.sock_sendall(long, pack(Trigger(b"x" * 100, b"somewhere", LOCAL_IDENT)))
        assert await loop.sock_recv(long, 1) == b""
        await loop.sock_sendall(short, pack(CALL))
        call = await daemon.hear()
        assert isinstance(call, Trigger)
        assert call.service == b"test.Service"
        await daemon.say(Refuse(call.ident))
        assert await loop.sock_recv(short, 1) == b""


# Commands.


@in_loop
async def test_a_channel_that_nobody_serves_is_given_up() -> None:
    async with bench() as it:
        clock, daemon = Clock(), await it.daemon()
        await daemon.say(command(7), JustExec(Place(43, 8), b"not to be parsed"))
        await daemon.say(Refuse(b"SOCKET1"))  # which nobody waits for
        await turns(50)
        clock.advance(120)
        heard = {await daemon.hear(), await daemon.hear()}
        assert heard == {Terminated(Place(43, 7)), Terminated(Place(43, 8))}


@in_loop
async def test_too_many_that_are_not_begun_yet() -> None:
    async with bench() as it:
        daemon = await it.daemon()
        most, all_ = qrexec_commands.MAX_BEGINNING_EACH, qrexec_commands.MAX_BEGINNING
        await daemon.say(*(command(n, user="alice") for n in range(most + 1)))
        assert await daemon.hear() == Terminated(Place(43, most))
        await daemon.say(*(command(1000 + n, user="bob") for n in range(all_ - most + 1)))
        assert await daemon.hear() == Terminated(Place(43, 1000 + all_ - most))


@in_loop
async def test_those_that_have_ended_do_not_count() -> None:
    async with bench() as it:
        daemon = await it.daemon()
        for number in range(qrexec_commands.MAX_BEGINNING_EACH + 1):
            listener = it.serve(number)
            await daemon.say(command(number))
            assert ExitCode(125) in await hear_all(await it.accept(listener))
            assert await daemon.hear() == Terminated(Place(43, number))


@in_loop
async def test_what_the_host_says_forges_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with bench() as it:
        daemon = await it.daemon()
        for number, user in enumerate(("a\nforged", "b\udcff", "")):
            listener = it.serve(number)
            await daemon.say(Exec(Place(43, number), os.fsencode(f"{user}:c\nd")))
            assert ExitCode(125) in await hear_all(await it.accept(listener))
            assert await daemon.hear() == Terminated(Place(43, number))
    assert len(caplog.messages) > 6
    assert all(line.isprintable() for line in caplog.messages)


async def handed_over(it: Bench, agent: FakeAgent, listener: socket.socket) -> tuple[int, socket.socket]:  # fmt: skip  # noqa: E501
    """Return the id of the call by which the agent is asked, and the data channel's other end."""
    sock = await it.accept(listener)
    call = await agent.hear_call()
    assert (call.command, call.fds) == ("serve-command", 1)
    return call.id, sock


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"return": {"error-code": 125, "text": "no"}}, 125),
        ({"return": {"error-code": 127, "text": "no"}}, 127),
        ({"return": {"error-code": 0, "text": "no"}}, 125),
        ({"return": []}, 125),
        ({"error": {"class": "CommandNotFound", "desc": "what?"}}, 125),
    ],
)
@in_loop
async def test_an_agent_that_begins_nothing(answer: dict[str, object], code: int) -> None:
    async with bench() as it:
        daemon, agent, listener = await it.daemon(), await it.agent(), it.serve(7)
        await daemon.say(command(7))
        number, sock = await handed_over(it, agent, listener)
        await agent.say(json.dumps({**answer, "id": number}).encode() + b"\n")
        assert await hear_all(sock) == [Hello(), *GOODBYE, ExitCode(code)]
        assert await daemon.hear() == Terminated(Place(43, 7))


@in_loop
async def test_an_agent_that_does_not_answer_may_have_spoken_on_the_channel() -> None:
    async with bench() as it:
        clock, daemon, agent, listener = Clock(), await it.daemon(), await it.agent(), it.serve(7)
        await daemon.say(command(7))
        _, sock = await handed_over(it, agent, listener)
        clock.advance(30)
        assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        assert await daemon.hear() == Terminated(Place(43, 7))
        call = await agent.hear_call()
        assert (call.command, call.arguments["signal"]) == ("signal-command", 9)


@in_loop
async def test_an_agent_that_goes_ends_what_it_runs() -> None:
    async with bench() as it:
        daemon, agent = await it.daemon(), await it.agent()
        begun, asked = it.serve(7), it.serve(8)
        await daemon.say(command(7))
        number, _ = await handed_over(it, agent, begun)
        await agent.say(rpc.Result(number, {"pid": 4711}))
        await daemon.say(command(8))
        _, sock = await handed_over(it, agent, asked)
        agent.sock.close()
        assert {await daemon.hear(), await daemon.hear()} == {
            Terminated(Place(43, 7)),
            Terminated(Place(43, 8)),
        }
        assert not sock.recv(1)


@in_loop
async def test_an_agent_is_asked_for_a_few_at_a_time() -> None:
    async with bench() as it:
        daemon, agent = await it.daemon(), await it.agent()
        count = qrexec_commands.AT_ONCE
        listeners = [it.serve(n) for n in range(count + 1)]
        await daemon.say(*(command(n) for n in range(count + 1)))
        socks = [await it.accept(listener) for listener in listeners]
        calls = [await agent.hear_call() for _ in range(count)]
        await turns(50)
        with pytest.raises(BlockingIOError):
            agent.sock.recv(1)
        await agent.say(rpc.Result(calls[0].id, {"pid": 4711}))
        assert (await agent.hear_call()).command == "serve-command"
        await turns(50)
        with pytest.raises(BlockingIOError):
            daemon.sock.recv(1)
        await agent.say(rpc.Notice("COMMAND_EXITED", {"id": calls[0].arguments["id"], "code": 0, "signal": 0}))  # fmt: skip  # noqa: E501
        assert await daemon.hear() == Terminated(Place(43, calls[0].arguments["port"]))
        assert len(socks) == count + 1


# Callers.


@in_loop
async def test_a_caller_that_says_nothing_is_hung_up_on_and_one_that_waits_is_not() -> None:
    async with bench() as it:
        clock, daemon, loop = Clock(), await it.daemon(), asyncio.get_running_loop()
        silent, waiting = await it.connect(it.calls), await it.connect(it.calls)
        await loop.sock_sendall(waiting, pack(CALL))
        call = await daemon.hear()
        assert isinstance(call, Trigger)
        clock.advance(qrexec_callers.SAID_WITHIN)
        assert await loop.sock_recv(silent, 1) == b""
        await daemon.say(Connect(Place(43, 9), call.ident))
        assert len(await loop.sock_recv(waiting, 100)) == 8
        waiting.close()
        assert await daemon.hear() == Terminated(Place(43, 9))


@in_loop
async def test_a_user_has_so_many_calls_at_a_time() -> None:
    async with bench() as it:
        daemon, loop = await it.daemon(), asyncio.get_running_loop()
        most = qrexec_callers.MAX_CALLERS_EACH
        socks = [await it.connect(it.calls) for _ in range(most + 1)]
        assert await loop.sock_recv(socks[-1], 1) == b""
        await loop.sock_sendall(socks[0], pack(CALL))
        call = await daemon.hear()
        assert isinstance(call, Trigger)
        await daemon.say(Refuse(call.ident))
        assert await loop.sock_recv(socks[0], 1) == b""
        await loop.sock_sendall(await it.connect(it.calls), pack(CALL))
        assert isinstance(await daemon.hear(), Trigger)


@in_loop
async def test_nobody_calls_without_a_daemon() -> None:
    async with bench() as it:
        loop, daemon = asyncio.get_running_loop(), await it.daemon()
        sock = await it.connect(it.calls)
        await loop.sock_sendall(sock, pack(CALL))
        await daemon.hear()
        daemon.sock.close()
        assert await loop.sock_recv(sock, 1) == b""
        assert not it.calls.exists()
        await it.daemon()
        await it.connect(it.calls)
