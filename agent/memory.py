"""How this process keeps memory."""

import ctypes
from typing import Final

# malloc.h of glibc
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3

_KEPT: Final = 4 << 20  # bytes; a frame of 1080p takes 0.3 MB in each of its forms


def keep_freed() -> None:
    """Let what is freed serve for the next frame, up to some megabytes.

    By default malloc returns so much to the kernel, which clears each page before it gives it out
    again: at sixty frames a second that costs more than filling them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt:
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_MMAP_THRESHOLD, _KEPT)
