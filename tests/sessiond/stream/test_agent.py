"""An agent that is a small program with a part to play: what is heard of it, and how it ends."""

import asyncio
import json
import select
import signal
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest

from sessiond.stream import agent as module
from sessiond.stream import launch
from sessiond.stream.agent import Agent, AgentStart, Exit
from sessiond.stream.reconcile import PLACEHOLDER
from sessiond.transport.edge import EdgePoller
from sessiond.wire import device
from sessiond.wire.buffer import HEADER_SIZE, Header
from sessiond.wire.device import Type
from sessiond.wire.link import (
    Config,
    DeviceMessage,
    Failed,
    LinkType,
    Ready,
    Serial,
    Stats,
    Unavailable,
    pack,
)
from tests.fixtures.loop import DEADLINE, Clock, Signal, in_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.parts

# argv: the script as JSON, then --link-fd N. A step is ["send", hex], ["expect", message type],
# ["echo"], ["close"], ["exit", status], ["ignore SIGTERM"] or ["hang"]; an echo is a STATS with the
# next LINE's rate as its frames.
PROGRAM = """
import json, signal, socket, struct, sys
script = json.loads(sys.argv[1])
link = socket.socket(fileno=int(sys.argv[3]))
def exactly(size):
    data = b""
    while len(data) < size:
        piece = link.recv(size - len(data))
        if not piece:
            sys.exit(99)
        data += piece
    return data
for verb, *rest in script:
    if verb == "send":
        link.sendall(bytes.fromhex(rest[0]))
    elif verb == "expect":
        kind = None
        while kind != rest[0]:
            _, _, kind, size = struct.unpack("<BBHI", exactly(8))
            exactly(size)
    elif verb == "echo":
        kind = None
        while kind != 0x8008:
            _, _, kind, size = struct.unpack("<BBHI", exactly(8))
            told = exactly(size)
        stats = {"size": 0, "skipped": 0, "encode_ms": 0, "codec": "", "quality": 0}
        stats |= {"frames": int(json.loads(told)["rate"]), "encoder": "", "why": ""}
        body = json.dumps(stats).encode()
        link.sendall(struct.pack("<BBHI", 1, 0, 0x8005, len(body)) + body)
    elif verb == "close":
        link.close()
    elif verb == "exit":
        sys.exit(rest[0])
    elif verb == "ignore SIGTERM":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif verb == "hang":
        while True:
            signal.pause()
"""
Step = list[str | int]

READY = Ready("logind", ":0", 1920, 1080, 7)
STATS = Stats(30, 9_000_000, 2, 5.5, "jpeg")
FORMAT = device.pack(device.Format(1920, 1080, 1))
FRAME = device.pack(device.Data(b"\xff\xd8 a frame \xff\xd9"))
MOVE = device.pack(device.CursorMove(3, 4))
HANG: Step = ["hang"]


def send(*messages: bytes) -> Step:
    return ["send", b"".join(messages).hex()]


def expect(kind: LinkType) -> Step:
    return ["expect", int(kind)]


UNTIL_SHOWN: list[Step] = [
    expect(LinkType.CONFIG),
    send(pack(READY)),
    expect(LinkType.ACTIVATE),
    expect(LinkType.CREDIT),
    send(pack(Serial(1)), FORMAT),
]


@dataclass
class Listener:
    """Keeps all that it hears; ``answer`` is called for each message."""

    ready: list[Ready] = field(default_factory=list)
    messages: list[DeviceMessage] = field(default_factory=list)
    stats: list[Stats] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)
    answer: Callable[[Agent, DeviceMessage], None] = lambda _agent, _message: None
    once_ready: Callable[[Agent], None] = lambda _agent: None
    signal: Signal = field(default_factory=Signal)

    def on_ready(self, agent: Agent, ready: Ready) -> None:
        assert not self.exits
        self.ready.append(ready)
        agent.activate(1, (1, 3), quality=False)
        self.once_ready(agent)

    def on_message(self, agent: Agent, message: DeviceMessage) -> None:
        assert not self.exits
        self.messages.append(replace(message, data=bytes(message.data)))  # it is only lent
        self.answer(agent, message)
        self.signal.happened()

    def on_stats(self, agent: Agent, stats: Stats) -> None:
        assert not self.exits
        assert agent.ready
        self.stats.append(stats)
        self.signal.happened()

    def on_unavailable(self, agent: Agent) -> None:
        assert not self.exits
        self.unavailable.append(agent.unavailable)
        self.signal.happened()

    def on_exit(self, agent: Agent, end: Exit) -> None:
        assert agent.key in {"3", PLACEHOLDER}
        self.exits.append(end)
        self.signal.happened()

    async def end(self) -> Exit:
        await self.signal.until(lambda: bool(self.exits))
        [end] = self.exits
        return end

    @property
    def relayed(self) -> bytes:
        return b"".join(message.data for message in self.messages)


