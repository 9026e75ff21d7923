"""The codec of a stream, which changes in its middle: what the host is told, and in which order."""

import logging
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest

from agent.capture.base import Frame
from agent.encode.base import Encoder, IntOption
from agent.stream.choice import AUTO, LATE, PATIENCE
from agent.stream.framelog import FrameLog
from agent.stream.screen import Screen
from agent.stream.sender import Sender
from agent.stream.streamer import Codecs, Streamer
from agent.stream.watch import ENOUGH
from sessiond.errors import EncoderError
from sessiond.wire import device
from sessiond.wire.device import Capabilities, Codec, Data, Format, Role, StartStop
from sessiond.wire.device_state import DeviceConnection
from tests.agent.scripted import SIZE, Listener, ScriptedCapture, settled
from tests.fixtures.loop import Clock, Signal, in_loop, turns


class Counting(Encoder):
    """A frame says who made it, and how many it made before: a predicted codec needs them all."""

    rank: ClassVar = 1
    options: ClassVar[Mapping[str, IntOption]] = {}
    fails_at: ClassVar = -1  # the number of a frame; 0 is the first
    cannot_open: ClassVar = False
    is_huge: ClassVar = False

    def __init__(self, options: Mapping[str, int]) -> None:
        assert not options
        if self.cannot_open:
            raise EncoderError("no such device")
        self.count = 0

    def encode(self, frame: Frame) -> bytes:
        if self.count == self.fails_at:
            raise EncoderError("the device is gone")
        assert frame.changed is None or self.count
        self.count += 1
        return f"{self.name}:{self.count - 1}".encode() + bytes(1000 * self.is_huge)


class Jpeg(Counting):
    """Codec MJPEG."""

    name: ClassVar = "jpeg"
    codec: ClassVar = Codec.MJPEG


class Vp8(Counting):
    """Codec VP8."""

    name: ClassVar = "vp8"
    codec: ClassVar = Codec.VP8


class Vp9(Counting):
    """Codec VP9, which takes pictures of one size alone."""

    name: ClassVar = "vp9"
    codec: ClassVar = Codec.VP9

    @classmethod
    def accepts(cls, width: int, height: int) -> bool:
        return (width, height) == SIZE


EVERYTHING = tuple(Codec)


class Rig:
    """A streamer between a scripted display and a test that keeps what is sent."""

    def __init__(
        self, capture: ScriptedCapture, screen: Screen, listener: Listener, codecs: Codecs
    ) -> None:
        self.capture = capture
        self.screen = screen
        self.said = list[str]()
        self.failed = list[str]()
        self.is_full = False  # the host takes nothing
        self._signal = Signal()
        self._heard = 0
        self._host = DeviceConnection(Role.HOST)
        self._host.send(Capabilities())
        self._host.send(StartStop(EVERYTHING))
        self.sender = Sender(self._write, "test")
        self.streamer = Streamer(
            screen, codecs, FrameLog("", binary=False, frames=False), self.sender,
            pack=device.pack, fail=self._fail, max_frame=500,
        )  # fmt: skip
        listener.changed = self.streamer.on_changed

    async def hear(self, *expected: str) -> None:
        """Wait until the next formats and frames are there, and see that they are these."""
        end = self._heard + len(expected)
        await self._signal.until(lambda: len(self.said) >= end or bool(self.failed))
        assert self.said[self._heard : end] == list(expected)
        self._heard = end

    async def until_failed(self) -> None:
        await self._signal.until(lambda: bool(self.failed))

    async def quiet(self) -> None:
        """Let the display do what it was asked, and see that nothing more is said."""
        for _ in range(3):
            await settled(self.screen)
            await turns(5)
        assert self.said[self._heard :] == []

    def _write(self, data: memoryview) -> int:
        if self.is_full:
            return 0
        for message in self._host.receive(data):
            match message:
                case Format():
                    self.said.append(
                        f"{Codec(message.codec).name} {message.width}x{message.height}"
                    )
                case Data():
                    self.said.append(bytes(message.frame).rstrip(b"\0").decode())
        self._signal.happened()
        return len(data)

    def _fail(self, reason: str) -> None:
        self.failed.append(reason)
        self._signal.happened()


