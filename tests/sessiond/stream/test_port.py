"""The stream port between us and a host: a device connection behind a socket or a pty."""

import asyncio
import os
import pty
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond.model import Reason
from sessiond.stream import port as module
from sessiond.stream.holder import holder_of
from sessiond.stream.port import HostPort
from sessiond.transport import backoff
from sessiond.transport.edge import EdgePoller
from sessiond.transport.fds import OwnedFd
from sessiond.wire.device import (
    Capabilities,
    CursorMove,
    Data,
    Format,
    FromHost,
    Message,
    NotifyError,
    Role,
    StartStop,
    Type,
    Unknown,
    pack,
)
from sessiond.wire.device_state import DeviceConnection
from tests.fixtures.loop import Signal, in_loop, turns

FORMAT = Format(640, 480, 1)
START = StartStop((1, 3))
STOP = StartStop(())
BIG = 3 << 20  # more than any socket or pty holds


@dataclass
class Listener:
    """Writes down what it is told, in one word each."""

    told: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    signal: Signal = field(default_factory=Signal)

    def _tell(self, word: str) -> None:
        self.told.append(word)
        self.signal.happened()

    def on_port(self, reason: Reason | None, text: str) -> None:
        self.texts.append(text)
        self._tell(reason or "open")

    def on_start(self, codecs: tuple[int, ...], *, quality: bool) -> None:
        self._tell(f"start {codecs}{' with quality' if quality else ''}")

    def on_stop(self) -> None:
        self._tell("stop")

    def on_frame_sent(self, delay: float) -> None:
        self.delays.append(delay)
        self._tell("sent")

    def on_stalled(self, *, stalled: bool) -> None:
        self._tell("stalled" if stalled else "resumed")

    async def until(self, *words: str) -> None:
        """Wait until exactly these were told, and forget them."""
        await self.signal.until(lambda: len(self.told) >= len(words))
        assert self.told == list(words)
        self.told.clear()


class Host:
    """The other end of an opened port; reads only when it is told to."""

    def __init__(self, fd: int) -> None:
        self._fd = OwnedFd(fd)
        os.set_blocking(fd, False)
        self._device = DeviceConnection(Role.HOST)
        self.got: list[Message | Unknown] = []

    def say(self, *messages: FromHost) -> None:
        data = b"".join(self._device.send(message) for message in messages)
        assert os.write(self._fd.fileno(), data) == len(data)

    def read_nowait(self) -> int:
        """Take what is there; a ProtocolError here is a port that did not send whole messages."""
        try:
            data = os.read(self._fd.fileno(), 1 << 16)
        except BlockingIOError:
            return 0
        self.got += self._device.receive(data)
        return len(data)

    def _read_all(self) -> bool:
        while self.read_nowait():
            pass
        return True

    async def read_until(self, condition: Callable[[], bool]) -> None:
        loop, readable = asyncio.get_running_loop(), Signal()
        loop.add_reader(self._fd.fileno(), readable.happened)
        try:
            await readable.until(lambda: self._read_all() and condition())
        finally:
            loop.remove_reader(self._fd.fileno())

    async def read_messages(self, count: int) -> list[Message | Unknown]:
        await self.read_until(lambda: len(self.got) >= count)
        got, self.got = self.got, []
        return got

    def close(self) -> None:
        self._fd.close()


@dataclass
class World:
    """A port that was never opened, its listener, and a socket where hosts wait."""

    port: HostPort
    listener: Listener
    path: str
    server: socket.socket | None = None

    def appear(self) -> None:
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(self.path)
        self.server.listen()

    def accept(self) -> Host:
        assert self.server
        return Host(self.server.accept()[0].detach())

    async def open(self) -> Host:
        """Open the port up to a client that watches."""
        self.appear()
        self.port.open()
        host = self.accept()
        host.say(Capabilities(), START)
        await self.listener.until("open", "start (1, 3)")
        assert await host.read_messages(1) == [Capabilities()]
        return host

    def frame(self, size: int) -> None:
        self.port.put(Type.DATA, pack(Data(bytes(size))))


@contextmanager
def world() -> Iterator[World]:
    """Be in a loop; nothing may be left afterwards."""
    poller, listener = EdgePoller(), Listener()
    with TemporaryDirectory(prefix="port-") as directory:
        path = str(Path(directory, "port"))
        it = World(HostPort(path, poller, listener), listener, path)
        try:
            yield it
        finally:
            it.port.close()
            if it.server:
                it.server.close()
            assert not poller._handlers
            poller.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST", 0.005)
    monkeypatch.setattr(backoff, "LONGEST", 0.01)
    monkeypatch.setattr(module, "STALLED", 0.05)


