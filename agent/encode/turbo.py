"""Encodes by libturbojpeg (Debian: libturbojpeg0), through its C interface of version 2."""

import ctypes
import functools
import mmap
import os
import weakref
from typing import Final

from agent.capture.base import Frame
from agent.encode.compress import Compressor
from sessiond.errors import EncoderError

_LIBRARY: Final = "libturbojpeg.so.0"

# turbojpeg.h, 2.1
_BGRX: Final = 3  # TJPF_BGRX
_SUBSAMPLINGS: Final = (0, 1, 2)  # TJSAMP_444, _422, _420
_FLAGS: Final = 1024 | 4096  # TJFLAG_NOREALLOC, TJFLAG_ACCURATEDCT: the transform that Pillow uses

# How that interface is asked for restart markers, behind how many MCU rows; and what somebody else
# may have asked for: with tables of its own, or in several scans, a strip has no segment that fits
# into another picture. Read at each call. Nobody else in this process uses the library.
_SETTINGS: Final = {
    "TJ_RESTART": "1", "TJ_OPTIMIZE": "0", "TJ_ARITHMETIC": "0", "TJ_PROGRESSIVE": "0",
}  # fmt: skip


@functools.cache
def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise EncoderError(f"no {_LIBRARY}: {error}") from error
    pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_ulong
    library.tjInitCompress.restype = pointer
    library.tjDestroy.argtypes = [pointer]
    library.tjGetErrorStr2.argtypes = [pointer]
    library.tjGetErrorStr2.restype = ctypes.c_char_p
    library.tjBufSize.argtypes = [number, number, number]
    library.tjBufSize.restype = size
    library.tjCompress2.argtypes = [
        pointer, pointer, number, number, number, number,
        ctypes.POINTER(pointer), ctypes.POINTER(size), number, number, number,
    ]  # fmt: skip
    os.environ.update(_SETTINGS)
    return library


class TurboCompressor(Compressor):
    """Has a compressor of the library, and memory for what comes out of it."""

    restarts = True

    def __init__(self, quality: int, subsampling: int) -> None:
        self._library = _load()
        self._handle = self._library.tjInitCompress()
        if not self._handle:
            raise EncoderError(f"{_LIBRARY} has no compressor to give")
        # Not at the interpreter's end: a thread may be at work with it until the process is gone.
        weakref.finalize(self, self._library.tjDestroy, self._handle).atexit = False
        self._quality = quality
        self._subsampling = _SUBSAMPLINGS[subsampling]
        self._output = _memory(1)

    def compress(self, frame: Frame, rows: range) -> bytes:
        width, height, stride = frame.width, len(rows), frame.stride
        end = (rows.stop - 1) * stride + 4 * width
        # The library believes what it is told of the memory.
        if stride < 4 * width or end > len(frame.pixels):
            raise EncoderError(f"JPEG of {width}x{frame.height}: not enough pixels")
        pixels = frame.pixels[rows.start * stride : end]
        source = ctypes.c_char.from_buffer(bytearray(pixels) if pixels.readonly else pixels)
        needed = self._library.tjBufSize(width, height, self._subsampling)
        if needed > len(self._output):
            self._output = _memory(needed)
        target = ctypes.c_char.from_buffer(self._output)
        output = ctypes.c_void_p(ctypes.addressof(target))
        size = ctypes.c_ulong(len(self._output))
        failed = self._library.tjCompress2(
            self._handle, ctypes.addressof(source), width, stride, height, _BGRX,
            ctypes.byref(output), ctypes.byref(size), self._subsampling, self._quality, _FLAGS,
        )  # fmt: skip
        if failed:
            reason = self._library.tjGetErrorStr2(self._handle).decode(errors="replace")
            raise EncoderError(f"JPEG of {width}x{frame.height}: {reason}")
        return self._output[: size.value]


def _memory(size: int) -> mmap.mmap:
    """Return memory of which only the pages that are written to exist.

    The library wants room for the worst of pictures, a dozen times what a frame needs.
    """
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
