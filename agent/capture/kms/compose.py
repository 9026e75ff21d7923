"""One picture of what several planes show, or of one whose format is not a frame's."""

from collections.abc import Sequence
from typing import Final

from PIL import Image

from agent.capture.bands import all_bands, differing
from agent.capture.base import BAND
from agent.capture.kms.buffers import Buffer
from agent.capture.slots import Picture
from sessiond.errors import DisplayError
from sessiond.wire.kms import FORMATS, Plane, fourcc

_AS_IN_FRAMES: Final = frozenset({fourcc("XR24"), fourcc("AR24")})
_RAW: Final = {  # the same in Pillow's words
    fourcc("XB24"): "RGBX", fourcc("AB24"): "RGBX", fourcc("RG24"): "BGR",
    fourcc("RG16"): "BGR;16",
}  # fmt: skip

Parts = Sequence[tuple[Plane, Buffer]]


class Composer:
    """Returns a view of the buffer where it can, else puts a picture together in its own memory.

    Only what differs from the time before is put there.
    """

    def __init__(self) -> None:
        self._planes: list[Plane] = []
        self._known: list[bytearray] = []  # each plane's bytes as they were last
        self._canvas = memoryview(b"")

    def forget(self) -> None:
        """Give the memory back."""
        self._planes, self._known, self._canvas = [], [], memoryview(b"")

    def picture(self, parts: Parts) -> Picture:
        """Return the picture of at least one plane; it holds until the next call.

        Raises DisplayError for buffers that are smaller than their planes.
        """
        width = max(plane.x + plane.width for plane, _ in parts)
        height = max(plane.y + plane.height for plane, _ in parts)
        first, buffer = parts[0]
        begin = _begin(first) - first.y * first.pitch - first.x * FORMATS[first.fourcc]
        if begin >= 0 and all(_is_of(first, plane) for plane, _ in parts):
            return Picture(width, height, first.pitch, buffer.pixels[begin:])
        self._update(parts, width, height)
        return Picture(width, height, 4 * width, self._canvas)

    def _update(self, parts: Parts, width: int, height: int) -> None:
        pixels = [_pixels(plane, buffer) for plane, buffer in parts]
        # The number of a buffer says nothing: compositors take turns with theirs.
        planes = [plane._replace(buffer=0) for plane, _ in parts]
        is_new = planes != self._planes
        if is_new:
            self._planes = planes
            self._known = [bytearray(len(each)) for each in pixels]
            self._canvas = memoryview(bytearray(4 * width * height))
        for plane, known, fresh in zip(planes, self._known, pixels, strict=True):
            bands = all_bands(plane.height)
            with memoryview(known) as view:
                changed = bands if is_new else differing(view, fresh, plane.pitch, bands)
                for band in changed:
                    rows = range(plane.height)[band * BAND : (band + 1) * BAND]
                    part = slice(rows.start * plane.pitch, rows.stop * plane.pitch)
                    view[part] = fresh[part]
                    self._paint(plane, rows, view[part], 4 * width)

    def _paint(self, plane: Plane, rows: range, raw: memoryview, stride: int) -> None:
        """Put some of a plane's rows into the picture."""
        pitch = plane.pitch
        if plane.fourcc not in _AS_IN_FRAMES:
            size = (plane.width, len(rows))
            data = raw.tobytes().ljust(len(rows) * pitch)  # the buffer may end with its pixels
            image = Image.frombytes("RGB", size, data, "raw", _RAW[plane.fourcc], pitch, 1)
            raw, pitch = memoryview(image.tobytes("raw", "BGRX")), 4 * plane.width
        length = 4 * plane.width
        for number, row in enumerate(rows):
            at = (plane.y + row) * stride + 4 * plane.x
            self._canvas[at : at + length] = raw[number * pitch : number * pitch + length]


def cursor_pixels(plane: Plane, buffer: Buffer) -> bytes:
    """Return a cursor's pixels without padding. Raises DisplayError."""
    pixels, length = _pixels(plane, buffer), 4 * plane.width
    starts = range(0, plane.height * plane.pitch, plane.pitch)
    return b"".join(pixels[start : start + length] for start in starts)


def _pixels(plane: Plane, buffer: Buffer) -> memoryview:
    """Return a plane's part of its buffer, from its first pixel to its last."""
    begin = _begin(plane)
    end = begin + (plane.height - 1) * plane.pitch + plane.width * FORMATS[plane.fourcc]
    if end > buffer.pixels.nbytes:
        raise DisplayError(
            f"a buffer of the screen has {buffer.pixels.nbytes} bytes, and a plane of "
            f"{plane.width}x{plane.height} in it ends at {end}"
        )
    return buffer.pixels[begin:end]


def _begin(plane: Plane) -> int:
    return plane.offset + plane.top * plane.pitch + plane.left * FORMATS[plane.fourcc]


def _is_of(first: Plane, plane: Plane) -> bool:
    """Return whether both are parts of one buffer, as far from one another as in the picture."""
    return plane.fourcc in _AS_IN_FRAMES and _ground(plane) == _ground(first)


def _ground(plane: Plane) -> tuple[int, ...]:
    left, top = plane.left - plane.x, plane.top - plane.y
    return plane.buffer, plane.fourcc, plane.pitch, plane.offset, left, top