@asynccontextmanager
async def started(*script: Step, key: str = "3") -> "AsyncIterator[tuple[Agent, Listener]]":
    """Start an agent with that part; nothing of it may be left afterwards."""
    command = ["/usr/bin/python3", "-I", "-S", "-c", PROGRAM, json.dumps(script)]
    poller, listener = EdgePoller(), Listener()
    agent = Agent(AgentStart(key, command, {}, Config(key, 1000, 7)), poller, listener)
    try:
        yield agent, listener
    finally:
        if not listener.exits:
            agent._process.kill()
        await listener.end()
        assert not poller._handlers
        poller.close()


def words(end: Exit) -> str:
    assert end.failed
    return end.failed.text


@in_loop
async def test_ready() -> None:
    async with started(*UNTIL_SHOWN[:2], ["exit", 0]) as (agent, listener):
        assert not agent.is_active
        end = await listener.end()
    assert listener.ready == [READY] == [agent.ready]
    assert end.was_ready
    assert not end.was_asked
    assert end.failed is None


@in_loop
async def test_end_without_a_word() -> None:
    async with started(["exit", 3]) as (agent, listener):
        assert await listener.end() == Exit(3, None, was_ready=False, was_asked=False)
        assert agent.ready is None


@in_loop
async def test_stop() -> None:
    async with started(*UNTIL_SHOWN, HANG) as (agent, listener):
        await listener.signal.until(lambda: bool(listener.messages))
        assert (agent.is_active, agent.is_stopping) == (True, False)
        agent.stop()
        assert await listener.end() == Exit(-signal.SIGTERM, None, was_ready=True, was_asked=True)
    assert agent.is_stopping


@in_loop
async def test_frames_are_relayed_as_they_are_and_each_needs_a_credit() -> None:
    script: list[Step] = [send(FRAME), expect(LinkType.CREDIT)] * 5
    script += [send(pack(STATS), MOVE), ["exit", 0]]
    async with started(*UNTIL_SHOWN, *script) as (_, listener):

        def answer(agent: Agent, message: DeviceMessage) -> None:
            if message.type is Type.DATA:
                agent.give_credit()

        listener.answer = answer
        await listener.end()
    assert listener.relayed == FORMAT + 5 * FRAME + MOVE
    assert listener.stats == [STATS]


@in_loop
async def test_a_stream_begins_as_one_that_can_be_captured() -> None:
    off, on = pack(Unavailable("it is off")), pack(Unavailable(""))
    script: list[Step] = [send(off, on, off), expect(LinkType.ACTIVATE), send(off), HANG]
    async with started(*UNTIL_SHOWN, *script) as (agent, listener):
        await listener.signal.until(lambda: len(listener.unavailable) == 3)
        assert listener.unavailable == ["it is off", "", "it is off"]
        assert agent.unavailable == "it is off"
        agent.activate(2, (1,), quality=False)
        assert agent.unavailable == ""
        agent.stop()
        await listener.end()
    assert len(listener.unavailable) == 3  # what came last was of the stream before


