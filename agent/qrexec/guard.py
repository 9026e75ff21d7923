"""Ends programs whose starter was killed, and so could not: for the process that outlives it."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection
from typing import Final

from agent.qrexec.watch import Deadline

_GRACE: Final = 2.0  # seconds to end, before what is left is killed
_STEP: Final = 0.05  # seconds; nothing tells that a process group is empty


class Guard:
    """Knows the programs that run, each the leader of its process group, by their pidfds."""

    def __init__(self) -> None:
        self._pids: dict[int, int] = {}

    @property
    def wanted(self) -> dict[int, int]:
        """What poll(2) is to tell."""
        return dict.fromkeys(self._pids, select.POLLIN)

    def add(self, pid: int, pidfd: int) -> None:
        """Guard one more. The pidfd is closed here."""
        self._pids[pidfd] = pid

    def attend(self, ready: Collection[int]) -> None:
        """Forget those that have exited: what they have left behind is meant to go on."""
        for pidfd in self._pids.keys() & ready:
            del self._pids[pidfd]
            os.close(pidfd)

    def end(self) -> None:
        """End the groups of all that run.

        The number of a group that has become empty is not given again so soon: the kernel gives all
        others before (fork(2) counts up), and none that a group still has.
        """
        groups = set(self._pids.values())
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGCONT):
            groups = {pid for pid in groups if _signal(pid, number)}
        deadline = Deadline(_GRACE)
        while groups and deadline.left:
            time.sleep(_STEP)
            groups = {pid for pid in groups if _signal(pid, 0)}
        for pid in groups:
            _signal(pid, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    """Return whether the group is there, and ours to signal."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False
