"""The processes that we have started, and how they end."""

import contextlib
import os
from typing import Final

_SIGNALLED: Final = 128  # what a shell adds to the number of a signal


class Child:
    """A process of ours. ``status`` is its exit code, or 128 and the signal's number, or None."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None

    def reap(self) -> None:
        """Take note of what has ended, whichever child of ours it was."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.pid:
                    self.status = exit_code(ended[1])

    def wait(self) -> int:
        """Wait for its end and return its status."""
        if self.status is None:
            self.status = exit_code(os.waitpid(self.pid, 0)[1])
        return self.status


def exit_code(status: int) -> int:
    """Return what a shell would, for what waitpid(2) says."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else _SIGNALLED - code