@asynccontextmanager
async def rigged(*wanted: str, framerate: int = 100) -> AsyncIterator[Rig]:
    capture, listener = ScriptedCapture(), Listener()
    screen = Screen(lambda: capture, listener)
    screen.start()
    codecs = Codecs([Jpeg, Vp8, Vp9], {}, framerate, wanted or (AUTO,))
    rig = Rig(capture, screen, listener, codecs)
    try:
        yield rig
    finally:
        capture.gate.set()
        rig.streamer.close()
        screen.close(10)


async def fall_behind(rig: Rig, clock: Clock) -> None:
    """Begin a stream whose first frame takes too long; its codec is changed."""
    rig.streamer.pipeline.withhold()
    rig.streamer.pipeline.add_credit()
    rig.streamer.start(EVERYTHING)
    await rig.hear("MJPEG 48x32", "jpeg:0")
    rig.capture.draw()
    await rig.quiet()
    clock.advance(LATE + 0.1)
    rig.streamer.pipeline.add_credit()
    await rig.hear("VP8 48x32", "vp8:0")


@in_loop
async def test_a_host_that_does_not_keep_up_gets_a_small_codec() -> None:
    async with rigged() as rig:
        await fall_behind(rig, Clock())
        assert rig.streamer.why == "the host does not keep up with MJPEG"
        rig.streamer.pipeline.add_credit()
        rig.capture.draw()
        await rig.hear("vp8:1")


@in_loop
async def test_the_rate_is_told_as_the_reason() -> None:
    async with rigged() as rig:
        rig.streamer.pipeline.told_rate = 250e3
        await fall_behind(rig, Clock())
        assert rig.streamer.why == "the host takes only 0.25 MB/s"


@in_loop
async def test_mjpeg_is_tried_again_and_the_next_time_later() -> None:
    async with rigged(framerate=1) as rig:
        clock = Clock()
        await fall_behind(rig, clock)
        for number in range(1, ENOUGH):
            rig.streamer.pipeline.add_credit()
            rig.capture.draw()
            await rig.quiet()
            clock.advance(1)  # the time of one frame
            await rig.hear(f"vp8:{number}")
        rig.streamer.pipeline.add_credit()
        await rig.hear("MJPEG 48x32", "jpeg:0")
        assert rig.streamer.why == "the host keeps up"
        clock.advance(1 + LATE)  # more than the time of one frame
        rig.streamer.pipeline.add_credit()
        await rig.hear("VP8 48x32", "vp8:0")
        assert rig.streamer._choice.patience == 2 * PATIENCE


@in_loop
async def test_a_new_stream_goes_on_with_the_codec_of_the_last() -> None:
    async with rigged() as rig:
        await fall_behind(rig, Clock())
        rig.streamer.pipeline.add_credit()
        rig.streamer.start(EVERYTHING)
        await rig.hear("VP8 48x32", "vp8:0")
        rig.streamer.pipeline.add_credit()
        rig.streamer.start([Codec.MJPEG])  # another client
        await rig.hear("MJPEG 48x32", "jpeg:0")


@in_loop
async def test_a_codec_that_was_chosen_stays() -> None:
    async with rigged("jpeg") as rig:
        clock = Clock()
        rig.streamer.pipeline.withhold()
        rig.streamer.pipeline.add_credit()
        rig.streamer.start(EVERYTHING)
        await rig.hear("MJPEG 48x32", "jpeg:0")
        rig.capture.draw()
        await rig.quiet()
        clock.advance(LATE + 0.1)
        rig.streamer.pipeline.add_credit()
        await rig.hear("jpeg:1")
        assert rig.streamer.why == ""


@in_loop
async def test_an_encoder_that_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Vp8, "cannot_open", True)
    async with rigged("vp8", "vp9") as rig:
        rig.streamer.start(EVERYTHING)
        await rig.hear("VP8 48x32", "VP9 48x32", "vp9:0")
        rig.capture.draw()
        await rig.hear("vp9:1")
        assert rig.streamer.why == "vp8 failed: no such device"
        warnings = [it.getMessage() for it in caplog.records if it.levelno >= logging.WARNING]
        assert warnings == ["vp8 failed: no such device"]
        monkeypatch.setattr(Vp8, "cannot_open", False)
        rig.streamer.start(EVERYTHING)
        await rig.hear("VP8 48x32", "vp8:0")


