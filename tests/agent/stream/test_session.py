"""One opening of the port, with a host of our own at the other end of a socket."""

import asyncio
import io
import logging
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from PIL import Image

from agent.capture.base import Capture, Changes, Cursor
from agent.capture.pattern import open_pattern
from agent.capture.placeholder import draw_placeholder
from agent.encode.jpeg import JpegEncoder
from agent.stream import streamer as streamer_module
from agent.stream.absence import PATIENCE
from agent.stream.framelog import FrameLog
from agent.stream.pacing import RESTS
from agent.stream.screen import Screen
from agent.stream.session import StreamSession
from agent.stream.streamer import Codecs
from sessiond.transport.edge import EdgePoller
from sessiond.transport.fds import OwnedFd
from sessiond.transport.port import OpenPort
from sessiond.wire.buffer import Header
from sessiond.wire.device import (
    HIDDEN_CURSOR,
    Capabilities,
    Codec,
    CursorMove,
    CursorSet,
    Data,
    DeviceDisplayInfo,
    Format,
    Message,
    NotifyError,
    Role,
    StartStop,
    Unknown,
)
from sessiond.wire.device_state import DeviceConnection
from tests.agent.scripted import SIZE, Listener, ScriptedCapture, settled
from tests.fixtures.drawing import psnr
from tests.fixtures.loop import Clock, in_loop, turns

START = StartStop((Codec.MJPEG,))
STOP = StartStop(())
FORMAT = Format(*SIZE, Codec.MJPEG)
ARROW = Cursor(2, 1, 1, 0, b"\1\2\3\xff\4\5\6\xff")


class SessionListener(Listener):
    """Hands on to a session what a screen says, as the program does."""

    session: StreamSession

    def on_changed(self) -> None:
        super().on_changed()
        self.session.on_changed()

    def on_unavailable(self, reason: str) -> None:
        super().on_unavailable(reason)
        self.session.on_unavailable(reason)

    def on_cursor(self, cursor: Cursor | None) -> None:
        super().on_cursor(cursor)
        self.session.on_cursor(cursor)

    def on_pointer(self, position: tuple[int, int]) -> None:
        super().on_pointer(position)
        self.session.on_pointer(position)


