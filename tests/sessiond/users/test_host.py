"""The host channel, as a host sees it."""

import asyncio
import base64
import json
import os
import pty
import random
import socket
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond.errors import SessiondError
from sessiond.model import Event
from sessiond.transport import backoff, opener
from sessiond.transport.fds import OwnedFd
from sessiond.transport.port import OpenPort
from sessiond.users import asks, conversation
from sessiond.users.conversation import MAX_IN_WORK, MAX_UNSENT
from sessiond.wire import rpc
from sessiond.wire.qga import USERNAME
from tests.fixtures.loop import Signal, in_loop, turns
from tests.sessiond.users.hosting import ME, Agent, Client, World, facts, session, world

PING = b'{"execute":"guest-ping"}\n'
SYNC_TX = bytes.fromhex(
    "ff7b2265786563757465223a2267756573742d73796e632d64656c696d69746564222c22617267756d656e747322"
    "3a7b226964223a313233347d7d0a"
)
"""qga.sync_tx and .sync_rx of the sheet."""
SYNC_RX = bytes.fromhex("ff7b2272657475726e223a20313233347d0a")

NOT_FOUND = (
    b'{"error": {"class": "CommandNotFound", '
    b'"desc": "The command guest-nope has not been found"}}\n'
)
NO_AGENT = b"""{"error": {"class": "GenericError", "desc": "no agent connected for user 'alice'"}"""
GOLDEN = [
    (PING, b'{"return": {}}\n'),
    (b'{"execute":"guest-ping","id":"abc"}', b'{"return": {}, "id": "abc"}\n'),
    (b'{"execute":"guest-nope"}\n', NOT_FOUND),
    (
        b'{"execute":"virtagent-query-displays","x-virtagent-username":"alice","id":4}\n',
        NO_AGENT + b', "id": 4, "x-virtagent-username": "alice"}\n',
    ),
    (
        b'{"execute":"virtagent-call","arguments":{"username":"alice","execute":"guest-ping"}}\n',
        NO_AGENT + b"}\n",
    ),
    (b'{"execute":"guest-sync","arguments":{"id":-5}}\n', b'{"return": -5}\n'),
    (SYNC_TX[1:], SYNC_RX),
]


def for_me(command: str, **arguments: object) -> dict[str, object]:
    """Return a request of form 1."""
    return {"execute": command, "arguments": arguments, USERNAME: ME}


def wrapped(command: str, **arguments: object) -> dict[str, object]:
    """Return a request of form 2."""
    inner = {"username": ME, "execute": command, "arguments": arguments}
    return {"execute": "virtagent-call", "arguments": inner}


async def read_until_end(client: Client) -> bytes:
    return await client.reader.read()


# The wire.


@pytest.mark.parametrize(("request_", "answer"), GOLDEN)
@pytest.mark.parametrize("feed", ["whole", "bytes", "tail"])
@in_loop
async def test_golden(tmp_path: Path, request_: bytes, answer: bytes, feed: str) -> None:
    async with world(tmp_path) as it, await it.client() as client:
        if feed == "bytes":
            for byte in request_:
                client.send(bytes([byte]))
                await client.writer.drain()
                await turns(2)
        else:
            client.send(request_ + (b'{"execute":' if feed == "tail" else b""))
        assert await client.line() == answer
        if feed == "tail":
            client.send(b'"guest-ping"}')
            assert await client.line() == b'{"return": {}}\n'


