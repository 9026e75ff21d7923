"""The machine's virtual consoles, seen from the host: who may use them, and which is in front.

They belong to the kernel and not to a container: one at a time may switch them, and leaves them as
it found them. Every wait here ends by its time-out; VT_WAITACTIVE, which does not, is not used.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.system.root import VTS

if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/vt.h
VT_ACTIVATE: Final = 0x5606
VT_DISALLOCATE: Final = 0x5608

CONSOLE: Final = Path("/dev/tty0")
ACTIVE: Final = Path("/sys/class/tty/tty0/active")
LOCK: Final = Path("/run/lock/spice-sessiond-consoles")
FIRST: Final = 1


class ConsolesError(Exception):
    """The consoles cannot be had, or do not obey; the text says which."""


def missing() -> list[str]:
    """Tell what this machine lacks for its consoles to be switched, in words; empty if nothing."""
    lacks = []
    if not ACTIVE.exists() or not CONSOLE.exists():
        lacks.append(f"virtual consoles ({CONSOLE} and {ACTIVE})")
    elif not os.access(CONSOLE, os.R_OK | os.W_OK):
        lacks.append(f"the right to use {CONSOLE} (root)")
    return lacks


def active() -> int:
    """Return the number of the console that is in front."""
    return int(ACTIVE.read_text().strip().removeprefix("tty"))


@contextlib.contextmanager
def reserved(timeout: float) -> Iterator[None]:
    """Have all consoles for oneself, the first in front; leave it there, the others as if unused.

    Raises ConsolesError when somebody else has them for TIMEOUT seconds, and when the first does
    not come to the front.
    """
    with LOCK.open("w") as lock:
        # The lock belongs to the open file, which is ours; flock(1) can wait with a time-out.
        flock = ["flock", "--exclusive", "--timeout", f"{timeout:g}", str(lock.fileno())]
        if subprocess.run(flock, pass_fds=[lock.fileno()], check=False).returncode != 0:
            raise ConsolesError(f"another run has had the consoles ({LOCK}) for {timeout:g} s")
        reset()
        try:
            yield
        finally:
            reset()


def reset(timeout: float = 10.0) -> None:
    """Bring the first console to the front and take the unused ones from the kernel's memory.

    What a killed X server did to its console (graphics mode, switching by consent) goes with it.
    """
    switch(FIRST, timeout)
    with CONSOLE.open("rb", buffering=0) as console:
        for number in VTS:
            if number > FIRST:
                with contextlib.suppress(OSError):  # EBUSY: somebody still uses it
                    fcntl.ioctl(console, VT_DISALLOCATE, number)


def switch(number: int, timeout: float = 10.0) -> None:
    """Bring a console to the front. Raises ConsolesError when it is not there in time."""
    deadline = time.monotonic() + timeout
    with ACTIVE.open("rb", buffering=0) as shown, CONSOLE.open("rb", buffering=0) as console:
        poll = select.poll()
        poll.register(shown, select.POLLPRI | select.POLLERR)
        fcntl.ioctl(console, VT_ACTIVATE, number)
        # sysfs(5) tells of a change after a read only.
        while (name := os.pread(shown.fileno(), 32, 0).decode().strip()) != f"tty{number}":
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConsolesError(f"{name} and not tty{number} is in front after {timeout:g} s")
            poll.poll(left * 1000)
