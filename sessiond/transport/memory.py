"""How a process keeps memory."""

import ctypes
from typing import Final

# malloc.h of glibc
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3


def keep_freed(size: int) -> None:
    """Let what is freed serve for the next frame, up to SIZE bytes.

    By default malloc returns so much to the kernel, which clears each page before it gives it out
    again: at sixty frames a second that costs more than filling them, a fifth of the daemon's
    relay (make bench). Other C libraries have no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_TRIM_THRESHOLD, size)
        mallopt(_MMAP_THRESHOLD, size)