@in_loop
async def test_an_encoder_that_dies_in_mid_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vp8, "fails_at", 2)
    monkeypatch.setattr(Vp9, "fails_at", 1)
    async with rigged("vp8", "vp9") as rig:
        rig.streamer.start(EVERYTHING)
        await rig.hear("VP8 48x32", "vp8:0")
        for expected in (["vp8:1"], ["VP9 48x32", "vp9:0"], ["MJPEG 48x32", "jpeg:0"], ["jpeg:1"]):
            rig.capture.draw()
            await rig.hear(*expected)
        assert rig.failed == []


@in_loop
async def test_when_mjpeg_fails_too_the_stream_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vp8, "fails_at", 0)
    monkeypatch.setattr(Jpeg, "fails_at", 0)
    async with rigged("vp8") as rig:
        rig.streamer.start(EVERYTHING)
        await rig.until_failed()
        assert rig.failed == ["the device is gone"]
        rig.capture.draw()
        await settled(rig.screen)
        assert rig.capture.calls == ["begin", "end"]


@in_loop
async def test_a_size_that_the_encoder_does_not_take() -> None:
    async with rigged("vp9") as rig:
        rig.streamer.start(EVERYTHING)
        await rig.hear("VP9 48x32", "vp9:0")
        rig.capture.size_now = (20, 10)
        rig.capture.draw()
        await rig.hear("MJPEG 20x10", "jpeg:0")
        assert rig.streamer.why == "vp9 failed: it takes no picture of 20x10"
        rig.streamer.start(EVERYTHING)
        await rig.hear("MJPEG 20x10", "jpeg:0")
        assert rig.streamer.why == "vp9 takes no picture of 20x10"


@in_loop
async def test_a_new_size_is_a_new_beginning() -> None:
    async with rigged("vp8") as rig:
        rig.streamer.start(EVERYTHING)
        await rig.hear("VP8 48x32", "vp8:0")
        rig.capture.size_now = (20, 10)
        rig.capture.draw()
        await rig.hear("VP8 20x10", "vp8:0")


@in_loop
async def test_a_frame_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vp8, "is_huge", True)
    async with rigged("vp8") as rig:
        rig.streamer.pipeline.withhold()
        rig.streamer.pipeline.add_credit()  # which the frame that is not sent does not use up
        rig.streamer.start(EVERYTHING)
        await rig.hear("VP8 48x32", "MJPEG 48x32", "jpeg:0")
        rig.streamer.pipeline.add_credit()
        assert rig.streamer.why == "vp8 failed: a frame of 1005 bytes is over the host's 500"
        monkeypatch.setattr(Jpeg, "is_huge", True)
        rig.capture.draw()
        await rig.until_failed()
        assert rig.failed == ["a frame of 1006 bytes is over the host's 500"]


@pytest.mark.parametrize("seed", range(5))
@in_loop
async def test_each_frame_comes_after_all_that_it_needs(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happens, and however long the host takes nothing."""
    chance = random.Random(seed)
    monkeypatch.setattr(Vp9, "fails_at", 5)
    async with rigged(*([AUTO] if seed % 2 else ["vp9", "vp8"])) as rig:
        clock = Clock()
        rig.streamer.start(EVERYTHING)
        for _ in range(500):
            something(chance, rig, clock)
            await turns(chance.randrange(4))
            if chance.random() < 0.2:
                await settled(rig.screen)
        assert rig.failed == []
        assert_whole(rig.said)


def something(chance: random.Random, rig: Rig, clock: Clock) -> None:
    match chance.randrange(40):
        case 0:
            rig.streamer.start(EVERYTHING)
        case 1:
            rig.capture.size_now = chance.choice([SIZE, (20, 10)])
        case 2 | 3 | 4:
            rig.is_full = True
        case 5:
            clock.advance(chance.choice([0.1, 0.5, 6.0]))
        case number if number < 10:
            rig.is_full = False
            rig.sender.flush()
        case number if number < 25:
            clock.advance(0.01)  # the time of one frame
        case _:
            rig.capture.draw()


def assert_whole(said: list[str]) -> None:
    """See that after each FORMAT come all frames of one encoder, from its first on."""
    codec, count = "", 0
    for words in said:
        name, _, number = words.partition(":")
        if number:
            assert (codec, count) == ({"jpeg": "MJPEG"}.get(name, name.upper()), int(number))
            count += 1
        else:
            codec, count = words.split()[0], 0
