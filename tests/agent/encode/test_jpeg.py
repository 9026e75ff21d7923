"""JPEG pictures of frames."""

import io
import random
from dataclasses import replace

import pytest
from PIL import Image

from agent.capture.base import Frame
from agent.encode import jpeg
from agent.encode.jpeg import JpegEncoder
from agent.encode.pillow import CAN_RESTART
from sessiond.errors import EncoderError

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "orange": (255, 128, 0),
}


def frame_of(picture: Image.Image, stride: int = 0) -> Frame:
    """Make a frame whose padding bytes and row ends are not black, as in real memory."""
    width, height = picture.size
    stride = stride or 4 * width
    rows = memoryview(picture.tobytes("raw", "BGRX"))
    pixels = bytearray(b"\xa5" * (stride * height))
    length = 4 * width
    for row in range(height):
        pixels[row * stride : row * stride + length] = rows[row * length : (row + 1) * length]
    pixels[3::4] = b"\x5a" * len(pixels[3::4])
    return Frame(width, height, stride, memoryview(pixels), 0)


def noise(width: int, height: int) -> Image.Image:
    pixels = random.Random(width * height).randbytes(3 * width * height)
    return Image.frombytes("RGB", (width, height), pixels)


def desktop(width: int, height: int) -> Image.Image:
    """Make a picture of surfaces and edges."""
    picture = Image.new("RGB", (width, height), (58, 110, 165))
    picture.paste((236, 233, 216), (width // 8, height // 8, width * 7 // 8, height * 7 // 8))
    picture.paste(noise(max(1, width // 9), max(1, height // 9)), (width // 3, height // 3))
    return picture


def plain(frame: Frame, quality: int, subsampling: int = 2, restart_rows: int = 1) -> bytes:
    """Encode as everybody does: by a conversion to RGB, and the whole picture at once."""
    size = (frame.width, frame.height)
    picture = Image.frombuffer("RGB", size, bytes(frame.pixels), "raw", "BGRX", frame.stride, 1)
    output = io.BytesIO()
    options = {"restart_marker_rows": restart_rows} if CAN_RESTART else {}
    picture.save(output, "JPEG", quality=quality, subsampling=subsampling, **options)
    return output.getvalue()


def assert_same(found: bytes, expected: bytes) -> None:
    """See that both are the same picture; the same bytes where `plain` has restart markers."""
    if CAN_RESTART:
        assert found == expected
    else:
        assert decoded(found).tobytes() == decoded(expected).tobytes()


def channels(picture: Image.Image, place: tuple[int, int]) -> tuple[int, ...]:
    pixel = picture.getpixel(place)
    assert isinstance(pixel, tuple)
    return pixel


def decoded(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == "JPEG"
        picture.load()
        return picture.convert("RGB")


@pytest.mark.parametrize("colour", COLOURS.values(), ids=COLOURS)
def test_colours(colour: tuple[int, int, int]) -> None:
    picture = Image.new("RGB", (32, 32), colour)
    found = decoded(JpegEncoder({"quality": 95}).encode(frame_of(picture)))
    pairs = zip(picture.tobytes(), found.tobytes(), strict=True)
    assert max(abs(one - other) for one, other in pairs) <= 3


def test_places() -> None:
    picture = Image.new("RGB", (64, 64))
    for at, name in (((0, 0), "red"), ((32, 0), "green"), ((0, 32), "blue"), ((32, 32), "white")):
        picture.paste(COLOURS[name], (*at, at[0] + 32, at[1] + 32))
    found = decoded(JpegEncoder({"quality": 95}).encode(frame_of(picture)))
    for place in ((16, 16), (48, 16), (16, 48), (48, 48)):  # colours run at the edges: 4:2:0
        pair = zip(channels(found, place), channels(picture, place), strict=True)
        assert max(abs(one - other) for one, other in pair) <= 3


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 33), (1919, 1079)])
@pytest.mark.parametrize("padding", [0, 4, 60])
def test_same_bytes_as_the_plain_way(size: tuple[int, int], padding: int) -> None:
    frame = frame_of(desktop(*size), 4 * size[0] + padding)
    data = JpegEncoder({"quality": 80}).encode(frame)
    assert_same(data, plain(frame, 80))
    assert decoded(data).size == size


def test_memory_is_left_as_it_was() -> None:
    frame = frame_of(desktop(40, 30))
    before = bytes(frame.pixels)
    JpegEncoder({"quality": 80}).encode(frame)
    assert bytes(frame.pixels) == before


def test_quality_costs_bytes() -> None:
    frame = frame_of(desktop(320, 200))
    sizes = [len(JpegEncoder({"quality": q}).encode(frame)) for q in (1, 20, 50, 80, 95, 100)]
    assert sizes == sorted(set(sizes))


def test_too_large_a_frame_lowers_the_quality(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    frame = frame_of(noise(64, 64))
    expected = JpegEncoder({"quality": 60}).encode(frame)
    limit = len(expected)
    monkeypatch.setattr(jpeg, "MAX_FRAME", limit)
    encoder = JpegEncoder({"quality": 90})
    assert encoder.encode(frame) == expected
    assert [message.split(": ")[1] for message in caplog.messages] == [
        "quality is 75 from now on",
        "quality is 60 from now on",
    ]
    assert encoder.encode(frame) == expected
    assert len(caplog.messages) == 2


def test_frame_that_fits_at_no_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "MAX_FRAME", 100)
    with pytest.raises(EncoderError, match=r"^a frame of \d+ bytes is over the host's 100$"):
        JpegEncoder({"quality": 80}).encode(frame_of(noise(16, 16)))


def test_frame_too_large_for_jpeg() -> None:
    frame = Frame(70000, 1, 280000, memoryview(bytes(280000)), 0)
    with pytest.raises(EncoderError, match=r"^JPEG of 70000x1: [^\n]*$"):
        JpegEncoder({"quality": 80}).encode(frame)


def test_levels_of_quality() -> None:
    frame = frame_of(desktop(160, 100))
    encoder = JpegEncoder({"quality": 80, "min-quality": 45})
    assert encoder.levels == 5
    for level, quality in ((0, 80), (1, 70), (4, 45), (0, 80)):
        encoder.level = level
        assert_same(encoder.encode(frame), plain(frame, quality))
        assert encoder.quality == quality


@pytest.mark.parametrize("options", [{}, {"min-quality": 80}, {"min-quality": 100}])
def test_one_level_is_the_rule(options: dict[str, int]) -> None:
    assert JpegEncoder({"quality": 80, **options}).levels == 1


def test_strips_of_one_quality_are_not_joined_with_those_of_another() -> None:
    frame = frame_of(desktop(64, 64))
    encoder = JpegEncoder({"quality": 80, "min-quality": 50})
    encoder.encode(frame)
    encoder.level = 2
    part = replace(frame, changed=frozenset({1}))
    assert_same(encoder.encode(part), plain(frame, 60))


def test_size_counts_more_than_the_lowest_quality() -> None:
    frame = frame_of(noise(64, 64))
    encoder = JpegEncoder({"quality": 80, "min-quality": 70})
    encoder.max_frame = len(JpegEncoder({"quality": 50}).encode(frame))
    encoder.level = 1
    assert len(encoder.encode(frame)) <= encoder.max_frame
    assert encoder.quality == 50


def test_what_did_not_change_is_kept_from_frame_to_frame() -> None:
    encoder = JpegEncoder({"quality": 80, "min-quality": 50})
    encoder.level = 1
    before = encoder.encode(frame_of(desktop(64, 64)))
    other = replace(frame_of(noise(64, 64)), changed=frozenset())
    assert encoder.encode(other) == before


def refined(encoder: JpegEncoder, frame: Frame) -> bytes:
    encoder.is_refining = True
    try:
        return encoder.encode(frame)
    finally:
        encoder.is_refining = False


def test_at_rest_a_picture_has_all_its_colours() -> None:
    frame = frame_of(desktop(160, 100))
    encoder = JpegEncoder({"quality": 80})
    encoder.encode(frame)
    at_rest = replace(frame, changed=frozenset())
    assert_same(refined(encoder, at_rest), plain(frame, 95, subsampling=0))
    assert encoder.quality == 95
    assert_same(encoder.encode(at_rest), plain(frame, 80))
    assert encoder.quality == 80


def test_quality_does_not_sink_at_rest() -> None:
    frame = frame_of(desktop(64, 64))
    assert_same(refined(JpegEncoder({"quality": 98}), frame), plain(frame, 98, subsampling=0))


def test_at_rest_only_what_changed_since_the_last_rest_is_encoded() -> None:
    first, second = desktop(64, 96), noise(64, 96)
    encoder = JpegEncoder({"quality": 80})
    refined(encoder, frame_of(first))
    mixed = first.copy()
    for band in (1, 3):
        mixed.paste(second.crop((0, 16 * band, 64, 16 * band + 16)), (0, 16 * band))
        encoder.encode(replace(frame_of(mixed), changed=frozenset({band})))
    # What is not told as changed shows whether it was looked at.
    other = noise(64, 96)
    other.paste(mixed.crop((0, 16, 64, 64)), (0, 16))
    found = refined(encoder, replace(frame_of(other), changed=frozenset()))
    if CAN_RESTART:
        assert_same(found, plain(frame_of(mixed), 95, subsampling=0))
    assert_same(refined(encoder, frame_of(second)), plain(frame_of(second), 95, subsampling=0))


@pytest.mark.parametrize(("share", "is_sharp"), [(0.99, False), (1.01, True)])
def test_at_rest_a_picture_is_not_sharper_than_the_line_takes_soon(
    share: float, *, is_sharp: bool
) -> None:
    frame = frame_of(desktop(160, 100))
    ordinary, sharp = plain(frame, 80), refined(JpegEncoder({"quality": 80}), frame)
    for limit in ("rate", "max_frame"):
        encoder = JpegEncoder({"quality": 80})
        if limit == "rate":
            encoder.rate = share * len(sharp) / 0.3
        else:
            encoder.max_frame = int(share * len(sharp))
        found = refined(encoder, frame)
        assert_same(found, sharp if is_sharp else ordinary)
        assert encoder.quality == (95 if is_sharp else 80)
        assert_same(refined(encoder, replace(frame, changed=frozenset())), found)


def test_where_even_the_ordinary_picture_is_slow_none_is_sharpened() -> None:
    frame = frame_of(desktop(160, 100))
    encoder = JpegEncoder({"quality": 80})
    encoder.rate = 1.0
    refined(encoder, frame)
    assert encoder._sharp is None


def test_a_rest_leaves_the_next_change_brief() -> None:
    frame = frame_of(desktop(64, 640))
    encoder = JpegEncoder({"quality": 80})
    encoder.encode(frame)
    refined(encoder, replace(frame, changed=frozenset()))
    assert encoder.is_brief(replace(frame, changed=frozenset({3})))


def test_only_a_small_change_in_the_same_quality_is_brief() -> None:
    frame = frame_of(desktop(64, 640))
    few, many = replace(frame, changed=frozenset({3})), replace(frame, changed=frozenset(range(16)))
    encoder = JpegEncoder({"quality": 80, "min-quality": 40})
    assert not encoder.is_brief(few)  # the first is a whole one
    encoder.encode(frame)
    assert encoder.is_brief(few)
    assert not encoder.is_brief(many)
    assert not encoder.is_brief(frame)  # nobody knows what changed
    assert not encoder.is_brief(replace(frame_of(desktop(64, 624)), changed=frozenset({3})))
    encoder.level = 1
    assert not encoder.is_brief(few)
