"""PipeWire's values ("PODs"), as far as a recording of a screen needs them: values <-> bytes.

Pure. Numbers are those of PipeWire 0.3.65's headers (spa/utils/type.h, spa/param/*.h), which later
ones only add to. Whatever is parsed here was written by somebody else: ProtocolError for what is
not what it says.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from agent.capture.base import MAX_SIDE, Cursor
from sessiond.errors import ProtocolError

MAX_POD: Final = 64 << 10  # bytes; a format takes some 200

# spa/param/param.h: the kinds of parameters of a stream.
ENUM_FORMAT: Final = 3
FORMAT: Final = 4
_BUFFERS: Final = 5
_META: Final = 6

# spa/buffer/buffer.h, spa/buffer/meta.h
MEMORY_FD: Final = 2  # enum spa_data_type
CORRUPTED_CHUNK: Final = 1
META_HEADER: Final = 1
META_CURSOR: Final = 5
_CORRUPTED_HEADER: Final = 2

# spa/utils/type.h
_ID: Final = 3
_INT: Final = 4
_RECTANGLE: Final = 10
_FRACTION: Final = 11
_OBJECT: Final = 15
_CHOICE: Final = 19
_FORMAT_OBJECT: Final = 0x40003
_BUFFERS_OBJECT: Final = 0x40004
_META_OBJECT: Final = 0x40005

# spa/pod/pod.h: enum spa_choice_type
_RANGE: Final = 1
_ENUM: Final = 3
_FLAGS: Final = 4

# spa/param/format.h
_MEDIA_TYPE: Final = 1
_MEDIA_SUBTYPE: Final = 2
_VIDEO_FORMAT: Final = 0x20001
_VIDEO_SIZE: Final = 0x20003
_VIDEO_RATE: Final = 0x20004
_VIDEO_MAX_RATE: Final = 0x20005
_VIDEO: Final = 2
_RAW: Final = 1

# spa/param/video/raw.h
_RGBX, _BGRX, _RGBA, _BGRA = 7, 8, 11, 12
_REDS_FIRST: Final = frozenset({_RGBX, _RGBA})

# Two are being shown or encoded, one is the newest, and with two the compositor paints.
_BUFFERS_WANTED: Final = (6, 5, 8)
_CURSOR_SIDE: Final = 1024  # pixels; a compositor with less room for one leaves cursors out

_HEAD: Final = struct.Struct("=II")  # size of the body, type
_FORMAT_KEYS: Final = struct.Struct("=II")
_META_HEADER: Final = struct.Struct("=IIqqQ")
_META_CURSOR: Final = struct.Struct("=IIiiiiI")  # id, flags, position, hot spot, bitmap's offset
_BITMAP: Final = struct.Struct("=IIIiI")  # format, width, height, stride, pixels' offset


@dataclass(frozen=True, slots=True)
class CursorMeta:
    """What a buffer says of the cursor.

    ``is_here``: it is on this monitor, at ``position`` (of its hot spot). ``shape`` is None unless
    it has changed; one of no size is that of a hidden cursor.
    """

    is_here: bool
    position: tuple[int, int] = (0, 0)
    shape: Cursor | None = None


def formats(max_rate: int) -> bytes:
    """Return what we can take: any size, in shared memory, at most ``max_rate`` pictures/s."""
    return _object(
        _FORMAT_OBJECT,
        ENUM_FORMAT,
        {
            _MEDIA_TYPE: _id(_VIDEO),
            _MEDIA_SUBTYPE: _id(_RAW),
            _VIDEO_FORMAT: _choice(_ENUM, _id(_BGRX), _id(_BGRX), _id(_BGRA)),
            _VIDEO_SIZE: _choice(
                _RANGE,
                *(_pair(_RECTANGLE, *size) for size in ((1280, 720), (1, 1), (MAX_SIDE, MAX_SIDE))),
            ),
            _VIDEO_RATE: _pair(_FRACTION, 0, 1),  # whenever something changes
            _VIDEO_MAX_RATE: _choice(
                _RANGE,
                *(_pair(_FRACTION, rate, 1) for rate in (max_rate, 1, max_rate)),
            ),
        },
    )


def buffers() -> bytes:
    """Return how many buffers we want, and of which kind."""
    return _object(
        _BUFFERS_OBJECT,
        _BUFFERS,
        {
            1: _choice(_RANGE, *map(_int, _BUFFERS_WANTED)),
            2: _int(1),  # blocks
            6: _choice(_FLAGS, _int(1 << MEMORY_FD)),
        },
    )


def metas() -> list[bytes]:
    """Return what we want to be told beside the pixels: whether they count, and the cursor."""
    sizes = [_cursor_size(side) for side in (_CURSOR_SIDE, 1, _CURSOR_SIDE)]
    return [
        _object(_META_OBJECT, _META, {1: _id(META_HEADER), 2: _int(_META_HEADER.size)}),
        _object(
            _META_OBJECT,
            _META,
            {1: _id(META_CURSOR), 2: _choice(_RANGE, *map(_int, sizes))},
        ),
    ]


def parse_format(untrusted: bytes) -> tuple[int, int]:
    """Return width and height of the pictures that were agreed on. Raises ProtocolError.

    They are always four bytes a pixel: blue, green, red first.
    """
    values = dict(_properties(untrusted))
    try:
        kind, size = values[_VIDEO_FORMAT], values[_VIDEO_SIZE]
    except KeyError as error:
        raise ProtocolError(f"a video format without {error}") from None
    if len(kind) != 4 or int.from_bytes(kind, "little") not in {_BGRX, _BGRA}:
        raise ProtocolError("a video format that was not asked for")
    if len(size) != _HEAD.size:
        raise ProtocolError("a video format whose size is none")
    width, height = _HEAD.unpack(size)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ProtocolError(
            f"pictures of {width}x{height}; at most {MAX_SIDE}x{MAX_SIDE} can be shown"
        )
    return width, height


def is_corrupted(untrusted_header: memoryview) -> bool:
    """Tell whether a buffer's header says that its pixels do not count."""
    return bool(
        len(untrusted_header) >= _META_HEADER.size
        and _META_HEADER.unpack_from(untrusted_header)[0] & _CORRUPTED_HEADER
    )


