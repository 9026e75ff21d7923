"""Tells when the leader of a kernel session ends: without logind that is the session's end."""

import asyncio
import errno
import os
from collections.abc import Callable

from sessiond.helper.origin import start_of
from sessiond.transport.fds import OwnedFd


class Lives:
    """Watches processes by pidfd, one for each key; each end is told of once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._watched: dict[int, OwnedFd] = {}

    def watch(self, key: int, pid: int, start: int, on_end: Callable[[], None]) -> None:
        """Call ``on_end`` when that process ends, unless the key has got another one by then.

        ``start`` is when it began (``origin.start_of``). Raises ProcessLookupError if it has ended
        already, whoever has its number now.
        """
        pidfd = OwnedFd(os.pidfd_open(pid))
        if start_of(pid) != start:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        self.forget(key)
        self._watched[key] = pidfd
        self._loop.add_reader(pidfd.fileno(), self._ended, key, on_end)

    def forget(self, key: int) -> None:
        """Watch a key's process no more; one without is none."""
        pidfd = self._watched.pop(key, None)
        if pidfd:
            self._loop.remove_reader(pidfd.fileno())
            pidfd.close()

    def close(self) -> None:
        """Watch nobody any more."""
        for key in list(self._watched):
            self.forget(key)

    def _ended(self, key: int, on_end: Callable[[], None]) -> None:
        self.forget(key)
        on_end()