@in_loop
async def test_missing_and_then_there() -> None:
    with world() as it:
        it.port.open()
        assert it.listener.told == ["port-missing"]
        assert it.listener.texts == [f"port {it.path} is missing: no such file."]
        it.listener.told.clear()
        it.frame(10)  # nobody is there to get it, nor to be told
        it.appear()
        await it.listener.until("open")
        it.accept().close()


@in_loop
async def test_it_comes_by_an_event_and_not_by_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff.Backoff, "delay", lambda _self: 3600.0)
    with world() as it, socket.socket(socket.AF_UNIX) as elsewhere:
        elsewhere.bind(f"{it.path}.device")
        elsewhere.listen()
        it.port.open()
        await it.listener.until("port-missing")
        os.symlink(f"{it.path}.device", it.path)  # as udev does when the device has come
        await it.listener.until("open")


@in_loop
async def test_same_complaint_is_told_once_and_another_one_again() -> None:
    with world() as it:
        it.port.open()
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(it.path)  # nobody listens
            await it.listener.until("port-missing", "port-missing")
            os.unlink(it.path)
        await it.listener.until("port-missing")
        assert [text.rsplit(": ")[-1] for text in it.listener.texts] == [
            "no such file.",
            "nobody listens on this socket.",
            "no such file.",
        ]


@in_loop
async def test_closed_is_not_tried_again() -> None:
    with world() as it:
        it.port.open()
        it.port.close()
        it.listener.told.clear()
        it.appear()
        assert it.server
        it.server.setblocking(False)
        loop = asyncio.get_running_loop()
        later: asyncio.Future[None] = loop.create_future()
        loop.call_later(0.05, later.set_result, None)  # several retries' time
        await later
        assert it.listener.told == []


@in_loop
async def test_busy_port_names_its_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "holder_of", lambda _: 4711)
    with world() as it, socket.socket(socket.AF_UNIX) as full:
        full.bind(it.path)
        full.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(it.path)
            it.port.open()
            await it.listener.until("port-busy", "port-busy")
        assert it.listener.texts[0].endswith("takes no more connections.")
        assert it.listener.texts[1].endswith("takes no more connections (process 4711).")


@in_loop
async def test_what_was_lent_may_change_at_once() -> None:
    with world() as it:
        host = await it.open()
        it.port.put(Type.FORMAT, pack(FORMAT))
        lent = bytearray(pack(Data(b"1" * BIG)))
        it.port.put(Type.DATA, memoryview(lent))
        lent[:] = b"2" * len(lent)
        assert await host.read_messages(2) == [FORMAT, Data(b"1" * BIG)]


@in_loop
async def test_host_asks_and_gets() -> None:
    with world() as it:
        host = await it.open()
        it.port.put(Type.FORMAT, pack(FORMAT))
        it.frame(7)
        await it.listener.until("sent")
        assert await host.read_messages(2) == [FORMAT, Data(bytes(7))]
        host.say(Capabilities(quality_indicator=True), START, STOP)
        await it.listener.until("start (1, 3) with quality", "stop")
        assert await host.read_messages(1) == [Capabilities()]
        assert it.listener.delays == [0]
        host.close()
        await it.listener.until("host-refused", "stop", "open")


@in_loop
async def test_over_a_pty() -> None:
    poller, listener = EdgePoller(), Listener()
    master, slave = pty.openpty()
    host = Host(master)
    port = HostPort(os.ttyname(slave), poller, listener)
    port.open()
    os.close(slave)
    host.say(Capabilities(), START)
    await listener.until("open", "start (1, 3)")
    port.put(Type.FORMAT, pack(FORMAT))
    port.put(Type.DATA, pack(Data(bytes(100_000))))
    await host.read_until(lambda: len(host.got) == 3)
    assert host.got == [Capabilities(), FORMAT, Data(bytes(100_000))]
    await listener.until("sent")
    host.close()
    await listener.until("host-refused", "stop", "port-missing")
    port.close()
    poller.close()


@in_loop
async def test_refusal_closes_and_opens_again() -> None:
    with world() as it:
        host = await it.open()
        host.say(NotifyError(0, "Invalid message type"))
        await it.listener.until("host-refused", "stop", "open")
        assert "refused to go on: Invalid message type (0)" in it.listener.texts[1]
        again = it.accept()
        again.say(Capabilities(), START)
        await it.listener.until("start (1, 3)")
        assert await again.read_messages(1) == [Capabilities()]
        host.close()
        again.close()


@in_loop
async def test_broken_protocol_closes_and_opens_again() -> None:
    with world() as it:
        host = await it.open()
        os.write(host._fd.fileno(), b"\x02 is no version of it")
        await it.listener.until("host-refused", "stop", "open")
        assert "the host broke the protocol: protocol version 2" in it.listener.texts[1]
        host.close()


