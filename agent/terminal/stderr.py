"""Words for a person, on standard error, where that may become another one."""

import contextlib
import fcntl
import os

_STDERR = 2
_ABOVE_STDIO = 3


class Stderr:
    """Writes lines that begin with the program's name; to nobody where standard error is closed."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._fd = _STDERR

    def say(self, text: str) -> None:
        """Write one line."""
        line = f"{self._program}: {text}\n".encode(errors="backslashreplace")
        with contextlib.suppress(OSError):
            os.write(self._fd, line)

    def keep(self) -> None:
        """Go on to write to where it leads now, whatever that descriptor becomes."""
        with contextlib.suppress(OSError):  # closed: then the terminal's is better than none
            self._fd = fcntl.fcntl(_STDERR, fcntl.F_DUPFD_CLOEXEC, _ABOVE_STDIO)
