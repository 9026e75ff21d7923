"""Several monitors in one picture."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from agent.capture.bands import all_bands, touched
from agent.capture.base import BAND, MAX_SIDE, SLOTS, Frame
from sessiond.errors import DisplayError

_PIXEL: Final = 4  # bytes


@dataclass(frozen=True, slots=True)
class Area:
    """Where in the whole picture a monitor is, in pixels."""

    x: int
    y: int
    width: int
    height: int


def enclosing(areas: Sequence[Area]) -> tuple[int, int]:
    """Return the size of the picture that holds all of ``areas``. Raises DisplayError."""
    if any(area.x < 0 or area.y < 0 for area in areas):
        raise DisplayError("a monitor left of or above the picture")
    width = max(area.x + area.width for area in areas)
    height = max(area.y + area.height for area in areas)
    if max(width, height) > MAX_SIDE:
        raise DisplayError(
            f"monitors of {width}x{height} pixels together; at most {MAX_SIDE}x{MAX_SIDE} can be "
            "shown"
        )
    return width, height


class Canvas:
    """Memory for the frames of one arrangement of monitors; black where there is none."""

    def __init__(self, size: tuple[int, int], areas: Sequence[Area]) -> None:
        self._size = size
        self._areas = tuple(areas)
        self._memory = [memoryview(bytearray(_PIXEL * size[0] * size[1])) for _ in range(SLOTS)]
        # For each slot and monitor, the monitor's bands that are not as it shows them.
        self._stale = [[all_bands(area.height) for area in areas] for _ in range(SLOTS)]
        self._is_first = True

    def take(self, slot: int, frames: Sequence[Frame]) -> Frame:
        """Return a frame in the memory of ``slot`` with what each monitor shows.

        ``frames`` are of the sizes of the areas, and tell what has changed in each since the call
        before; the frame returned tells it of the whole picture, None for the first.
        """
        changed = set[int]()
        for number, (area, frame) in enumerate(zip(self._areas, frames, strict=True)):
            bands = all_bands(area.height) if frame.changed is None else frame.changed
            changed |= touched(_rows(bands, area), self._size[1])
            for stale in self._stale:
                stale[number] |= bands
            self._copy(slot, area, frame, self._stale[slot][number])
            self._stale[slot][number] = set()
        is_first, self._is_first = self._is_first, False
        width, height = self._size
        bands_told = None if is_first else frozenset(changed)
        return Frame(width, height, _PIXEL * width, self._memory[slot], slot, bands_told)

    def _copy(self, slot: int, area: Area, frame: Frame, bands: Collection[int]) -> None:
        memory, stride, row = self._memory[slot], _PIXEL * self._size[0], _PIXEL * area.width
        begin = area.y * stride + area.x * _PIXEL
        for band in bands:
            for y in range(band * BAND, min((band + 1) * BAND, area.height)):
                to, source = begin + y * stride, y * frame.stride
                memory[to : to + row] = frame.pixels[source : source + row]


def _rows(bands: Collection[int], area: Area) -> list[tuple[int, int]]:
    """Return where in the whole picture the bands of a monitor are."""
    return [(area.y + band * BAND, area.y + min((band + 1) * BAND, area.height)) for band in bands]
