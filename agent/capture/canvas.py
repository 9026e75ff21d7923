"""Several monitors in one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from agent.capture.bands import all_bands, differing, touched
from agent.capture.base import BAND, MAX_SIDE, SLOTS, Frame
from agent.capture.slots import Picture
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
        self._last: list[Picture] = []

    def take(self, slot: int, pictures: Sequence[Picture]) -> Frame:
        """Return a frame in the memory of ``slot`` with what each monitor shows.

        It tells exactly which bands have changed since the frame taken before, None for the first.
        ``pictures`` have the sizes of the areas, and stay as they are until the next call.
        """
        changed = set[int]()
        for number, area in enumerate(self._areas):
            bands = self._changed(number, pictures[number])
            changed |= touched(_rows(bands, area), self._size[1])
            for stale in self._stale:
                stale[number] |= bands
            self._copy(slot, area, pictures[number], self._stale[slot][number])
            self._stale[slot][number] = set()
        is_first, self._last = not self._last, list(pictures)
        width, height = self._size
        return Frame(
            width, height, _PIXEL * width, self._memory[slot], slot,
            None if is_first else frozenset(changed),
        )  # fmt: skip

    def _changed(self, number: int, picture: Picture) -> set[int]:
        bands = all_bands(picture.height)
        last = self._last[number] if self._last else None
        if last is picture:
            return set()
        if last is None or last.stride != picture.stride:
            return bands
        return set(differing(picture.pixels, last.pixels, picture.stride, bands))

    def _copy(self, slot: int, area: Area, picture: Picture, bands: set[int]) -> None:
        memory, stride, row = self._memory[slot], _PIXEL * self._size[0], _PIXEL * area.width
        begin = area.y * stride + area.x * _PIXEL
        for band in bands:
            for y in range(band * BAND, min((band + 1) * BAND, area.height)):
                to, source = begin + y * stride, y * picture.stride
                memory[to : to + row] = picture.pixels[source : source + row]


def _rows(bands: set[int], area: Area) -> list[tuple[int, int]]:
    """Return where in the whole picture the bands of a monitor are."""
    return [(area.y + band * BAND, area.y + min((band + 1) * BAND, area.height)) for band in bands]