@in_loop
async def test_sentinel_is_one_error_and_then_the_answer(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.client() as client:
        client.send(b'{"execute":"guest-' + SYNC_TX)
        assert "error" in await client.read()
        assert await client.line() == SYNC_RX


@in_loop
async def test_many_on_one_line_are_answered_in_order(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.client() as client:
        count = 5000  # more than are begun in one turn, or parsed at once
        client.send(b"".join(
            b'{"execute":"guest-sync","arguments":{"id":%d}}' % number for number in range(count)
        ))  # fmt: skip
        for number in range(count):
            assert await client.read() == {"return": number}


# Through an agent.


@in_loop
async def test_agent_is_asked_by_the_member(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        client.send({**for_me("guest-exec", path="id"), "id": ["mine"]})
        call = await agent.answer({"pid": 7})
        assert (call.command, call.arguments) == ("guest-exec", {"path": "id"})
        assert await client.read() == {"return": {"pid": 7}, "id": ["mine"], USERNAME: ME}


@in_loop
async def test_agent_is_asked_by_the_wrapper(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        client.send(wrapped("guest-exec", path="id"))
        call = await agent.answer({"pid": 7})
        assert (call.command, call.arguments) == ("guest-exec", {"path": "id"})
        assert await client.read() == {"return": {"pid": 7}}


@in_loop
async def test_agents_error_is_the_answer(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        client.send(wrapped("guest-nope"))
        call = await agent.call()
        agent.writer.write(json.dumps(
            {"error": {"class": "CommandNotFound", "desc": "no"}, "id": call.id}
        ).encode() + b"\n")  # fmt: skip
        assert await client.read() == {"error": {"class": "CommandNotFound", "desc": "no"}}


@in_loop
async def test_agent_that_goes_ends_its_calls(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        client.send(wrapped("guest-ping"))
        client.send(for_me("guest-ping"))
        await agent.call()
        await agent.close()
        gone = {"class": "GenericError", "desc": f"agent of user '{ME}' has gone"}
        assert await client.read() == {"error": gone}
        second = await client.read()  # begun when the first was done
        assert second["error"]["desc"] == f"no agent connected for user '{ME}'"
        assert second[USERNAME] == ME


@in_loop
async def test_exec_without_a_user_is_disabled(tmp_path: Path) -> None:
    async with world(tmp_path, allow_root=False) as it, await it.client() as client:
        for command in ("guest-exec", "guest-exec-status"):
            cls, text = await client.error(command, path="id")
            assert cls == "CommandNotFound"
            assert text.startswith(f"Command {command} has been disabled")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be root's agent")
@in_loop
async def test_exec_without_a_user_is_done_by_roots_agent(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        client.send({"execute": "guest-exec", "arguments": {"path": "id"}})
        await agent.answer({"pid": 7})
        assert await client.read() == {"return": {"pid": 7}}


@in_loop
async def test_large_answer_arrives_whole(tmp_path: Path) -> None:
    text = base64.b64encode(os.urandom(4 << 20)).decode()
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        client.send(wrapped("guest-exec-status", pid=1))
        client.send({"execute": "guest-ping", "id": 1})
        await agent.answer({"out-data": text})
        answers = [await client.read(), await client.read()]
        assert {"return": {}, "id": 1} in answers
        assert {"return": {"out-data": text}} in answers


@in_loop
async def test_answer_that_breaks_the_hosts_limit_is_an_error(tmp_path: Path) -> None:
    # Six bytes for each of two: libvirt hangs up at a line of over 10 MiB.
    line = b'{"return": "%s", "id": %%d}\n' % ("\xe9" * (2 << 20)).encode()
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        client.send(wrapped("guest-exec-status"))
        agent.writer.write(line % (await agent.call()).id)
        answer = await client.read()
        assert answer == {"error": {"class": "GenericError", "desc": "the answer is too long"}}
        assert await client.value("guest-ping") == {}


@pytest.mark.parametrize("command", ["", "x" * 256])
@in_loop
async def test_agent_is_asked_nothing_that_it_would_hang_up_at(
    tmp_path: Path, command: str
) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        client.send(for_me(command))
        client.send(wrapped(command))
        client.send(wrapped("guest-ping"))
        for _ in range(2):
            assert (await client.read())["error"]["class"] == "CommandNotFound"
        assert (await agent.answer({})).command == "guest-ping"


# Order.


@in_loop
async def test_without_ids_one_after_the_other(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        client.send(wrapped("first"))
        client.send(wrapped("second"))
        client.send(PING)
        client.send({"execute": "guest-ping", "id": 1})
        assert await client.read() == {"return": {}, "id": 1}  # waits for nobody
        first = await agent.call()
        assert first.command == "first"
        agent.send(rpc.Notice("NOTHING"))  # which would be behind a second call
        await it.signal.until(lambda: True)
        agent.send(rpc.Result(first.id, 1))
        assert (await agent.answer(2)).command == "second"
        assert [await client.read() for _ in range(3)] == [
            {"return": 1}, {"return": 2}, {"return": {}},
        ]  # fmt: skip


@in_loop
async def test_with_ids_when_they_are_done(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        for number in range(3):
            client.send({**wrapped("any"), "id": number})
        calls = [await agent.call() for _ in range(3)]
        for call in reversed(calls):
            agent.send(rpc.Result(call.id, {}))
        assert [(await client.read())["id"] for _ in range(3)] == [2, 1, 0]


@in_loop
async def test_error_of_the_reader_keeps_its_place(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        client.send(wrapped("slow"))
        client.send(b"nonsense\n")
        client.send(PING)
        await agent.answer("slow")
        assert await client.read() == {"return": "slow"}
        assert "error" in await client.read()
        assert await client.read() == {"return": {}}


@settings(max_examples=40, deadline=None)
@given(kinds=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30), seed=st.integers())
def test_any_mix_is_answered_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[bool, bool]], seed: int
) -> None:
    chooser = random.Random(seed)

    @in_loop
    async def run() -> None:
        folder = tmp_path_factory.mktemp("mix")
        async with world(folder) as it, await it.agent() as agent, await it.client() as client:
            for number, (has_id, is_ours) in enumerate(kinds):
                request = (
                    {"execute": "guest-sync", "arguments": {"id": number}}
                    if is_ours
                    else wrapped("echo", number=number)
                )
                client.send({**request, "id": number} if has_id else request)

            open_ = list[rpc.Call]()
            came = Signal()

            async def hear() -> None:
                while True:
                    open_.append(await agent.call())
                    came.happened()

            async def answer() -> None:
                while True:
                    await came.until(lambda: bool(open_))
                    await turns(chooser.randrange(20))
                    call = open_.pop(chooser.randrange(len(open_)))
                    agent.send(rpc.Result(call.id, call.arguments["number"]))

            loop = asyncio.get_running_loop()
            working = [loop.create_task(it) for it in (hear(), answer())]
            answers = [await client.read() for _ in kinds]
            for task in working:
                task.cancel()
            assert all(it.get("id", it["return"]) == it["return"] for it in answers)
            by_id = {it["id"] for it in answers if "id" in it}
            assert by_id == {number for number, (has_id, _) in enumerate(kinds) if has_id}
            others = [it["return"] for it in answers if "id" not in it]
            assert others == [number for number, (has_id, _) in enumerate(kinds) if not has_id]

    run()


# Hosts that go.


@in_loop
async def test_cut_at_every_byte(tmp_path: Path) -> None:
    request = b'{"execute":"guest-sync","arguments":{"id":7}, "id": "\xc3\xa9"}\n'
    async with world(tmp_path) as it:
        for end in range(len(request) + 1):
            async with await it.client() as client:
                client.send(request[:end])
            async with await it.client() as client:
                client.send(request)
                assert await client.read() == {"return": 7, "id": "é"}


@in_loop
async def test_host_that_goes_is_not_answered_later(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent:
        async with await it.client() as client:
            client.send({**wrapped("slow"), "id": 1})
            client.send(wrapped("slow"))
            calls = [await agent.call() for _ in range(2)]
        async with await it.client() as client:
            client.send(PING)
            assert await client.read() == {"return": {}}
            for call in calls:
                agent.send(rpc.Result(call.id, {}))
            assert await client.ask("guest-sync", id=1) == {"return": 1}
            client.send(wrapped("mine"))
            assert (await agent.answer("mine")).command == "mine"
            assert await client.read() == {"return": "mine"}


@pytest.mark.parametrize("sent", range(5))
@in_loop
async def test_hang_up_at_every_boundary(tmp_path: Path, sent: int) -> None:
    requests: list[dict[str, object]] = [{"execute": "virtagent-set-capabilities",
                 "arguments": {"events": True, "requests": True}},
                {"execute": "guest-ping", "id": 1}, wrapped("a"), {**wrapped("b"), "id": 2},
                wrapped("c")]  # fmt: skip
    async with world(tmp_path) as it, await it.agent() as agent:
        async with await it.client() as client:
            for request in requests[: sent + 1]:
                client.send(request)
            if sent == 0:
                await client.read()
        async with await it.client() as client:
            on = await client.value("virtagent-set-capabilities")
            assert on == {"events": False, "requests": False}
            assert await client.value("guest-ping") == {}
            agent.send(rpc.Call("anybody", {}, 9))
            while not isinstance(message := await agent.read(), rpc.Result):
                agent.send(rpc.Result(message.id, {}))  # type: ignore[union-attr]
            assert message.id == 9
            assert message.error


@in_loop
async def test_half_closed_host_is_answered_and_then_let_go(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent:
        first, second = await it.client(), await it.client()
        first.send(wrapped("slow") | {"id": 1})
        first.send(wrapped("slow"))
        first.send(wrapped("last"))
        first.writer.write_eof()
        second.send(PING)
        calls = [await agent.call() for _ in range(2)]
        for call in calls:
            agent.send(rpc.Result(call.id, 1))
        await agent.answer(2)
        answers = [json.loads(line) for line in (await read_until_end(first)).splitlines()]
        assert {"return": 1, "id": 1} in answers
        assert [it for it in answers if "id" not in it] == [{"return": 1}, {"return": 2}]
        assert await second.read() == {"return": {}}
        await first.close()
        await second.close()


@in_loop
async def test_half_closed_host_that_goes_after_all_makes_room(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent:
        first, second = await it.client(), await it.client()
        first.send(wrapped("for ever"))
        first.writer.write_eof()
        await agent.call()
        second.send(PING)
        await first.close()
        assert await second.read() == {"return": {}}
        await second.close()


@in_loop
async def test_second_host_waits_for_the_end_of_the_first(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        first, second = await it.client(), await it.client()
        second.send(b'{"execute":"guest-ping","id":"second"}')
        await second.writer.drain()
        for number in range(20):
            assert await first.value("guest-sync", id=number) == number
        answer = asyncio.get_running_loop().create_task(second.read())
        await turns(10)
        assert not answer.done()
        await first.close()
        assert await answer == {"return": {}, "id": "second"}
        await second.close()


# Limits.


class SilentHost:
    """Writes as long as that is taken, and reads nothing by itself."""

    def __init__(self, it: World) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(it.path)
        self._sock.setblocking(False)
        self._answers = b""
        self._rest: asyncio.Task[None] | None = None

    async def flood(self, request: bytes) -> int:
        """Write requests until nobody takes any more; return how many, all of them whole."""
        sent = quiet = 0
        while quiet < 200:
            assert sent < 16 << 20, "somebody takes everything"
            try:
                sent += self._sock.send(request[sent % len(request) :])
                quiet = 0
            except BlockingIOError:
                quiet += 1
            await turns(1)
        if rest := sent % len(request):
            # Whole ones alone can be counted; this waits for room, so it is not waited for.
            self._rest = self._loop.create_task(self.write(request[rest:]))
        return -(-sent // len(request))

    async def write(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._sock, data)

    async def read(self, count: int) -> list[bytes]:
        """Return so many lines, and not one more."""
        while self._answers.count(b"\n") < count:
            self._answers += await self._loop.sock_recv(self._sock, 1 << 20)
        lines, self._answers = self._answers.splitlines(), b""
        assert len(lines) == count
        return lines

    def close(self) -> None:
        if self._rest:
            self._rest.cancel()
        self._sock.close()


@in_loop
async def test_host_that_does_not_read_is_not_read(tmp_path: Path) -> None:
    """Its requests stay with it while what it was answered does; then all goes on."""
    async with world(tmp_path) as it:
        host = SilentHost(it)
        # Answers are longer than requests, so that they pile up here and not on the way.
        count = await host.flood(b'{"execute":"guest-get-osinfo"}\n')
        talk = it.host._talk
        assert talk
        assert MAX_UNSENT <= len(talk._unsent) < 2 * MAX_UNSENT
        assert len(talk._unread) <= 1 << 20
        assert talk._next_turn is None  # and nothing is done until it reads
        assert len(set(await host.read(count))) == 1
        await host.write(b'{"execute":"guest-sync","arguments":{"id":5}}')
        assert await host.read(1) == [b'{"return": 5}']
        host.close()


@in_loop
async def test_long_answers_are_not_made_ahead(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.events = [Event(1.0, replace(it.status, text="x" * 100_000))]
        host = SilentHost(it)
        await host.write(b'{"execute":"virtagent-get-history"}' * 60)
        while not (talk := it.host._talk) or len(talk._unsent) < MAX_UNSENT:
            await turns(1)
        await turns(20)
        assert len(talk._unsent) < MAX_UNSENT + 101_000
        assert len(await host.read(60)) == 60
        host.close()


@in_loop
async def test_host_that_does_not_read_may_still_go(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        host = SilentHost(it)
        await host.flood(b'{"execute":"guest-get-osinfo"}')
        host.close()
        async with await it.client() as client:
            assert await client.value("guest-ping") == {}


@in_loop
async def test_host_with_too_much_in_work_is_not_read(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.facts = facts(session("1"))
        it.may_activate.clear()
        host = SilentHost(it)
        for _ in range(MAX_IN_WORK):
            await host.write(
                b'{"execute":"virtagent-activate-session","arguments":{"session":"1"},"id":1}\n'
            )
        count = await host.flood(b'{"execute":"guest-ping","id":1}')
        assert len(it.activated) == MAX_IN_WORK
        it.may_activate.set()
        await host.read(MAX_IN_WORK + count)
        host.close()


@in_loop
async def test_so_many_in_work_and_no_more(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.client() as client:
        it.facts = facts(session("1"))
        it.may_activate.clear()
        count = MAX_IN_WORK + 50
        for number in range(count):
            client.send({"execute": "virtagent-activate-session", "arguments": {"session": "1"},
                         "id": number})  # fmt: skip
        await it.signal.until(lambda: len(it.activated) >= MAX_IN_WORK)
        await turns(50)
        assert len(it.activated) == MAX_IN_WORK
        it.may_activate.set()
        assert {(await client.read())["id"] for _ in range(count)} == set(range(count))


@in_loop
async def test_work_of_a_host_that_has_gone_counts(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.facts = facts(session("1"))
        it.may_activate.clear()
        order = {"execute": "virtagent-activate-session", "arguments": {"session": "1"}}
        async with await it.client() as client:
            for number in range(MAX_IN_WORK):
                client.send({**order, "id": number})
            await it.signal.until(lambda: len(it.activated) == MAX_IN_WORK)
        async with await it.client() as client:
            client.send({"execute": "guest-ping", "id": 1})
            answer = asyncio.get_running_loop().create_task(client.read())
            await turns(20)
            assert not answer.done()
            it.may_activate.set()
            assert await answer == {"return": {}, "id": 1}


@in_loop
async def test_answers_beyond_all_measure_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "MAX_KEPT", 1000)
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        client.send(wrapped("long"))
        await agent.answer("x" * 2000)
        assert "dropped" in (await client.read())["error"]["desc"]


# Events.


@in_loop
async def test_events_are_told_while_they_are_on(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.client() as client:
        on = await client.value("virtagent-set-capabilities")
        assert on == {"events": False, "requests": False}
        it.host.tell("VIRTAGENT_LOST", {})
        on = await client.value("virtagent-set-capabilities", events=True)
        assert on == {"events": True, "requests": False}
        it.host.tell("VIRTAGENT_TOLD", {"number": 1}, "alice")
        it.host.tell("VIRTAGENT_TOLD", {"number": 2})
        first, second = await client.read(), await client.read()
        assert (first["event"], first["data"], first[USERNAME]) == (
            "VIRTAGENT_TOLD", {"number": 1}, "alice",
        )  # fmt: skip
        assert set(first["timestamp"]) == {"seconds", "microseconds"}
        assert second["data"] == {"number": 2}
        assert USERNAME not in second
        await client.value("virtagent-set-capabilities", events=False)
        it.host.tell("VIRTAGENT_LOST", {})
        assert await client.value("guest-ping") == {}
    it.host.tell("VIRTAGENT_LOST", {})  # to nobody


@pytest.mark.parametrize("command", ["guest-sync", "guest-sync-delimited"])
@in_loop
async def test_sync_switches_off_what_a_host_before_has_left_on(
    tmp_path: Path, command: str
) -> None:
    async with world(tmp_path) as it, await it.client() as client:
        both = {"events": True, "requests": True}
        assert await client.value("virtagent-set-capabilities", **both) == both
        assert "error" in await client.ask(command, id="7")
        assert await client.value("virtagent-set-capabilities") == both
        client.send({"execute": command, "arguments": {"id": 7}})
        assert (await client.line()).removeprefix(b"\xff") == b'{"return": 7}\n'
        off = {"events": False, "requests": False}
        assert await client.value("virtagent-set-capabilities") == off


@in_loop
async def test_capabilities_are_flags(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.client() as client:
        assert await client.error("virtagent-set-capabilities", events=1) == (
            "GenericError", "Invalid parameter type for 'events', expected: boolean",
        )  # fmt: skip


@in_loop
async def test_events_that_are_not_read_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path) as it, await it.client() as client:
        await client.value("virtagent-set-capabilities", events=True)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while not it.host._lost._suppressed:
            it.host.tell("VIRTAGENT_TOLD", {"text": "x" * 50_000})
        talk = it.host._talk
        assert talk
        assert len(talk._unsent) < MAX_UNSENT + 100_000
    assert "1 events were not told" in caplog.text


# Requests to the host.


async def switch_on(client: Client) -> None:
    await client.value("virtagent-set-capabilities", requests=True)


async def asked(agent: Agent, client: Client, number: int = 5) -> dict[str, Any]:
    """Return what the host sees of an agent's request."""
    agent.send(rpc.Call("host-notify", {"text": "hello"}, number))
    return await client.read()


@in_loop
async def test_requests_are_refused_until_the_host_wants_them(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent:
        agent.send(rpc.Call("host-notify", {}, 1))
        result = await agent.read()
        assert isinstance(result, rpc.Result)
        assert str(result.error) == "the host takes no requests"
        async with await it.client() as client:
            assert await client.value("guest-ping") == {}
            agent.send(rpc.Call("host-notify", {}, 2))
            result = await agent.read()
            assert isinstance(result, rpc.Result)
            assert result.id == 2
            assert result.error


@in_loop
async def test_request_goes_to_the_host_and_its_answer_back(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        await switch_on(client)
        request = await asked(agent, client)
        key = request.pop("id")
        assert request == {
            "execute": "host-notify", "arguments": {"text": "hello"}, USERNAME: ME,
        }  # fmt: skip
        assert isinstance(key, str)
        client.send({"return": {"seen": True}, "id": key, USERNAME: ME})
        assert await agent.read() == rpc.Result(5, {"seen": True})
        other = await asked(agent, client, 6)
        assert other["id"] != key
        client.send({"error": {"class": "GenericError", "desc": "no"}, "id": other["id"]})
        result = await agent.read()
        assert isinstance(result, rpc.Result)
        assert (result.id, str(result.error)) == (6, "no")


@in_loop
async def test_answers_that_nobody_waits_for_are_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        await switch_on(client)
        request = await asked(agent, client)
        for key in ("nobody", 5, None, [request["id"]]):
            client.send({"return": 1, "id": key})
        client.send({"return": 1})
        client.send({"return": 2, "id": request["id"]})
        client.send({"return": 3, "id": request["id"]})
        assert await agent.read() == rpc.Result(5, 2)
        assert await client.value("guest-ping") == {}  # and is not answered
    assert caplog.text.count("nobody waits for it") == 6


@in_loop
async def test_answer_for_another_user_is_an_error(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        await switch_on(client)
        request = await asked(agent, client)
        client.send({"return": 1, "id": request["id"], USERNAME: f"not-{ME}"})
        result = await agent.read()
        assert isinstance(result, rpc.Result)
        assert str(result.error) == "the host's answer is for another user"


@in_loop
async def test_answer_for_an_agent_that_has_gone_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with world(tmp_path) as it, await it.client() as client:
        await switch_on(client)
        old = await it.agent()
        request = await asked(old, client)
        new = await it.agent()
        client.send({"return": 1, "id": request["id"], USERNAME: ME})
        assert await client.value("guest-ping") == {}
        client.send(wrapped("guest-ping"))
        assert isinstance(await new.read(), rpc.Call)  # first and only
        assert f"{ME} -> host: host-notify, id 5: dropped" in caplog.text
        await old.close()
        await new.close()


@in_loop
async def test_host_that_goes_answers_nobody(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent:
        async with await it.client() as client:
            await switch_on(client)
            request = await asked(agent, client)
        result = await agent.read()
        assert isinstance(result, rpc.Result)
        assert str(result.error) == "the host has gone"
        async with await it.client() as client:
            client.send({"return": 1, "id": request["id"]})
            assert await client.value("guest-ping") == {}


@in_loop
async def test_host_has_a_limited_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asks, "ANSWER_WITHIN", 0)
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        await switch_on(client)
        request = await asked(agent, client)
        result = await agent.read()
        assert isinstance(result, rpc.Result)
        assert str(result.error) == "the host did not answer within 0 s"
        client.send({"return": 1, "id": request["id"]})
        assert await client.value("guest-ping") == {}


@in_loop
async def test_request_is_not_longer_than_one_of_the_hosts_may_be(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        await switch_on(client)
        # Each of these is 2 bytes here, and 6 there.
        line = '{"execute": "host-notify", "arguments": {"text": "%s"}, "id": 1}\n'
        agent.writer.write((line % ("é" * 200_000)).encode())
        result = await agent.read()
        assert isinstance(result, rpc.Result)
        assert "over 1048576 bytes" in str(result.error)
        assert await client.value("guest-ping") == {}


# Places.


@in_loop
async def test_socket_is_roots_alone_and_replaces_a_stale_one(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "host.sock"))
    stale.close()
    async with world(tmp_path) as it, await it.client() as client:
        assert stat.S_IMODE(os.stat(it.path).st_mode) == 0o600
        assert await client.value("guest-ping") == {}


@in_loop
async def test_socket_of_another_is_left_alone(tmp_path: Path) -> None:
    async with world(tmp_path) as first:
        (tmp_path / "other").mkdir(mode=0o700)
        async with world(tmp_path / "other", place=f"unix:{first.path}", starts=False) as second:
            with pytest.raises(SessiondError, match="in use"):
                second.host.start()
        async with await first.client() as client:
            assert await client.value("guest-ping") == {}


async def accepted(listener: socket.socket) -> Client:
    sock, _ = await asyncio.get_running_loop().sock_accept(listener)
    return Client(*await asyncio.open_unix_connection(sock=sock))


def listening(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.setblocking(False)
    return listener


class _Ports(list[OpenPort]):
    def pop(self, _path: object = None) -> OpenPort:
        assert self, "it was opened once more"
        return super().pop()


def virtio_port() -> tuple[_Ports, socket.socket]:
    """Give what behaves as one: where its host is gone an end is read, and then what the next says.

    Of a socket that keeps messages apart that end is an empty one.
    """
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    for sock in (ours, theirs):
        sock.setblocking(False)
    port = OpenPort(OwnedFd(ours.detach()), "/dev/port", waits_for_host=True)
    return _Ports([port]), theirs


async def heard(sock: socket.socket) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, 4096)


@in_loop
async def test_port_is_opened_when_it_comes(tmp_path: Path) -> None:
    async with world(tmp_path, place=str(tmp_path / "ports" / "port")):
        await turns(5)
        (tmp_path / "ports").mkdir()
        await turns(5)
        # By another name first: a socket that does not listen yet refuses, and that takes a while.
        with listening(tmp_path / "port") as listener:
            (tmp_path / "port").rename(tmp_path / "ports" / "port")
            async with await accepted(listener) as client:
                assert await client.value("guest-ping") == {}


@in_loop
async def test_port_is_opened_again_after_each_host(tmp_path: Path) -> None:
    with listening(tmp_path / "port") as listener:
        async with world(tmp_path, place=str(tmp_path / "port")):
            for end in range(len(PING)):
                async with await accepted(listener) as client:
                    client.send(PING)
                    assert await client.read() == {"return": {}}
                    client.send(PING[:end])


@in_loop
async def test_port_whose_host_says_nothing_is_opened_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = list[float]()

    def delay(_: backoff.Backoff) -> float:
        waits.append(0.0)
        return 0.0

    monkeypatch.setattr(backoff.Backoff, "delay", delay)
    with listening(tmp_path / "port") as listener:
        async with world(tmp_path, place=str(tmp_path / "port")):
            for count in range(3):
                client = await accepted(listener)
                assert len(waits) == count
                await client.close()
            await (await accepted(listener)).close()


@in_loop
async def test_virtio_port_is_kept_open_from_host_to_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = virtio_port()
    monkeypatch.setattr(opener, "open_port", ours.pop)
    with theirs:
        async with world(tmp_path, place="/dev/port"):
            for end in range(1, len(PING)):
                theirs.send(PING)
                assert await heard(theirs) == b'{"return": {}}\n'
                theirs.send(PING[:end])
                theirs.send(b"")  # the host goes, and the next one is there at once


@in_loop
async def test_virtio_port_whose_host_goes_with_a_call_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = virtio_port()
    monkeypatch.setattr(opener, "open_port", ours.pop)
    with theirs:
        async with world(tmp_path, place="/dev/port") as it, await it.agent() as agent:
            theirs.send(json.dumps(wrapped("slow")).encode() + b'{"execute": "guest-')
            call = await agent.call()
            theirs.send(b"")
            theirs.send(PING)
            assert await heard(theirs) == b'{"return": {}}\n'
            agent.send(rpc.Result(call.id, {}))
            theirs.send(json.dumps(wrapped("quick")).encode())
            await agent.answer(1)
            assert await heard(theirs) == b'{"return": 1}\n'


@in_loop
async def test_virtio_port_that_was_unplugged_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff.Backoff, "delay", lambda _: 0.0)
    ports, theirs = virtio_port()
    more, others = virtio_port()
    ports[:0] = more
    monkeypatch.setattr(opener, "open_port", ports.pop)
    with others, socket.socket(socket.AF_UNIX) as unplugged:
        async with world(tmp_path, place="/dev/port") as it:
            theirs.send(PING)
            assert await heard(theirs) == b'{"return": {}}\n'
            # Each read of it fails from now on.
            os.dup2(unplugged.fileno(), it.host._place._kept.fileno())  # type: ignore[attr-defined]
            theirs.close()
            others.send(PING)
            assert await heard(others) == b'{"return": {}}\n'


@in_loop
async def test_pty(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    loop = asyncio.get_running_loop()
    async with world(tmp_path, place=os.ttyname(slave)) as it:
        os.close(slave)
        assert it.host._talk  # open, so raw
        os.set_blocking(master, False)
        os.write(master, PING)
        answer, readable = b"", asyncio.Event()
        loop.add_reader(master, readable.set)
        while not answer.endswith(b"\n"):
            await readable.wait()
            readable.clear()
            answer += os.read(master, 4096)
        loop.remove_reader(master)
        assert answer == b'{"return": {}}\n'
        os.close(master)
        while it.host._talk is not None:  # it hangs up, and there is no such pty any more
            await turns(1)


@in_loop
async def test_missing_port_costs_no_wake_up(tmp_path: Path) -> None:
    async with world(tmp_path, place=str(tmp_path / "port")) as it:
        waits = it.host._place
        assert waits._opener.is_waiting  # type: ignore[attr-defined]
        assert not waits._opener.next_try()  # type: ignore[attr-defined]
        it.host.close()
        it.host.close()


@in_loop
async def test_close_lets_everybody_go(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.client() as client:
        await switch_on(client)
        await asked(agent, client)
        client.send(wrapped("slow"))
        await agent.call()
        it.host.close()
        result = await agent.read()
        assert isinstance(result, rpc.Result)
        assert str(result.error) == "the daemon ends"
        assert await read_until_end(client) == b""
        with pytest.raises(OSError, match="refused"):
            await it.client()
