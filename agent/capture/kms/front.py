"""Whether another VT is in front, as the kernel tells it to everybody."""

import os
import select
from typing import Final

from sessiond.errors import DisplayError
from sessiond.transport.fds import OwnedFd

ACTIVE: Final = "/sys/class/tty/tty0/active"


class Front:
    """``select`` sees its descriptor as exceptional after each change, until ``arm``."""

    def __init__(self, path: str = ACTIVE) -> None:
        try:
            self._fd = OwnedFd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise DisplayError(f"{path}: {error.strerror}") from None

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd.fileno()

    def arm(self) -> None:
        """Wait for changes from now on."""
        os.pread(self._fd.fileno(), 64, 0)  # sysfs tells of changes after the last read

    def has_changed(self) -> bool:
        """Return whether another VT has come to the front since, if only for a moment."""
        return bool(select.select([], [], [self.fileno()], 0)[2])

    def close(self) -> None:
        """Close it."""
        self._fd.close()
