"""Who has a device open: for the message that a port is busy."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_libc: Final = ctypes.CDLL(None)


def holder_of(path: str) -> int:
    """Return the pid of a process that has ``path`` open, 0 if none can be found.

    Looks through /proc, which takes milliseconds; root sees every process.
    """
    wanted = os.path.realpath(path)
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        # A process may end, or be somebody else's, at any moment.
        with contextlib.suppress(OSError), _looking_as(process.stat().st_uid):
            for fd in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(fd) == wanted:
                        return int(process.name)
    return 0


@contextlib.contextmanager
def _looking_as(uid: int) -> Iterator[None]:
    """Let this thread see what that user may (setfsuid(2)).

    A process's descriptors are its owner's to see; root's only with a capability to read every
    file there is (CAP_DAC_READ_SEARCH), which the daemon does without. Nothing changes without
    CAP_SETUID.
    """
    _libc.setfsuid(ctypes.c_uint(uid))
    try:
        yield
    finally:
        _libc.setfsuid(os.geteuid())
