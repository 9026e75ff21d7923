"""Several outputs in one picture, and those that are turned: drawn into memory of our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from PIL import Image

from agent.capture.base import SLOTS
from agent.capture.wlroots.buffers import FORMATS, Box, Buffer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_TURN: Final = Image.Transpose
# What undoes each wl_output.transform: those count quarter turns against the clock, from 4 on
# after a mirror of left and right.
_UNDONE_BY: Final = (
    None,
    _TURN.ROTATE_270,
    _TURN.ROTATE_180,
    _TURN.ROTATE_90,
    _TURN.FLIP_LEFT_RIGHT,
    _TURN.TRANSPOSE,
    _TURN.FLIP_TOP_BOTTOM,
    _TURN.TRANSVERSE,
)


@dataclass(frozen=True, slots=True)
class Tile:
    """The newest picture of output ``number``, and where its left upper corner is in ours."""

    number: int
    buffer: Buffer
    x: int
    y: int

    @property
    def arrangement(self) -> tuple[object, ...]:
        """What is the same as long as pictures of the same output can be compared."""
        buffer = self.buffer
        return (self.number, self.x, self.y, buffer.shape, buffer.transform, buffer.is_flipped)

    def covered(self, box: Box) -> Box:
        """Return where ``box`` of the buffer is in our picture."""
        shape = self.buffer.shape
        corners = (
            turned(x, y, (shape.width, shape.height), self.buffer.transform)
            for x, y in ((box.left, box.top), (box.right, box.bottom))
        )
        (x1, y1), (x2, y2) = corners
        return Box(
            self.x + min(x1, x2), self.y + min(y1, y2), self.x + max(x1, x2), self.y + max(y1, y2)
        )


def upright(size: tuple[int, int], transform: int) -> tuple[int, int]:
    """Return the size of a picture of ``size`` when ``transform`` is undone."""
    width, height = size
    return (height, width) if transform % 2 else size


def turned(x: int, y: int, size: tuple[int, int], transform: int) -> tuple[int, int]:
    """Return where a corner of a picture of ``size`` is when ``transform`` is undone."""
    width, height = size
    return (
        (x, y),
        (height - y, x),
        (width - x, height - y),
        (y, width - x),
        (width - x, y),
        (y, x),
        (x, height - y),
        (height - y, width - x),
    )[transform]


class Canvas:
    """Memory for the frames of one ``Capture``: a picture of ``size``, black where no output is."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self._memory = [memoryview(bytearray(4 * size[0] * size[1])) for _ in range(SLOTS)]
        # What of each slot is older than the newest picture: by output.
        self._stale: list[dict[int, Box]] = [{} for _ in range(SLOTS)]

    def draw(
        self, slot: int, tiles: Sequence[Tile], damage: Iterable[tuple[int, Box]]
    ) -> memoryview:
        """Return the memory of ``slot`` with all tiles as they are now.

        ``damage`` is what is different in the buffers since this was called last: the place of a
        tile in ``tiles``, and which part of its buffer.
        """
        for number, box in damage:
            for stale in self._stale:
                stale[number] = box.joined(stale.get(number))
        for number, box in sorted(self._stale[slot].items()):
            self._draw(self._memory[slot], tiles[number], box)
        self._stale[slot].clear()
        return self._memory[slot]

    def _draw(self, memory: memoryview, tile: Tile, box: Box) -> None:
        """Draw a part of a buffer; what would be outside is left out."""
        target = tile.covered(box)
        rows = _rows(tile.buffer, box)
        width, height = self.size
        length = 4 * (target.right - target.left)
        assert 0 <= target.left <= target.right <= width  # noqa: S101 (the layout is of the tiles)
        assert 0 <= target.top <= target.bottom <= height  # noqa: S101
        begin = 4 * (target.top * width + target.left)
        for row in rows:
            memory[begin : begin + length] = row
            begin += 4 * width


def _rows(buffer: Buffer, box: Box) -> Iterable[memoryview]:
    """Yield the rows of a part of a picture, upright, as bytes B, G, R, X."""
    layout = FORMATS[buffer.shape.format]
    stride = buffer.shape.stride
    if layout == "BGRX" and not (buffer.transform or buffer.is_flipped):
        first = 4 * box.left
        length = 4 * (box.right - box.left)
        for row in range(box.top, box.bottom):
            begin = row * stride + first
            yield buffer.pixels[begin : begin + length]
        return
    pixels = memoryview(turned_pixels(buffer, box))
    turned_width = upright((box.right - box.left, box.bottom - box.top), buffer.transform)[0]
    for begin in range(0, len(pixels), 4 * turned_width):
        yield pixels[begin : begin + 4 * turned_width]


def turned_pixels(buffer: Buffer, box: Box) -> bytes:
    """Return a part of a picture, upright, as rows of bytes B, G, R, X (or A)."""
    layout = FORMATS[buffer.shape.format]
    stride = buffer.shape.stride
    size = (buffer.shape.width, box.bottom - box.top)
    # Pillow takes whatever has a buffer, and its types do not say so.
    pixels = cast("bytes", buffer.pixels[box.top * stride : box.bottom * stride])
    # What is B, G, R, X already keeps its order, whatever Pillow calls its colours.
    mode, raw, packed = {
        "BGRX": ("RGBA", "RGBA", "RGBA"),
        "RGBX": ("RGBA", "RGBA", "BGRA"),
        "BGR": ("RGB", "BGR", "BGRX"),
        "RGB": ("RGB", "RGB", "BGRX"),
    }[layout]
    image = Image.frombuffer(mode, size, pixels, "raw", raw, stride, 1)
    image = image.crop((box.left, 0, box.right, size[1]))
    if buffer.is_flipped:
        image = image.transpose(_TURN.FLIP_TOP_BOTTOM)
    undone_by = _UNDONE_BY[buffer.transform]
    if undone_by is not None:
        image = image.transpose(undone_by)
    return image.tobytes("raw", packed)
