"""Frames from memory that is not ours: what shows the screen there changes when it likes.

For back-ends that get whole pictures and are told little or nothing of what changed in them.
"""

from dataclasses import dataclass
from typing import Final

from agent.capture.bands import all_bands, differing, is_other
from agent.capture.base import BAND, MAX_SIDE, SLOTS, Frame
from sessiond.errors import DisplayError

_PIXEL: Final = 4  # bytes


@dataclass(frozen=True, slots=True)
class Picture:
    """Foreign memory with pixels as in ``Frame``, which may change while we look.

    ``pixels`` may be read-only, and longer than what is needed. Raises DisplayError if it is
    shorter, or the picture empty or larger than what can be shown: whoever says how large it is
    need not be right.
    """

    width: int
    height: int
    stride: int
    pixels: memoryview

    def __post_init__(self) -> None:
        if not (0 < self.width <= MAX_SIDE and 0 < self.height <= MAX_SIDE):
            raise DisplayError(
                f"a picture of {self.width}x{self.height}; at most {MAX_SIDE}x{MAX_SIDE} can be "
                "shown"
            )
        if self.stride < _PIXEL * self.width or self.size > self.pixels.nbytes:
            raise DisplayError(
                f"a picture of {self.width}x{self.height} in rows of {self.stride} bytes does not "
                f"fit into {self.pixels.nbytes} bytes"
            )

    @property
    def size(self) -> int:
        """Bytes from the first pixel's to the last one's."""
        return (self.height - 1) * self.stride + _PIXEL * self.width


class Slots:
    """Memory for the frames of one ``Capture``; holds what was taken last until it is forgotten.

    Foreign memory is read once for each picture, and what differs once more: it may be slow.
    """

    def __init__(self) -> None:
        self._memory = [bytearray() for _ in range(SLOTS)]
        # The bands of each slot that are not as in the frame taken last.
        self._stale: list[frozenset[int]] = [frozenset() for _ in range(SLOTS)]
        self._last: Frame | None = None

    def forget(self) -> None:
        """Take the next picture as the first one, with nothing to compare it with.

        Memory that no frame uses is given back.
        """
        self._memory = [bytearray() for _ in range(SLOTS)]
        self._last = None

    def differs(self, picture: Picture) -> bool:
        """Tell whether ``picture`` is another one than what was taken last, if anything was."""
        last = self._comparable(picture)
        if last is None:
            return True
        pixels = picture.pixels[: picture.size]
        return is_other(last.pixels, pixels, picture.stride, all_bands(picture.height))

    def take(self, slot: int, picture: Picture) -> Frame:
        """Return a frame in the memory of ``slot`` with what ``picture`` shows now.

        It tells exactly which bands have changed since the frame taken before; None if that was
        none, or of another size.
        """
        last = self._comparable(picture)
        if last is None:
            return self._take_all(slot, picture)
        changed = self._changed(last, picture)
        pixels = self._pixels(slot, picture)
        if last.slot != slot:
            # From our own memory: in the foreign one they may have changed since we looked.
            self._copy(last.pixels, pixels, picture.stride, self._stale[slot] - changed)
        self._copy(picture.pixels, pixels, picture.stride, changed)
        self._stale = [stale | changed for stale in self._stale]
        return self._taken(slot, picture, pixels, changed)

    def _take_all(self, slot: int, picture: Picture) -> Frame:
        bands = frozenset(all_bands(picture.height))
        pixels = self._pixels(slot, picture)
        pixels[:] = picture.pixels[: picture.size]
        self._stale = [bands for _ in self._stale]
        return self._taken(slot, picture, pixels, None)

    def _taken(
        self, slot: int, picture: Picture, pixels: memoryview, changed: frozenset[int] | None
    ) -> Frame:
        self._stale[slot] = frozenset()
        self._last = Frame(picture.width, picture.height, picture.stride, pixels, slot, changed)
        return self._last

    def _comparable(self, picture: Picture) -> Frame | None:
        """Return the last frame if its rows lie as those of ``picture`` do."""
        last = self._last
        form = (picture.width, picture.height, picture.stride)
        return last if last and (last.width, last.height, last.stride) == form else None

    def _changed(self, last: Frame, picture: Picture) -> frozenset[int]:
        pixels = picture.pixels[: picture.size]
        return differing(last.pixels, pixels, picture.stride, all_bands(picture.height))

    def _pixels(self, slot: int, picture: Picture) -> memoryview:
        # Another size is other memory: an old frame may still be in use.
        if len(self._memory[slot]) != picture.size:
            self._memory[slot] = bytearray(picture.size)
        return memoryview(self._memory[slot])

    @staticmethod
    def _copy(source: memoryview, target: memoryview, stride: int, bands: frozenset[int]) -> None:
        size, end = BAND * stride, len(target)
        for band in bands:
            part = slice(band * size, min((band + 1) * size, end))
            target[part] = source[part]