class Host:
    """The host's end: says what it is told to, and reads when it is told to."""

    def __init__(self, sock: socket.socket, session: StreamSession, screen: Screen) -> None:
        self.sock = sock
        self.session = session
        self.screen = screen
        self.device = DeviceConnection(Role.HOST)
        self.pending: list[Message | Unknown] = []

    async def say(self, *messages: Message) -> None:
        for message in messages:
            await self.say_bytes(self.device.send(message))

    async def say_bytes(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def hear(self) -> Message | Unknown:
        """Return the next message; EOFError at the end."""
        while not self.pending:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
            if not data:
                raise EOFError
            self.pending += self.device.receive(data)
        return self.pending.pop(0)

    async def hear_until(self, wanted: Callable[[Message | Unknown], bool]) -> list[object]:
        """Return what comes up to the first message that is WANTED."""
        heard: list[object] = []
        while True:
            message = await self.hear()
            heard.append(message)
            if wanted(message):
                return heard

    async def hear_all(self) -> list[object]:
        """Return what has been sent so far: all before the answer to a question."""
        await self.say(Capabilities())
        return (await self.hear_until(lambda m: isinstance(m, Capabilities)))[:-1]

    async def begin(self) -> list[object]:
        """Let a stream start; return all up to its first frame."""
        await self.say(Capabilities(), START)
        return await self.hear_until(lambda m: isinstance(m, Data))


@asynccontextmanager
async def connected(capture: Capture, *, small: bool = False) -> AsyncIterator[Host]:
    async with AsyncExitStack() as stack:
        listener = SessionListener()
        screen = Screen(lambda: capture, listener)
        ours, theirs = socket.socketpair()
        stack.enter_context(theirs)
        for sock in (ours, theirs):
            sock.setblocking(False)
        if small:  # so that one frame fills it
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        port = OpenPort(OwnedFd(ours.detach()), "socket", waits_for_host=False)
        poller = EdgePoller()
        stack.callback(poller.close)
        codecs = Codecs([JpegEncoder], {"quality": 80}, 100)
        frames = FrameLog("", binary=False, frames=False)
        stack.callback(screen.close, 10)
        listener.session = StreamSession(port, poller, screen, codecs, frames)
        stack.callback(listener.session.close)
        screen.start()
        yield Host(theirs, listener.session, screen)


def shade(message: object) -> int:
    """Return how bright a grey frame is."""
    assert isinstance(message, Data)
    with Image.open(io.BytesIO(message.frame)) as picture:
        colours = picture.convert("L").getcolors()
    assert colours
    assert len(colours) == 1
    value = colours[0][1]
    assert isinstance(value, int)
    return value


def alike(message: object, size: tuple[int, int], reason: str) -> bool:
    """Return whether a frame says this."""
    assert isinstance(message, Data)
    wanted = draw_placeholder(size, f"Nothing can be captured now: {reason}.")
    with Image.open(io.BytesIO(message.frame)) as picture:
        return psnr(picture.convert("RGB"), wanted) > 30


@in_loop
async def test_silent_until_the_host_speaks() -> None:
    async with connected(ScriptedCapture()) as host:
        await settled(host.screen)
        await turns(10)
        with pytest.raises(BlockingIOError):
            host.sock.recv(1)
        await host.say(Capabilities())
        assert await host.hear() == Capabilities()


@in_loop
async def test_beginning_of_a_stream() -> None:
    capture = ScriptedCapture()
    capture.shape, capture.place = ARROW, (7, -8)
    async with connected(capture) as host:
        *beginning, frame = await host.begin()
        assert beginning == [
            Capabilities(),
            FORMAT,
            CursorSet(2, 1, 1, 0, ARROW.pixels),
            CursorMove(7, -8),
        ]
        assert shade(frame) == 0
        assert capture.calls == ["begin"]


@in_loop
async def test_display_info_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    info = DeviceDisplayInfo(0, 1, "pci/0000/02.0")
    asked = list[Sequence[str]]()

    def display_info(outputs: Sequence[str]) -> DeviceDisplayInfo:
        asked.append(outputs)
        return info

    monkeypatch.setattr(streamer_module, "display_info", display_info)
    capture = ScriptedCapture()
    capture.names = ("Virtual-1",)
    async with connected(capture) as host:
        assert (await host.begin())[1:3] == [info, FORMAT]
        assert asked == [("Virtual-1",)]


@in_loop
async def test_pattern_is_streamed() -> None:
    async with connected(open_pattern("65x49@100")) as host:
        await host.begin()
        for _ in range(5):
            message = await host.hear()
            assert isinstance(message, Data)
            with Image.open(io.BytesIO(message.frame)) as picture:
                assert picture.size == (65, 49)
                picture.load()
        assert host.session.streamer.totals.frames >= 6
        assert "frames, " in host.session.streamer.totals.summary()


@in_loop
async def test_change_is_a_frame_and_rest_is_silence() -> None:
    capture = ScriptedCapture()
    async with connected(capture) as host:
        await host.begin()
        for _ in range(3):
            capture.draw()
            assert shade(await host.hear()) == capture.shade
        assert await host.hear_all() == []


@in_loop
async def test_stop_and_start() -> None:
    capture = ScriptedCapture()
    async with connected(capture) as host:
        await host.begin()
        await host.say(STOP)
        assert await host.hear_all() == []
        await settled(host.screen)
        assert capture.calls == ["begin", "end"]
        capture.draw()
        capture.shape = ARROW
        capture.tell(Changes.CURSOR | Changes.POINTER)
        await settled(host.screen)
        await turns(3)
        assert await host.hear_all() == []
        await host.say(START)
        *beginning, frame = await host.hear_until(lambda m: isinstance(m, Data))
        assert beginning[0] == FORMAT
        assert shade(frame) == 1
        assert capture.calls == ["begin", "end", "begin"]


@in_loop
async def test_start_while_streaming_begins_anew() -> None:
    async with connected(ScriptedCapture()) as host:
        await host.begin()
        for _ in range(3):
            await host.say(START)
            heard = await host.hear_until(lambda m: isinstance(m, Data))
            assert heard[:3] == [FORMAT, HIDDEN_CURSOR, CursorMove(0, 0)]


@in_loop
async def test_many_starts_at_once() -> None:
    async with connected(ScriptedCapture()) as host:
        await host.say(Capabilities(), *(20 * [START, STOP]), START)
        heard = await host.hear_until(lambda m: isinstance(m, Data))
        assert heard[:2] == [Capabilities(), FORMAT]
        assert await host.hear_all() == []


@in_loop
async def test_new_size_is_told_before_its_frame() -> None:
    capture = ScriptedCapture()
    async with connected(capture) as host:
        await host.begin()
        capture.size_now = (20, 10)
        capture.draw()
        assert await host.hear() == Format(20, 10, Codec.MJPEG)
        message = await host.hear()
        assert isinstance(message, Data)
        with Image.open(io.BytesIO(message.frame)) as picture:
            assert picture.size == (20, 10)


@in_loop
async def test_format_waits_for_something_to_capture() -> None:
    capture = ScriptedCapture()
    capture.reason = "away"
    async with connected(capture) as host:
        await host.say(Capabilities(), START)
        assert [await host.hear() for _ in range(2)] == [Capabilities(), HIDDEN_CURSOR]
        capture.shape, capture.place = ARROW, (7, 8)
        capture.tell(Changes.CURSOR)
        await settled(host.screen)
        await turns(3)
        capture.reason = ""
        capture.tell(Changes.PICTURE | Changes.AVAILABLE)
        *beginning, frame = await host.hear_until(lambda m: isinstance(m, Data))
        assert beginning == [FORMAT, CursorSet(2, 1, 1, 0, ARROW.pixels), CursorMove(7, 8)]
        assert shade(frame) == 0


@in_loop
async def test_why_there_is_no_picture_is_shown_until_there_is_one() -> None:
    capture, clock = ScriptedCapture(), Clock()
    capture.reason, capture.size_now = "all outputs are off", (0, 0)
    capture.shape = ARROW
    async with connected(capture) as host:
        await host.say(Capabilities(), START)
        assert [await host.hear() for _ in range(2)] == [Capabilities(), HIDDEN_CURSOR]
        clock.advance(PATIENCE)
        assert await host.hear() == Format(1024, 768, Codec.MJPEG)
        assert alike(await host.hear(), (1024, 768), "all outputs are off")
        for size, reason in (((800, 600), "all outputs are off"), ((800, 600), "it is away")):
            capture.size_now, capture.reason = size, reason
            capture.tell(Changes.AVAILABLE | Changes.PICTURE)
            if reason == "all outputs are off":
                assert await host.hear() == Format(*size, Codec.MJPEG)
            assert alike(await host.hear(), size, reason)
        capture.reason, capture.size_now = "", SIZE
        capture.draw()
        capture.tell(Changes.AVAILABLE)
        *beginning, frame = await host.hear_until(lambda m: isinstance(m, Data))
        assert beginning == [FORMAT, CursorSet(2, 1, 1, 0, ARROW.pixels), CursorMove(0, 0)]
        assert shade(frame) == 1
        capture.reason = "it sleeps"
        capture.tell(Changes.AVAILABLE | Changes.PICTURE)
        await settled(host.screen)
        clock.advance(PATIENCE)
        await settled(host.screen)
        await turns(5)
        assert await host.hear_all() == []


@in_loop
async def test_a_sentence_costs_nothing_once_it_is_there() -> None:
    capture, clock = ScriptedCapture(), Clock()
    capture.reason = "it is off"
    async with connected(capture) as host:
        await host.say(Capabilities(), START)
        await host.hear_until(lambda m: m == HIDDEN_CURSOR)
        clock.advance(PATIENCE)
        await host.hear_until(lambda m: isinstance(m, Data))
        for rest in RESTS:  # a client may have dropped it
            clock.advance(rest)
            assert isinstance(await host.hear(), Data)
        pipeline = host.session.streamer.pipeline
        await turns(5)
        assert pipeline._timer is None
        capture.tell(Changes.PICTURE)  # which looks as before
        await settled(host.screen)
        clock.advance(10)
        await settled(host.screen)
        await turns(5)
        assert await host.hear_all() == []


@in_loop
async def test_the_first_picture_after_a_sentence_is_whole() -> None:
    capture, clock = ScriptedCapture(), Clock()
    capture.reason, capture.size_now = "it is off", (320, 200)
    capture.changed = frozenset({0})  # though it says so
    async with connected(capture) as host:
        await host.say(Capabilities(), START)
        await host.hear_until(lambda m: m == HIDDEN_CURSOR)
        clock.advance(PATIENCE)
        await host.hear_until(lambda m: isinstance(m, Data))
        capture.reason = ""
        capture.draw()
        capture.tell(Changes.AVAILABLE)
        heard = await host.hear_until(lambda m: isinstance(m, Data))
        assert shade(heard[-1]) == 1


@in_loop
async def test_a_screen_that_goes_before_its_first_picture() -> None:
    capture, clock = ScriptedCapture(), Clock()
    capture.shape = ARROW
    capture.gate.clear()
    async with connected(capture) as host:
        await host.say(Capabilities(), START)
        await host.hear_until(lambda m: isinstance(m, CursorMove))
        capture.reason = "it is off"
        capture.tell(Changes.AVAILABLE | Changes.PICTURE)
        capture.gate.set()
        await settled(host.screen)
        await turns(5)
        clock.advance(PATIENCE)
        assert await host.hear() == HIDDEN_CURSOR
        assert alike(await host.hear(), SIZE, "it is off")
        capture.place = (1, 2)
        capture.tell(Changes.POINTER)
        await settled(host.screen)
        await turns(3)
        capture.reason = ""
        capture.tell(Changes.AVAILABLE | Changes.PICTURE)
        heard = await host.hear_until(lambda m: isinstance(m, Data))
        assert heard[:2] == [CursorSet(2, 1, 1, 0, ARROW.pixels), CursorMove(1, 2)]


@in_loop
async def test_cursor_and_pointer() -> None:
    capture = ScriptedCapture()
    async with connected(capture) as host:
        await host.begin()
        capture.shape, capture.place = ARROW, (3, 4)
        capture.tell(Changes.CURSOR)
        assert await host.hear() == CursorSet(2, 1, 1, 0, ARROW.pixels)
        assert await host.hear() == CursorMove(3, 4)
        capture.place = (-1, 300)
        capture.tell(Changes.POINTER)
        assert await host.hear() == CursorMove(-1, 300)
        capture.shape = Cursor(9, 9, 0, 0, bytes(4 * 81))
        capture.tell(Changes.CURSOR)
        assert await host.hear() == HIDDEN_CURSOR


@pytest.mark.parametrize(
    ("hot", "sent"),
    [((-1, 0), (0, 0)), ((2, 1), (1, 0)), ((1 << 16, -(1 << 31)), (1, 0)), ((1, 0), (1, 0))],
)
@in_loop
async def test_a_hot_spot_outside_of_its_cursor(
    hot: tuple[int, int], sent: tuple[int, int]
) -> None:
    """A Wayland client names any number, and the picture has to come nevertheless."""
    capture = ScriptedCapture()
    capture.shape = Cursor(2, 1, *hot, ARROW.pixels)
    async with connected(capture) as host:
        assert CursorSet(2, 1, *sent, ARROW.pixels) in await host.begin()


@in_loop
async def test_too_large_a_cursor_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    capture = ScriptedCapture()
    async with connected(capture) as host:
        await host.begin()
        capture.shape = Cursor(1025, 1, 0, 0, b"\xff" * 4100)
        capture.tell(Changes.CURSOR)
        await settled(host.screen)
        await turns(3)
        assert await host.hear_all() == []
    assert "skipped a cursor of 1025x1; a host takes 1024 at most" in caplog.messages


@in_loop
async def test_slow_host_gets_the_newest_picture_and_is_heard() -> None:
    capture = ScriptedCapture()
    capture.size_now = (3000, 2000)
    async with connected(capture, small=True) as host:
        await host.say(Capabilities(), START)
        while not host.session._channel.is_blocked:
            await settled(host.screen)
        for _ in range(5):
            capture.draw()
            await settled(host.screen)
        await turns(10)
        assert capture.grabs == 1
        heard = await host.hear_until(lambda m: isinstance(m, Data))
        assert shade(heard[-1]) == 0
        assert shade(await host.hear()) == 5


@in_loop
async def test_stop_while_the_port_is_full() -> None:
    capture = ScriptedCapture()
    capture.size_now = (3000, 2000)
    async with connected(capture, small=True) as host:
        await host.say(Capabilities(), START)
        while not host.session._channel.is_blocked:
            await settled(host.screen)
        begun = DeviceConnection(Role.HOST)
        begun.send(Capabilities())
        begun.send(START)
        host.device = begun  # a host counts what was under way, and so do we
        await host.say_bytes(DeviceConnection(Role.HOST).send(STOP))
        while capture.calls != ["begin", "end"]:
            await settled(host.screen)
        heard = await host.hear_until(lambda m: isinstance(m, Data))
        assert shade(heard[-1]) == 0
        assert await host.hear_all() == []


@in_loop
async def test_no_codec_that_we_have(caplog: pytest.LogCaptureFixture) -> None:
    async with connected(ScriptedCapture()) as host:
        await host.say(Capabilities(), StartStop((Codec.VP8, 99)))
        assert await host.hear_all() == []
        assert await host.hear() == Capabilities()
        assert caplog.messages == [
            "cannot stream: no encoder for the codecs that the host decodes: [2, 99]"
        ]
        await host.say(START)
        await host.hear_until(lambda m: isinstance(m, Data))


@in_loop
async def test_encoder_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    capture = ScriptedCapture()
    capture.size_now = (70000, 1)
    async with connected(capture) as host:
        await host.say(Capabilities(), START)
        while capture.calls != ["begin", "end"]:
            await settled(host.screen)
        assert [r.levelno for r in caplog.records if "stopped streaming" in r.message] == [
            logging.ERROR
        ]
        capture.size_now = SIZE
        await host.say(START)
        await host.hear_until(lambda m: isinstance(m, Data))


@in_loop
async def test_unknown_message_is_skipped() -> None:
    async with connected(ScriptedCapture()) as host:
        await host.say_bytes(Header(77, 4096).pack() + bytes(4096))
        assert len(await host.begin()) == 5
        assert not host.session.lost.done()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (DeviceConnection(Role.HOST).send(NotifyError(3, "no\nway")),
         "the host refused to go on: no?way (3)"),
        (bytes(8), "the host broke the protocol: protocol version 0 instead of 1"),
        (Header(1, 4097).pack(),
         "the host broke the protocol: a message of type 1 with 4097 bytes, over 4096"),
        (Header(4, 0).pack(),
         "the host broke the protocol: START_STOP without the codecs that it announces"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streaming", [False, True])
@in_loop
async def test_lost(data: bytes, reason: str, *, streaming: bool) -> None:
    capture = ScriptedCapture()
    async with connected(capture) as host:
        if streaming:
            await host.begin()
        await host.say_bytes(data)
        assert await host.session.lost == reason
        with pytest.raises(EOFError):
            await host.hear()
        await settled(host.screen)
        assert capture.calls == (["begin", "end"] if streaming else [])


@in_loop
async def test_host_hangs_up() -> None:
    async with connected(ScriptedCapture()) as host:
        await host.begin()
        host.sock.close()
        assert await host.session.lost == "the host hung up"


@in_loop
async def test_host_hangs_up_while_the_port_is_full() -> None:
    capture = ScriptedCapture()
    capture.size_now = (3000, 2000)
    async with connected(capture, small=True) as host:
        await host.say(Capabilities(), START)
        while not host.session._channel.is_blocked:
            await settled(host.screen)
        host.sock.close()
        assert await host.session.lost == "the host hung up"


@in_loop
async def test_close_is_not_a_loss() -> None:
    async with connected(ScriptedCapture()) as host:
        await host.begin()
        host.session.close()
        with pytest.raises(EOFError):
            await host.hear()
        await turns(10)
        assert not host.session.lost.done()