def parse_cursor(untrusted: memoryview) -> CursorMeta:
    """Return what a cursor's metadata say. Raises ProtocolError."""
    if len(untrusted) < _META_CURSOR.size:
        raise ProtocolError(f"{len(untrusted)} bytes about the cursor")
    number, _flags, x, y, hot_x, hot_y, offset = _META_CURSOR.unpack_from(untrusted)
    if not number:
        return CursorMeta(is_here=False)
    shape = _parse_bitmap(untrusted, offset, (hot_x, hot_y)) if offset else None
    return CursorMeta(is_here=True, position=(x, y), shape=shape)


def _parse_bitmap(untrusted: memoryview, at: int, hot: tuple[int, int]) -> Cursor:
    if not _META_CURSOR.size <= at <= len(untrusted) - _BITMAP.size:
        raise ProtocolError("a cursor's picture outside of its memory")
    kind, width, height, stride, offset = _BITMAP.unpack_from(untrusted, at)
    if not (width and height and offset):
        return Cursor(0, 0, 0, 0, b"")
    if kind not in {_RGBX, _BGRX, _RGBA, _BGRA}:
        raise ProtocolError(f"a cursor's picture of format {kind}")
    row, begin = 4 * width, at + offset
    is_inside = begin + (height - 1) * stride + row <= len(untrusted)
    if max(width, height) > _CURSOR_SIDE or stride < row or not is_inside:
        raise ProtocolError(f"a cursor of {width}x{height} outside of its memory")
    rows = (untrusted[begin + y * stride :][:row] for y in range(height))
    pixels = bytearray().join(rows)
    if kind in _REDS_FIRST:
        pixels[0::4], pixels[2::4] = pixels[2::4], pixels[0::4]
    return Cursor(width, height, *hot, bytes(pixels))


def _cursor_size(side: int) -> int:
    """Return the bytes of metadata that a cursor of so many pixels takes."""
    return _META_CURSOR.size + _BITMAP.size + 4 * side * side


def _pod(kind: int, body: bytes) -> bytes:
    return _HEAD.pack(len(body), kind) + body + bytes(-len(body) % 8)


def _id(number: int) -> bytes:
    return _pod(_ID, number.to_bytes(4, "little"))


def _int(number: int) -> bytes:
    return _pod(_INT, number.to_bytes(4, "little"))


def _pair(kind: int, one: int, other: int) -> bytes:
    return _pod(kind, _HEAD.pack(one, other))


def _choice(kind: int, *pods: bytes) -> bytes:
    """Return a choice among values of one type, the first of which is preferred."""
    size, value_type = _HEAD.unpack_from(pods[0])
    values = b"".join(pod[_HEAD.size :][:size] for pod in pods)
    return _pod(_CHOICE, struct.pack("=IIII", kind, 0, size, value_type) + values)


def _object(kind: int, parameter: int, properties: dict[int, bytes]) -> bytes:
    body = b"".join(_HEAD.pack(key, 0) + pod for key, pod in properties.items())
    return _pod(_OBJECT, _HEAD.pack(kind, parameter) + body)


def _properties(untrusted: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each key of an object and the bytes of its value, of a choice those of the first."""
    try:
        size, kind = _HEAD.unpack_from(untrusted)
        if kind != _OBJECT:
            raise ProtocolError(f"not an object, but of type {kind}")
        at, end = 2 * _HEAD.size, _HEAD.size + size
        while at < min(end, len(untrusted)):
            key, _flags, size, kind = struct.unpack_from("=IIII", untrusted, at)
            value = untrusted[at + 16 :][:size]
            at += 16 + size + -size % 8
            if kind == _CHOICE:
                _choice_type, _flags, size, kind = struct.unpack_from("=IIII", value)
                value = value[16:][:size]
            yield key, value
    except struct.error as error:
        raise ProtocolError(f"a value that ends too early: {error}") from None