@in_loop
async def test_host_is_heard_while_a_write_is_blocked() -> None:
    with world() as it:
        host = await it.open()
        it.port.put(Type.FORMAT, pack(FORMAT))
        it.frame(BIG)
        host.say(STOP)
        await it.listener.until("stop")
        host.say(START)
        await it.listener.until("start (1, 3)")
        host.close()
        await it.listener.until("host-refused", "stop", "open")


@in_loop
async def test_each_frame_is_told_once() -> None:
    with world() as it:
        host = await it.open()
        it.port.put(Type.FORMAT, pack(FORMAT))
        for _ in range(3):
            it.frame(BIG)
            assert it.listener.told == []
            it.port.put(Type.CURSOR_MOVE, pack(CursorMove(1, 2)))
            await host.read_until(lambda: "sent" in it.listener.told)
            await it.listener.until("sent")
        await host.read_until(lambda: len(host.got) == 7)
        host.close()


@in_loop
async def test_stall_is_told_and_taken_back() -> None:
    with world() as it:
        host = await it.open()
        it.port.put(Type.FORMAT, pack(FORMAT))
        it.frame(BIG)
        await it.listener.until("stalled")
        await host.read_until(lambda: len(host.got) == 2)
        await it.listener.until("resumed", "sent")
        host.close()


@in_loop
async def test_messages_that_wait_do_not_hide_a_stall() -> None:
    with world() as it:
        host = await it.open()
        it.port.put(Type.FORMAT, pack(FORMAT))
        it.frame(BIG)
        move = pack(CursorMove(1, 2))
        while not it.listener.told:
            it.port.put(Type.CURSOR_MOVE, move)
            await turns(1)
        await it.listener.until("stalled")
        host.close()


@in_loop
async def test_end_of_a_stalled_host_is_the_end_of_the_stall() -> None:
    with world() as it:
        host = await it.open()
        it.port.put(Type.FORMAT, pack(FORMAT))
        it.frame(BIG)
        await it.listener.until("stalled")
        host.close()
        await it.listener.until("resumed", "host-refused", "stop", "open")


@in_loop
async def test_stop_drops_what_was_not_begun() -> None:
    with world() as it:
        host = await it.open()
        it.port.put(Type.FORMAT, pack(FORMAT))
        it.frame(BIG)  # begun
        it.port.put(Type.CURSOR_MOVE, pack(CursorMove(1, 2)))
        it.port.drop_waiting()
        assert it.listener.told == []
        await host.read_until(lambda: len(host.got) == 2)
        await it.listener.until("sent")
        assert host.got == [FORMAT, Data(bytes(BIG))]
        host.close()


STEPS: dict[str, Callable[[World, Host, int], object]] = {
    "frame": lambda it, _host, number: it.frame(number),
    "format": lambda it, _host, _number: it.port.put(Type.FORMAT, pack(FORMAT)),
    "move": lambda it, _host, _number: it.port.put(Type.CURSOR_MOVE, pack(CursorMove(-1, 1))),
    "drop": lambda it, _host, _number: it.port.drop_waiting(),
    "ask": lambda _it, host, _number: host.say(STOP, START),
    "read": lambda _it, host, number: [host.read_nowait() for _ in range(number // 20_000)],
}


async def play(steps: list[tuple[str, int]]) -> None:
    with world() as it:
        host = await it.open()
        it.port.put(Type.FORMAT, pack(FORMAT))
        for verb, number in steps:
            STEPS[verb](it, host, number)
            await turns(number % 3)
        last = CursorMove(4711, 4711)
        it.port.put(Type.CURSOR_MOVE, pack(last))
        await host.read_until(lambda: last in host.got)
        frames = sum(verb == "frame" for verb, _ in steps)
        assert it.listener.told.count("sent") <= frames
        assert {type(message) for message in host.got} <= {Format, Data, CursorMove}
        assert "host-refused" not in it.listener.told
        host.close()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*STEPS]), st.integers(1, 400_000)), max_size=30))
def test_whole_messages_whatever_is_dropped(steps: list[tuple[str, int]]) -> None:
    asyncio.run(play(steps))


@pytest.mark.parts
def test_holder_of_a_pty() -> None:
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    code = (
        "import os, sys\nos.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)\nprint(flush=True)\ninput()"
    )
    with (
        OwnedFd(master),
        OwnedFd(slave),
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process,
    ):
        assert process.stdout
        process.stdout.readline()
        assert holder_of(name) == process.pid
        process.communicate(b"\n")
        assert holder_of(name) == 0  # we have it ourselves, which is no news


def test_holder_of_nothing() -> None:
    assert holder_of("/nonexistent") == 0
