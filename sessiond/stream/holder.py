"""Who has a device open: for the message that a port is busy."""

import contextlib
import os
from pathlib import Path


def holder_of(path: str) -> int:
    """Return the pid of a process that has ``path`` open, 0 if none can be found.

    Looks through /proc, which takes milliseconds; root sees every process.
    """
    wanted = os.path.realpath(path)
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        # A process may end, or be somebody else's, at any moment.
        with contextlib.suppress(OSError):
            for fd in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(fd) == wanted:
                        return int(process.name)
    return 0
