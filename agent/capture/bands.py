"""Which bands of a picture are to be captured, and which of them are different then."""

import ctypes
from collections.abc import Iterable
from typing import Final

from agent.capture.base import BAND

# At 1080p, asking the server for one more piece costs as much as letting it copy three bands.
_NEAR: Final = 3

_memcmp: Final = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def all_bands(height: int) -> set[int]:
    """Return the numbers of all bands of a picture of ``height`` pixel rows."""
    return set(range(-(-height // BAND)))


def touched(rows: Iterable[tuple[int, int]], height: int) -> set[int]:
    """Return the bands that ``rows`` touch: pairs of the first and the one behind the last."""
    found = set[int]()
    for first, end in rows:
        inside = range(height)[max(first, 0) : max(end, 0)]
        found.update(range(inside.start // BAND, -(-inside.stop // BAND)) if inside else ())
    return found


def pieces(bands: Iterable[int]) -> list[range]:
    """Return few ranges of bands that hold all of ``bands``; those in between come along."""
    found = list[range]()
    for band in sorted(bands):
        if found and band - found[-1].stop < _NEAR:
            found[-1] = range(found[-1].start, band + 1)
        else:
            found.append(range(band, band + 1))
    return found


def differing(
    one: memoryview, other: memoryview, stride: int, bands: Iterable[int]
) -> frozenset[int]:
    """Return those of ``bands`` whose bytes are not the same in both pictures.

    Both are writable and of the same size, with rows of ``stride`` bytes.
    """
    # memoryview's own comparison goes item by item, some sixty times slower.
    first, second = (ctypes.c_char.from_buffer(view) for view in (one, other))
    at, at_other = ctypes.addressof(first), ctypes.addressof(second)
    size, end = BAND * stride, len(one)
    starts = ((band, band * size) for band in bands)
    return frozenset(
        band
        for band, start in starts
        if _memcmp(at + start, at_other + start, min(size, end - start))
    )
