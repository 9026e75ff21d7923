"""Video codecs, by what a decoder makes of their frames."""

import dataclasses
import logging
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final

import pytest
from PIL import Image, ImageChops, ImageStat

from agent.capture.base import BAND, Frame
from agent.encode import recipes, video
from agent.encode.video import H264Encoder, H265Encoder, VideoEncoder, Vp8Encoder, Vp9Encoder
from sessiond.errors import EncoderError
from tests.fixtures.colours import colour_card, colour_error

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

av = pytest.importorskip("av")

ALL: Final = (Vp8Encoder, Vp9Encoder, H264Encoder, H265Encoder)
DECODERS: Final = {"vp8": "vp8", "vp9": "vp9", "h264": "h264", "h265": "hevc"}
KEY_NALS: Final = {"h264": b"\0\0\0\1\x67", "h265": b"\0\0\0\1\x40"}  # SPS; VPS
KR_KB: Final = ((0.299, 0.114), (0.2126, 0.0722))  # of BT.601 and BT.709
DELIMITER: Final = b"\0\0\0\1\x09\xf0"


def frame_of(picture: Image.Image, changed: frozenset[int] | None = None, pad: int = 0) -> Frame:
    """Make a frame; PAD bytes that are not black stand at the end of each row but the last."""
    width, height = picture.size
    rows = picture.tobytes("raw", "BGRX")
    stride = 4 * width + pad
    pixels = b"".join(
        rows[4 * width * row : 4 * width * (row + 1)] + b"\xa5" * pad for row in range(height)
    )
    memory = memoryview(bytearray(pixels[: len(pixels) - pad]))
    return Frame(width, height, stride, memory, 0, changed)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    data = random.Random(seed).randbytes(width * height // 16)
    return (
        Image.frombytes("L", (width // 4, height // 4), data).resize((width, height)).convert("RGB")
    )


def made(kind: type[VideoEncoder], **options: int) -> VideoEncoder:
    values = {name: option.default for name, option in kind.options.items()}
    return kind({**values, **options})


class Decoder:
    """Decodes a stream as a client does, by the rule that VP8 leaves it."""

    def __init__(self, name: str) -> None:
        self._context = av.CodecContext.create(DECODERS[name], "r")
        self._context.thread_count = 1
        self._context.options = {"flags": "low_delay"}

    def frame(self, data: bytes) -> "VideoFrame":
        frames: list[VideoFrame] = self._context.decode(av.Packet(data))
        (frame,) = frames
        return frame

    def picture(self, data: bytes) -> Image.Image:
        frame = self.frame(data)
        size = (frame.width, frame.height)
        planes = []
        for plane in frame.planes:
            of = (plane.width, plane.height)
            grey = Image.frombytes("L", of, bytes(plane), "raw", "L", plane.line_size)
            planes.append(grey if of == size else grey.resize(size, Image.Resampling.BILINEAR))
        return Image.merge("RGB", planes).convert("RGB", to_rgb(*KR_KB[frame.height > 576]))


def to_rgb(kr: float, kb: float) -> tuple[float, ...]:
    """Return the matrix of ITU-T H.273, 8.3, for limited range."""
    kg, luma, chroma = 1 - kr - kb, 255 / 219, 255 / 112
    rows = (
        (0.0, (1 - kr) * chroma),
        (-kb * (1 - kb) / kg * chroma, -kr * (1 - kr) / kg * chroma),
        ((1 - kb) * chroma, 0.0),
    )
    return sum(((luma, u, v, -16 * luma - 128 * (u + v)) for u, v in rows), ())


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Return how alike two pictures are, in dB, by their brightness."""
    difference = ImageChops.difference(one.convert("L"), other.convert("L"))
    (square,) = ImageStat.Stat(difference.point([x * x // 4 for x in range(256)], "L")).mean
    return 10 * math.log10(255**2 / max(4 * square, 1e-9))


def is_key(name: str, data: bytes) -> bool:
    if name == "vp8":
        return not data[0] & 1  # RFC 6386, 9.1
    if name == "vp9":
        return data[0] & 0b11101100 == 0b10000000  # frame marker, and bit 2: not a key frame
    return KEY_NALS[name] in data


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let each frame come 33 ms after the one before, or when it is told to."""
    now = [1000.0]

    def monotonic() -> float:
        now[0] += 0.033
        return now[0]

    def advance(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(video, "time", SimpleNamespace(monotonic=monotonic))
    return advance


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("height", [240, 576, 578])
def test_colours_are_those_of_the_screen(kind: type[VideoEncoder], height: int) -> None:
    card = colour_card(320, height)
    encoder, decoder = made(kind), Decoder(kind.name)
    seen = [decoder.picture(encoder.encode(frame_of(card))) for _ in range(8)][-1]
    assert colour_error(seen) <= 8
    assert psnr(seen, card) > 33


@pytest.mark.skipif(not hasattr(av.VideoFrame, "colorspace"), reason="PyAV does not tell")
@pytest.mark.parametrize("kind", [Vp9Encoder, H264Encoder, H265Encoder])
@pytest.mark.parametrize(("height", "said"), [(240, 6), (578, 1)])  # AVColorSpace
def test_stream_says_which_matrix_made_it(kind: type[VideoEncoder], height: int, said: int) -> None:
    seen = Decoder(kind.name).frame(made(kind).encode(frame_of(colour_card(320, height))))
    assert (seen.colorspace, seen.color_range) == (said, 1)


@pytest.mark.parametrize("kind", ALL)
def test_only_the_first_frame_is_a_key_frame(kind: type[VideoEncoder]) -> None:
    encoder = made(kind)
    frames = [encoder.encode(frame_of(noise(64, 64, seed))) for seed in range(20)]
    assert [is_key(kind.name, data) for data in frames] == [True] + 19 * [False]


@pytest.mark.parametrize("kind", ALL)
def test_every_frame_shows_its_own_picture_at_once(kind: type[VideoEncoder]) -> None:
    encoder, decoder = made(kind), Decoder(kind.name)
    for number in range(5):
        picture = Image.new("RGB", (96, 64), (0, 0, 40))
        picture.paste((240, 240, 240), (16 * number, 0, 16 * number + 16, 64))
        assert psnr(decoder.picture(encoder.encode(frame_of(picture))), picture) > 25


@pytest.mark.parametrize("kind", ALL)
def test_another_size_begins_anew(kind: type[VideoEncoder]) -> None:
    encoder = made(kind)
    encoder.encode(frame_of(noise(64, 64)))
    card = colour_card(320, 96)
    data = encoder.encode(frame_of(card, frozenset({1})))
    assert is_key(kind.name, data)
    assert psnr(Decoder(kind.name).picture(data), card) > 20


@pytest.mark.parametrize("kind", [Vp8Encoder, Vp9Encoder])
@pytest.mark.parametrize("size", [(1, 1), (33, 17), (321, 601)])
def test_vpx_takes_every_size(kind: type[VideoEncoder], size: tuple[int, int]) -> None:
    assert kind.accepts(*size)
    picture = Image.new("RGB", size, (255, 128, 0))
    encoder, decoder = made(kind), Decoder(kind.name)
    bands = frozenset(range(-(-size[1] // BAND)))
    decoder.picture(encoder.encode(frame_of(Image.new("RGB", size))))
    frames = [encoder.encode(frame_of(picture, bands)) for _ in range(5)]
    seen = [decoder.picture(data) for data in frames][-1]
    assert seen.size == size
    corner = seen.getpixel((size[0] - 1, size[1] - 1))
    assert isinstance(corner, tuple)
    assert max(abs(a - b) for a, b in zip(corner, (255, 128, 0), strict=True)) <= 16


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (H264Encoder, (65, 64)), (H264Encoder, (64, 65)),
        (H265Encoder, (64, 65)), (H265Encoder, (14, 64)), (H265Encoder, (64, 8)),
    ],
)  # fmt: skip
def test_size_that_the_coder_does_not_take(kind: type[VideoEncoder], size: tuple[int, int]) -> None:
    assert not kind.accepts(*size)
    with pytest.raises(EncoderError, match=f"{kind.name} of {size[0]}x{size[1]}"):
        made(kind).encode(frame_of(Image.new("RGB", size)))


@pytest.mark.parametrize(
    ("kind", "fits", "is_over"),
    [
        (Vp8Encoder, (5120, 2880), (8192, 4096)),
        (Vp9Encoder, (4096, 2304), (5120, 2880)),
        (H264Encoder, (7680, 4320), (8192, 8192)),
        (H265Encoder, (5120, 2880), (8192, 4096)),
    ],
)
def test_size_of_more_memory_than_an_agent_may_have(
    kind: type[VideoEncoder], fits: tuple[int, int], is_over: tuple[int, int]
) -> None:
    assert kind.accepts(*fits)
    assert not kind.accepts(*is_over)


@pytest.mark.parametrize(
    ("kind", "size"), [(H264Encoder, (2, 2)), (H265Encoder, (16, 16)), (H265Encoder, (18, 34))]
)
def test_least_size_that_the_coder_takes(kind: type[VideoEncoder], size: tuple[int, int]) -> None:
    assert kind.accepts(*size)
    assert is_key(kind.name, made(kind).encode(frame_of(Image.new("RGB", size))))


@pytest.mark.parametrize("pad", [0, 4, 64])
@pytest.mark.parametrize("width", [320, 326])  # rows of planes are as long as those of it, or not
def test_only_what_changed_is_looked_at(pad: int, width: int) -> None:
    before, after = noise(width, 100, 1), noise(width, 100, 2)
    expected = before.copy()
    for band in (1, 6):
        box = (0, band * BAND, width, min(100, (band + 1) * BAND))
        expected.paste(after.crop(box), box[:2])
    encoder, decoder = made(H264Encoder, **{"h264.crf": 5}), Decoder("h264")
    decoder.picture(encoder.encode(frame_of(before, pad=pad)))
    seen = decoder.picture(encoder.encode(frame_of(after, frozenset({1, 6, 7}), pad=pad)))
    assert psnr(seen, expected) > 40
    seen = decoder.picture(encoder.encode(frame_of(after, frozenset(range(7)), pad=pad)))
    assert psnr(seen, after) > 40


def test_pixels_that_are_not_there() -> None:
    frame = frame_of(noise(64, 64))
    for lacking in (
        dataclasses.replace(frame, pixels=frame.pixels[:-1]),
        dataclasses.replace(frame, stride=4 * 63),
    ):
        with pytest.raises(EncoderError, match="64x64: not enough pixels"):
            made(Vp8Encoder).encode(lacking)


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize("kind", [Vp8Encoder, Vp9Encoder, H264Encoder])
def test_nothing_runs_in_threads_of_its_own(kind: type[VideoEncoder]) -> None:
    before = threads()
    encoder = made(kind)
    encoder.encode(frame_of(noise(640, 480)))
    encoder.encode(frame_of(noise(640, 480), frozenset({1})))
    assert threads() <= before  # those of other tests may end


@pytest.mark.parametrize("kind", ALL)
def test_frame_that_is_too_large(kind: type[VideoEncoder]) -> None:
    encoder = made(kind)
    encoder.max_frame = 100
    with pytest.raises(EncoderError, match=r"^a frame of \d+ bytes is over the host's 100$"):
        encoder.encode(frame_of(noise(256, 256)))


def sizes(kind: type[VideoEncoder], rate: float, count: int) -> list[int]:
    encoder = made(kind)
    encoder.rate = rate
    return [len(encoder.encode(frame_of(noise(512, 512, seed)))) for seed in range(count)]


@pytest.mark.parametrize("kind", [Vp8Encoder, Vp9Encoder])
def test_frames_fit_the_rate(kind: type[VideoEncoder]) -> None:
    slow, fast = (sum(sizes(kind, rate, 10)[4:]) for rate in (100_000, 1_000_000))
    assert 1.5 * slow < fast
    assert sizes(kind, 0, 6) == sizes(kind, 2_500_000, 6)


@pytest.mark.parametrize("kind", [Vp8Encoder, Vp9Encoder])
def test_picture_at_rest_becomes_sharp(
    kind: type[VideoEncoder], clock: Callable[[float], None]
) -> None:
    card = colour_card(640, 480)
    found = []
    for is_refining in (False, True):
        encoder, decoder = made(kind), Decoder(kind.name)
        encoder.rate = 250_000
        for seed in range(8):
            decoder.picture(encoder.encode(frame_of(noise(640, 480, seed))))
        decoder.picture(encoder.encode(frame_of(card)))
        clock(0.3)
        encoder.is_refining = is_refining
        found.append(psnr(decoder.picture(encoder.encode(frame_of(card, frozenset()))), card))
    assert found[1] > found[0] + 1


def test_h264_says_where_a_picture_ends() -> None:
    encoder = made(H264Encoder)
    for seed in range(3):
        data = encoder.encode(frame_of(noise(64, 64, seed)))
        assert data.endswith(2 * DELIMITER)
        assert data.count(DELIMITER) == 2


@pytest.mark.parametrize(
    ("kind", "coder", "option"),
    [
        (Vp8Encoder, "libvpx", "vp8.qmin"), (Vp9Encoder, "libvpx-vp9", "vp9.qmin"),
        (H264Encoder, "libx264", "h264.crf"), (H265Encoder, "libx265", "h265.crf"),
    ],
)  # fmt: skip
def test_quantiser_decides_on_size(kind: type[VideoEncoder], coder: str, option: str) -> None:
    coarse, fine = made(kind, **{option: 48}), made(kind, **{option: 10})
    found = []
    for encoder in (coarse, fine):
        found.append(sum(len(encoder.encode(frame_of(noise(256, 256)))) for _ in range(10)))
        assert encoder.implementation == coder
    assert 1.2 * found[0] < found[1]


def with_recipes(monkeypatch: pytest.MonkeyPatch, *wanted: recipes.Recipe) -> VideoEncoder:
    monkeypatch.setattr(Vp8Encoder, "recipes", wanted)
    return made(Vp8Encoder)


GOOD: Final = recipes.VP8[0]
UNKNOWN: Final = dataclasses.replace(GOOD, coder="no-such-coder")
LATE: Final = dataclasses.replace(recipes.H264[-1], options={})
OF_SOUND: Final = dataclasses.replace(GOOD, coder="aac")


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (UNKNOWN, "no-such-coder: "),
        (LATE, "libx264: a frame became 0 packets"),
        (OF_SOUND, "aac is no coder of pictures"),
    ],
)
def test_next_recipe_where_one_does_not_work(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bad: recipes.Recipe,
    complaint: str,
) -> None:
    caplog.set_level(logging.INFO, "agent.encode")
    encoder = with_recipes(monkeypatch, bad, GOOD)
    first, second = (encoder.encode(frame_of(noise(64, 64))) for _ in range(2))
    assert (is_key("vp8", first), is_key("vp8", second)) == (True, False)
    assert encoder.implementation == "libvpx"
    assert [record.message for record in caplog.records] == [
        f"{caplog.records[0].message.partition(';')[0]}; libvpx instead of {bad.coder}"
    ]
    assert caplog.records[0].message.startswith(complaint)

    with pytest.raises(EncoderError, match=complaint):
        with_recipes(monkeypatch, bad).encode(frame_of(noise(64, 64)))


def use_up(encoder: VideoEncoder) -> None:
    """Tell the coder that there was its last picture; it takes no more."""
    coder = encoder._coder
    assert coder is not None
    coder._context.encode(None)


def test_coder_that_fails_in_mid_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, decoder = with_recipes(monkeypatch, GOOD, GOOD), Decoder("vp8")
    decoder.picture(encoder.encode(frame_of(noise(64, 64))))
    use_up(encoder)
    card = colour_card(64, 64)
    data = encoder.encode(frame_of(card))
    assert is_key("vp8", data)
    decoder.picture(data)
    use_up(encoder)
    with pytest.raises(EncoderError, match=r"^libvpx: "):
        encoder.encode(frame_of(card))


def test_hardware_is_tried_where_there_is_a_device(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    absent = dataclasses.replace(UNKNOWN, device=tmp_path / "no-such-device")
    present = dataclasses.replace(UNKNOWN, device=tmp_path)
    assert with_recipes(monkeypatch, absent, GOOD)._recipes == [GOOD]
    assert with_recipes(monkeypatch, present, GOOD)._recipes == [present, GOOD]


def test_without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ALL:
        assert not kind.missing()
    monkeypatch.setitem(sys.modules, "av", None)
    for kind in ALL:
        assert "python3-av" in kind.missing()
        with pytest.raises(EncoderError, match=f"{kind.name}: needs PyAV"):
            made(kind)
