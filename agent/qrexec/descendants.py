"""All processes below a command's: none is left when it is told to end."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.qrexec.watch import Deadline

_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
_libc: Final = ctypes.CDLL(None)
_PATIENCE: Final = 1.0  # seconds from SIGTERM to SIGKILL, and from there until we give up


def adopt_orphans() -> None:
    """Become the parent of those whose own has ended: so ``end_all`` finds each of them."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_all() -> None:
    """End every process below us, in two seconds at the longest.

    To be called when nobody waits for their signals any more. What we may not signal stays.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = Deadline(_PATIENCE)
        while _has_children() and deadline.left:
            for pid in _descendants():
                _signal(pid, number)
            signal.sigtimedwait({signal.SIGCHLD}, deadline.left)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)  # one that is stopped acts on nothing else


def _has_children() -> bool:
    """Return whether any is left, after taking note of those that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _descendants() -> list[int]:
    """Return the processes below us, parents first."""
    found = list(_children("self"))
    for pid in found:
        found.extend(_children(str(pid)))
    return found


def _children(process: str) -> Iterator[int]:
    # proc_pid_task(5); a process that has ended meanwhile has none.
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError):
                yield from map(int, (task / "children").read_text(encoding="ascii").split())
