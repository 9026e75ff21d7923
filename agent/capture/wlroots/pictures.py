"""A frame of the outputs' newest pictures: from where the compositor wrote it, if that can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.capture.bands import differing, touched
from agent.capture.base import SLOTS, Frame
from agent.capture.wlroots.canvas import Canvas, Tile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.capture.wlroots.buffers import Box, Buffer

Size = tuple[int, int]


class Pictures:
    """Makes frames. ``held`` are the buffers that are the memory of a slot now."""

    def __init__(self) -> None:
        self.held: list[Buffer | None] = [None] * SLOTS
        self._canvas: Canvas | None = None
        self._arrangement: tuple[object, ...] = ()
        self._last: Frame | None = None

    def forget(self) -> None:
        """Make the next frame as the first one, with nothing to compare it with."""
        self._canvas = self._last = None
        self._arrangement = ()

    def make(
        self, slot: int, size: Size, tiles: Sequence[Tile], news: Sequence[Box | None]
    ) -> Frame:
        """Return a frame of ``size`` with all ``tiles``, which are inside.

        ``news`` is what is different in each tile's buffer since this was called last.
        """
        # The same tiles in the same places: each can be compared with the one before.
        arrangement = (size, *(tile.arrangement for tile in tiles))
        if arrangement != self._arrangement:
            self.forget()
            self._arrangement = arrangement
            news = [tile.buffer.shape.whole for tile in tiles]
        width, height = size
        pixels = self._pixels(slot, size, tiles, news)
        covered = [tile.covered(box) for tile, box in zip(tiles, news, strict=True) if box]
        bands = touched([(box.top, box.bottom) for box in covered], height)
        changed: frozenset[int] | None = frozenset(bands)
        if self._last is None:
            changed = None
        elif self._last.slot != slot:  # else nobody knows any more what was there
            changed = differing(pixels, self._last.pixels, 4 * width, bands)
        self._last = Frame(width, height, 4 * width, pixels, slot, changed)
        return self._last

    def _pixels(
        self, slot: int, size: Size, tiles: Sequence[Tile], news: Sequence[Box | None]
    ) -> memoryview:
        if len(tiles) == 1 and tiles[0].buffer.is_plain:
            self.held[slot] = tiles[0].buffer
            return tiles[0].buffer.pixels
        self._canvas = self._canvas or Canvas(size)
        damage = [(number, box) for number, box in enumerate(news) if box]
        return self._canvas.draw(slot, tiles, damage)
