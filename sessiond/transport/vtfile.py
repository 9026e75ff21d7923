"""Which virtual terminal is in front, from sysfs, without ever polling.

``/sys/class/tty/tty0/active`` holds ``ttyN``. The kernel signals a change by POLLPRI, which a
level-triggered loop would see for ever: so it is watched edge-triggered.
"""

import os
import re
from collections.abc import Callable

from sessiond.transport.edge import EdgePoller
from sessiond.transport.fds import OwnedFd


class VtFile:
    """Tells ``on_vt(number)`` at each change; 0 where there are no virtual terminals."""

    def __init__(self, path: str, poller: EdgePoller, on_vt: Callable[[int], None]) -> None:
        self._on_vt = on_vt
        self._poller = poller
        self._fd: OwnedFd | None = None
        self.number = 0
        try:
            self._fd = OwnedFd(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return
        self.number = self._read()
        try:
            poller.watch_priority(self._fd.fileno(), self._changed)
        except PermissionError:  # not of sysfs: a plain file never tells that it changed
            self._fd.close()
            self._fd = None

    def close(self) -> None:
        """Watch no more."""
        if self._fd:
            self._poller.forget(self._fd.fileno())
            self._fd.close()
            self._fd = None

    def _changed(self, _events: int) -> None:
        number = self._read()
        if number != self.number:
            self.number = number
            self._on_vt(number)

    def _read(self) -> int:
        if self._fd is None:
            return 0
        text = os.pread(self._fd.fileno(), 64, 0)
        match = re.fullmatch(rb"tty(\d{1,2})\n?", text)
        return int(match[1]) if match else 0