@pytest.mark.parametrize("answers", [0, 1])
@in_loop
async def test_frame_without_credit_is_the_end(answers: int) -> None:
    frames = send(FRAME * (answers + 2), MOVE)
    async with started(*UNTIL_SHOWN, frames, HANG) as (agent, listener):
        listener.answer = lambda it, message: (
            it.give_credit()
            if message.type is Type.DATA and len(listener.messages) <= 1 + answers
            else None
        )
        end = await listener.end()
    assert listener.relayed == FORMAT + (answers + 1) * FRAME
    assert end.status == -signal.SIGKILL
    assert "a frame without credit" in words(end)
    assert agent.is_stopping


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "protocol version 71"),
        (Header(Type.START_STOP, 1).pack(), "does not send messages of type 0x4"),
        (Header(LinkType.CREDIT, 0).pack(), "does not send messages of type 0x8002"),
        (Header(Type.DATA, 1 << 30).pack(), "a frame of 1073741824 bytes"),
        (Header(LinkType.STATS, 2).pack() + b"{}", "STATS without exactly"),
        (pack(READY), "READY in state"),
        (pack(Serial(2)), "serial 2, though 1 is the newest"),
        (device.pack(device.QualityIndicator("q")), "QUALITY_INDICATOR"),
        (device.pack(device.Format(1, 1, 2)), "codec 2, which the host does not decode"),
        (device.pack(device.Format(1, 1, 0)), "codec 0, which the host does not decode"),
    ],
)
@in_loop
async def test_broken_rule_is_the_end(data: bytes, complaint: str) -> None:
    async with started(*UNTIL_SHOWN, send(data, MOVE), HANG) as (_, listener):
        end = await listener.end()
    assert listener.relayed == FORMAT
    assert end.status == -signal.SIGKILL
    assert end.failed
    assert end.failed.reason == "agent-crashed"
    assert complaint in words(end)


@in_loop
async def test_garbage_before_it_is_ready() -> None:
    async with started(send(b"garbage!"), HANG) as (_, listener):
        end = await listener.end()
    assert end.status == -signal.SIGKILL
    assert not end.was_ready


@in_loop
async def test_failed_is_in_the_exit() -> None:
    failed = Failed("no-display-found", "Nothing answers at :0.")
    async with started(send(pack(failed)), ["exit", 1]) as (agent, listener):
        end = await listener.end()
    assert end.failed == failed
    assert end.status == 1
    assert not end.was_asked
    assert agent.is_stopping


@pytest.mark.parametrize("key", ["3", PLACEHOLDER])
@in_loop
async def test_only_the_users_agent_pauses(key: str) -> None:
    failed = pack(Failed("paused-by-user", "ended at the screen"))
    async with started(send(failed), ["exit", 1], key=key) as (_, listener):
        end = await listener.end()
    assert end.reason == ("paused-by-user" if key == "3" else "agent-crashed")


@in_loop
async def test_last_words_are_heard_when_the_end_is_seen_first() -> None:
    failed = Failed("no-display-found", "Nothing answers at :0.")
    async with started(send(pack(failed)), ["exit", 1]) as (agent, listener):
        pidfd = agent._process._pidfd.fileno()
        assert select.select([pidfd], [], [], DEADLINE)[0]  # the loop stands still meanwhile
        agent._process._reap()
        assert (await listener.end()).failed == failed


@in_loop
async def test_last_words_are_heard_when_a_write_fails_first() -> None:
    failed = Failed("encoder-failed", "no")
    async with started(*UNTIL_SHOWN, send(pack(failed)), ["exit", 1]) as (_, listener):

        def wait_for_its_end(agent: Agent) -> None:
            pidfd = agent._process._pidfd.fileno()
            assert select.select([pidfd], [], [], DEADLINE)[0]  # the loop stands still meanwhile
            agent.give_credit()

        listener.once_ready = wait_for_its_end
        assert (await listener.end()).failed == failed


@in_loop
async def test_failed_while_it_is_shown() -> None:
    failed = Failed("encoder-failed", "no")
    async with started(*UNTIL_SHOWN, send(pack(failed)), ["exit", 1]) as (agent, listener):
        end = await listener.end()
        assert not agent.is_active
        agent.pause()
    assert end.failed == failed
    assert end.was_ready


@in_loop
async def test_who_failed_and_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "KILL_AFTER", 0.05)
    failed = pack(Failed("encoder-failed", "no"))
    async with started(send(failed), HANG) as (_, listener):
        assert (await listener.end()).status == -signal.SIGKILL


