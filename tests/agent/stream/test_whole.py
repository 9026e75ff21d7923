"""Whatever happened on the way: what a client decodes in the end is the screen, in every band."""

import io
import random
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import pytest
from PIL import Image, ImageChops, ImageStat

from agent.capture.base import BAND, Changes, Frame
from agent.encode import find_encoders
from agent.stream.framelog import FrameLog
from agent.stream.pacing import LONGEST_REST
from agent.stream.screen import Screen
from agent.stream.sender import Sender
from agent.stream.streamer import Codecs, Streamer
from sessiond.wire import device
from sessiond.wire.device import Capabilities, Codec, Data, Format, Role, StartStop
from sessiond.wire.device_state import DeviceConnection
from tests.agent.scripted import Listener, ScriptedCapture, settled
from tests.fixtures.loop import Clock, Signal, in_loop, turns

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

av = pytest.importorskip("av")

DECODERS: Final = {Codec.VP8: "vp8", Codec.VP9: "vp9", Codec.H264: "h264", Codec.H265: "hevc"}
SIZES: Final = ((160, 120), (96, 90))
LIGHT, DARK = 200, 40
LIKE: Final = 20  # of brightness, on average in a band; what is drawn differs by 80 at least


class Painted(ScriptedCapture):
    """Light and dark stripes; a frame says which bands were painted since the one before."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._lock = threading.Lock()
        self._painted: set[int] | None = None
        self.resize(SIZES[0])

    def resize(self, size: tuple[int, int]) -> None:
        with self._lock:
            self.size_now = size
            self.picture = Image.new("L", size, DARK)
            self._painted = None
        self.paint()

    def paint(self) -> None:
        """Paint the half of some bands, and say so."""
        width, height = self.size_now
        bands = range(-(-height // BAND))
        with self._lock:
            for band in self._chance.sample(bands, self._chance.choice([1, 1, 2, len(bands)])):
                left = self._chance.randrange(width // 2)
                box = (left, band * BAND, left + width // 2, min(height, (band + 1) * BAND))
                self.picture.paste(self._chance.choice([LIGHT, DARK]), box)
                if self._painted is not None:
                    self._painted.add(band)
        self.tell(Changes.PICTURE)

    def grab(self, slot: int) -> Frame | None:
        with self._lock:
            width, height = self.size_now
            pixels = self.picture.convert("RGB").tobytes("raw", "BGRX")
            changed = None if self._painted is None else frozenset(self._painted)
            self._painted = set()
        if len(self._memory[slot]) != len(pixels):
            self._memory[slot] = bytearray(len(pixels))
        self._memory[slot][:] = pixels
        return Frame(width, height, 4 * width, memoryview(self._memory[slot]), slot, changed)


class Client:
    """Decodes every frame, those of each stream by a decoder of its own."""

    def __init__(self) -> None:
        self.seen = Image.new("L", (1, 1))
        self.frames = 0
        self._decode: Callable[[bytes], Image.Image] = from_jpeg

    def hear(self, message: object) -> None:
        match message:
            case Format(codec=Codec.MJPEG):
                self._decode = from_jpeg
            case Format():
                self._decode = video_decoder(Codec(message.codec))
            case Data():
                self.seen = self._decode(bytes(message.frame))
                self.frames += 1

    def shows(self, screen: Image.Image) -> bool:
        if self.seen.size != screen.size:
            return False
        difference = ImageChops.difference(self.seen, screen)
        width, height = screen.size
        boxes = [(0, top, width, min(height, top + BAND)) for top in range(0, height, BAND)]
        return all(ImageStat.Stat(difference.crop(box)).mean[0] < LIKE for box in boxes)


def from_jpeg(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("L")


def video_decoder(codec: Codec) -> Callable[[bytes], Image.Image]:
    context = av.CodecContext.create(DECODERS[codec], "r")
    context.thread_count = 1
    context.options = {"flags": "low_delay"}

    def decode(data: bytes) -> Image.Image:
        frames: list[VideoFrame] = context.decode(av.Packet(data))
        luma = frames[-1].planes[0]
        size = (luma.width, luma.height)
        grey = Image.frombytes("L", size, bytes(luma), "raw", "L", luma.line_size)
        return grey.point([(value - 16) * 255 // 219 for value in range(256)])

    return decode


class Rig:
    """A streamer between a painted display and a client that decodes."""

    def __init__(self, capture: Painted, screen: Screen, listener: Listener, wanted: str) -> None:
        self.capture = capture
        self.screen = screen
        self.failed = list[str]()
        self.is_full = False  # the host takes nothing
        self.client = Client()
        self.until = (signal := Signal()).until
        self._happened = signal.happened
        self._host = DeviceConnection(Role.HOST)
        self._host.send(Capabilities())
        self._host.send(StartStop(tuple(Codec)))
        self.sender = Sender(self._write, "test")
        encoders = find_encoders()
        options = {name: it.default for each in encoders for name, it in each.options.items()}
        self.streamer = Streamer(
            screen, Codecs(encoders, options, 100, (wanted,)),
            FrameLog("", binary=False, frames=False), self.sender,
            pack=device.pack, fail=self.failed.append,
        )  # fmt: skip
        listener.changed = self.streamer.on_changed

    def _write(self, data: memoryview) -> int:
        if self.is_full:
            return 0
        # Not all of it: the next thing may happen in the middle of a message.
        count = min(len(data), 700)
        for message in self._host.receive(data[:count]):
            self.client.hear(message)
        self._happened()
        return count


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("wanted", ["auto", "jpeg", "vp8", "vp9", "h264"])
@in_loop
async def test_in_the_end_the_client_shows_the_screen(wanted: str, seed: int) -> None:
    chance, listener = random.Random(seed), Listener()
    capture = Painted(chance)
    screen = Screen(lambda: capture, listener)
    screen.start()
    clock = Clock()
    rig = Rig(capture, screen, listener, wanted)
    try:
        rig.streamer.start(tuple(Codec))
        for _ in range(5):
            for _ in range(500):
                something(chance, rig, clock)
                await turns(chance.randrange(3))
                if chance.random() < 0.1:
                    await settled(screen)
            rig.is_full = False
            rig.sender.flush()
            capture.paint()
            for _ in range(2):  # the frame itself, and its repetition
                count = rig.client.frames
                clock.advance(LONGEST_REST)
                await rig.until(lambda count=count: rig.client.frames > count)  # type: ignore[misc]
                await rig.until(lambda: rig.client.shows(capture.picture))
        assert rig.failed == []
    finally:
        rig.streamer.close()
        screen.close(10)


def something(chance: random.Random, rig: Rig, clock: Clock) -> None:
    match chance.randrange(100):
        case 0 | 1:
            rig.streamer.start(tuple(Codec))
        case 2:
            rig.capture.resize(chance.choice(SIZES))
        case number if number < 10:
            rig.is_full = True
        case number if number < 12:
            clock.advance(chance.choice([0.1, 0.5, 6.0]))
        case number if number < 20:
            rig.is_full = False
            rig.sender.flush()
        case number if number < 50:
            clock.advance(0.01)  # the time of one frame
        case _:
            rig.capture.paint()
