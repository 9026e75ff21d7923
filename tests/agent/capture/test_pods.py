"""PipeWire's values: what we ask for, and what may come back."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture import pods
from agent.capture.base import MAX_SIDE, Cursor
from agent.capture.pods import CursorMeta, is_corrupted, parse_cursor, parse_format
from sessiond.errors import ProtocolError

RGBA, BGRA, BGRX = 11, 12, 8


def word(*numbers: int) -> bytes:
    return struct.pack(f"={len(numbers)}I", *numbers)


# By spa_pod_builder of PipeWire 0.3.65: size, type, object's type, parameter, then each property's
# key, flags and value.
AGREED = (
    word(0x98, 15, 0x40003, 4)
    + word(1, 0, 4, 3, 2, 0)  # mediaType: video
    + word(2, 0, 4, 3, 1, 0)  # mediaSubtype: raw
    + word(0x20001, 0, 4, 3, BGRX, 0)
    + word(0x20003, 0, 8, 10, 1280, 720)
    + word(0x20004, 0, 8, 11, 0, 1)
    + word(0x20005, 0, 8, 11, 30, 1)
)


def cursor_meta(
    *, number: int = 1, at: tuple[int, int] = (5, -6), hot: tuple[int, int] = (1, 2),
    offset: int = 28, bitmap: bytes = b"",
) -> memoryview:  # fmt: skip
    head = struct.pack("=IIiiiiI", number, 0, *at, *hot, offset)
    return memoryview(head + bitmap)


def bitmap(kind: int, size: tuple[int, int], pixels: bytes, stride: int = 0) -> bytes:
    return struct.pack("=IIIiI", kind, *size, stride or 4 * size[0], 20) + pixels


def test_format_that_was_agreed_on() -> None:
    assert parse_format(AGREED) == (1280, 720)


def test_what_is_asked_for_is_what_is_understood() -> None:
    """Every property of ours is one, and the first of each choice is preferred."""
    assert parse_format(pods.formats(30)) == (1280, 720)
    values = dict(pods._properties(pods.formats(30)))
    assert struct.unpack("=II", values[0x20005]) == (30, 1)
    assert len(pods.formats(30)) % 8 == 0
    assert word(*values_of(pods.buffers(), 1)) == word(6)
    assert [values_of(meta, 1) for meta in pods.metas()] == [(1,), (5,)]
    # Mutter leaves the cursor out where less room than this is asked for.
    assert values_of(pods.metas()[1], 2)[0] >= 384 * 384 * 4 + 48


def values_of(pod: bytes, key: int) -> tuple[int, ...]:
    value = dict(pods._properties(pod))[key]
    return struct.unpack(f"={len(value) // 4}I", value)


@pytest.mark.parametrize(
    ("untrusted", "text"),
    [
        pytest.param(b"", "ends too early", id="nothing"),
        pytest.param(word(0, 14), "not an object", id="a struct"),
        pytest.param(AGREED[:40], "without", id="half"),
        pytest.param(AGREED[:60], "ends too early|without", id="in a property"),
        pytest.param(AGREED.replace(word(BGRX, 0), word(RGBA, 0)), "not asked for", id="colours"),
        pytest.param(AGREED.replace(word(1280), word(MAX_SIDE + 1)), "can be shown", id="wide"),
        pytest.param(AGREED.replace(word(720), word(0)), "can be shown", id="empty"),
        pytest.param(AGREED.replace(word(8, 10, 1280), word(4, 10, 1280)), "none", id="size"),
    ],
)
def test_no_format(untrusted: bytes, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        parse_format(untrusted)


@given(st.binary(max_size=300) | st.binary(max_size=40).map(lambda tail: AGREED[:70] + tail))
def test_any_bytes_are_a_format_or_none(untrusted: bytes) -> None:
    try:
        width, height = parse_format(untrusted)
    except ProtocolError:
        return
    assert 0 < width <= MAX_SIDE
    assert 0 < height <= MAX_SIDE


def test_cursor_is_elsewhere() -> None:
    assert parse_cursor(cursor_meta(number=0)) == CursorMeta(is_here=False)


def test_cursor_has_moved() -> None:
    assert parse_cursor(cursor_meta(offset=0)) == CursorMeta(is_here=True, position=(5, -6))


def test_cursor_is_hidden() -> None:
    told = parse_cursor(cursor_meta(bitmap=bytes(20)))
    assert told == CursorMeta(is_here=True, position=(5, -6), shape=Cursor(0, 0, 0, 0, b""))


@pytest.mark.parametrize("kind", [RGBA, BGRA])
def test_cursor_has_another_shape(kind: int) -> None:
    rows = b"RGBArgba" if kind == RGBA else b"BGRAbgra"
    padded = b"".join(row + b"...." for row in (rows, rows[::-1]))
    told = parse_cursor(cursor_meta(bitmap=bitmap(kind, (2, 2), padded, stride=12)))
    assert told.shape
    assert (told.shape.width, told.shape.height) == (2, 2)
    assert (told.shape.hot_x, told.shape.hot_y) == (1, 2)
    assert told.shape.pixels[:8] == b"BGRAbgra"


@pytest.mark.parametrize(
    "untrusted",
    [
        pytest.param(memoryview(b"short"), id="short"),
        pytest.param(cursor_meta(offset=29), id="no bitmap"),
        pytest.param(cursor_meta(offset=4, bitmap=bytes(60)), id="bitmap in the head"),
        pytest.param(cursor_meta(bitmap=bitmap(3, (1, 1), bytes(4))), id="format"),
        pytest.param(cursor_meta(bitmap=bitmap(RGBA, (2, 2), bytes(15))), id="too few"),
        pytest.param(cursor_meta(bitmap=bitmap(RGBA, (2, 1), bytes(9), 4)), id="stride"),
        pytest.param(cursor_meta(bitmap=bitmap(RGBA, (2, 2), bytes(16), -8)), id="backwards"),
        pytest.param(cursor_meta(bitmap=bitmap(RGBA, (2000, 1), bytes(8000))), id="too wide"),
    ],
)
def test_no_cursor(untrusted: memoryview) -> None:
    with pytest.raises(ProtocolError, match="cursor"):
        parse_cursor(untrusted)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_cursor_or_none(untrusted: bytes) -> None:
    try:
        told = parse_cursor(memoryview(untrusted))
    except ProtocolError:
        return
    if told.shape:
        assert len(told.shape.pixels) == 4 * told.shape.width * told.shape.height


def test_header() -> None:
    assert is_corrupted(memoryview(word(2) + bytes(28)))
    assert not is_corrupted(memoryview(word(4) + bytes(28)))
    assert not is_corrupted(memoryview(word(2)))