@pytest.mark.parametrize("size", [1, HEADER_SIZE, HEADER_SIZE + 3, len(FRAME) - 1])
@in_loop
async def test_half_a_frame_is_not_relayed(size: int) -> None:
    async with started(*UNTIL_SHOWN, send(MOVE, FRAME[:size]), ["exit", 0]) as (_, listener):
        await listener.end()
    assert listener.relayed == FORMAT + MOVE


@in_loop
async def test_killed_within_a_frame() -> None:
    async with started(*UNTIL_SHOWN, send(FRAME[:-1]), HANG) as (agent, listener):
        await listener.signal.until(lambda: bool(listener.messages))
        agent._process.kill()
        assert (await listener.end()).status == -signal.SIGKILL
    assert listener.relayed == FORMAT


@in_loop
async def test_ready_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READY_TIMEOUT", 0.05)
    async with started(["ignore SIGTERM"], HANG) as (agent, listener):
        end = await listener.end()
    assert end.status == -signal.SIGKILL
    assert end.failed
    assert end.failed.reason == "agent-timeout"
    assert agent.is_stopping
    assert not end.was_ready


@in_loop
async def test_end_of_the_link_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "KILL_AFTER", 0.05)
    async with started(*UNTIL_SHOWN, ["close"], HANG) as (agent, listener):
        end = await listener.end()
    assert end == Exit(-signal.SIGKILL, None, was_ready=True, was_asked=False)
    assert agent.is_stopping


@in_loop
async def test_who_does_not_read_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_UNSENT", 1000)
    async with started(*UNTIL_SHOWN, HANG) as (agent, listener):
        await listener.signal.until(lambda: bool(listener.messages))
        for _ in range(100_000):
            agent.give_credit()
            if agent.is_stopping:
                break
        end = await listener.end()
    assert words(end) == "the agent does not read its link"


@in_loop
async def test_paused_agent_is_not_heard() -> None:
    paused: list[Step] = [expect(LinkType.PAUSE), send(FRAME, MOVE), expect(LinkType.ACTIVATE)]
    again = send(FRAME, pack(Serial(1)), pack(Serial(2)), FORMAT)
    async with started(*UNTIL_SHOWN, *paused, again, ["exit", 0]) as (agent, listener):
        await listener.signal.until(lambda: bool(listener.messages))
        agent.pause()
        assert not agent.is_active
        agent.pause()
        agent.activate(2, (1,), quality=True)
        assert agent.serial == 2
        await listener.end()
    assert listener.relayed == 2 * FORMAT


@in_loop
async def test_rate_of_the_line_is_told_when_it_is_news() -> None:
    echo: Step = ["echo"]
    async with started(*UNTIL_SHOWN, *(6 * [echo]), ["exit", 0]) as (agent, listener):
        await listener.signal.until(lambda: bool(listener.messages))
        clock = Clock()
        for rate in (0.0, 1e6, 2e6):
            agent.tell_line(rate)  # at first none is known; the third comes too soon
        for rate in (1.19e6, 0.84e6, 0.83e6, 0.0, 0.0, 2e9):
            clock.advance(module._LINE_INTERVAL)
            agent.tell_line(rate)
        await listener.signal.until(lambda: len(listener.stats) == 4)
        for rate in (0.95e9, 0.0, 5e5):  # the first it knows
            agent.pause()
            agent.activate(agent.serial + 1, (1,), quality=False, rate=rate)
        await listener.end()
    told = [stats.frames for stats in listener.stats]
    assert told == [1_000_000, 830_000, 0, 999_000_000, 0, 500_000]


@in_loop
async def test_stats_are_of_the_codec_in_use() -> None:
    same, other = FORMAT, device.pack(device.Format(1920, 1080, 3))
    words = [send(pack(STATS), same), send(other)]
    kept: list[Stats | None] = []
    async with started(*UNTIL_SHOWN, *words, ["exit", 0]) as (_, listener):
        listener.answer = lambda agent, _message: kept.append(agent.stats)
        await listener.end()
    assert kept == [None, STATS, None]


@in_loop
async def test_command_that_does_not_exist() -> None:
    poller = EdgePoller()
    with pytest.raises(FileNotFoundError):
        Agent(AgentStart("3", ["/nonexistent"], {}, Config("3", 0)), poller, Listener())
    assert not poller._handlers
    poller.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
