"""Which bands of a picture are to be captured, and which of them are different then."""

import ctypes
from collections.abc import Iterable, Iterator
from typing import Final

from agent.capture.base import BAND

# At 1080p, asking the server for one more piece costs as much as letting it copy three bands.
_NEAR: Final = 3

_memcmp: Final = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class _Buffer(ctypes.Structure):
    """Py_buffer (docs.python.org, "Buffer Protocol"), which has been as it is since Python 3.3."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


_get_buffer: Final = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = (ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int)
_release_buffer: Final = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = (ctypes.POINTER(_Buffer),)


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

    Both are of the same size, with rows of ``stride`` bytes; either may be read-only.
    """
    return frozenset(_differing(one, other, stride, bands))


def is_other(one: memoryview, other: memoryview, stride: int, bands: Iterable[int]) -> bool:
    """Return whether ``differing`` would find any; it looks no further than the first."""
    return any(True for _ in _differing(one, other, stride, bands))


def _differing(
    one: memoryview, other: memoryview, stride: int, bands: Iterable[int]
) -> Iterator[int]:
    # memoryview's own comparison goes item by item, some sixty times slower.
    at, at_other = address(one), address(other)
    size, end = BAND * stride, min(one.nbytes, other.nbytes)
    for band in bands:
        start = band * size
        if _memcmp(at + start, at_other + start, min(size, end - start)):
            yield band


def address(view: memoryview) -> int:
    """Return where in memory ``view`` begins, which holds for as long as there is the view.

    ctypes' own ``from_buffer`` refuses what is read-only.
    """
    buffer = _Buffer()
    _get_buffer(view, buffer, 0)  # PyBUF_SIMPLE: bytes, one after the other
    _release_buffer(buffer)
    return buffer.buf or 0
