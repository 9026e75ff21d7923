"""Who owns a file descriptor: exactly one ``OwnedFd``."""

import os
from types import TracebackType
from typing import Self


class OwnedFd:
    """Closes its descriptor once, at the latest when it is collected.

    The descriptor must be close-on-exec from birth; Python's own calls make it so.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        """Return the descriptor; ValueError after ``close``."""
        if self._fd < 0:
            raise ValueError("the descriptor is closed")
        return self._fd

    def close(self) -> None:
        """Close it; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
