"""The terminals that the configuration names: the host hears of their new sizes.

Each has a task of its own, from the start to the daemon's end. A terminal that is not there, or
that cannot be listened to, is told once, and tried again when there is another one of its name, or
when other names come: that of a console (hvc) is there without it, for ever after the first time.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from sessiond.errors import SessiondError
from sessiond.transport.backoff import Backoff
from sessiond.transport.edge import EdgePoller
from sessiond.transport.names import NameWatch
from sessiond.transport.objects import Spawn
from sessiond.transport.resizes import WindowSize, listening

log = logging.getLogger(__name__)

STEADY: Final = 10.0  # seconds after which to have listened counts as a success
SETTLE: Final = 2.0
"""Seconds from a port's name in /dev until the console behind it is one, and more than it takes."""

OnSize = Callable[[str, WindowSize], None]


class Terminals:
    """Watches the terminals at ``paths`` from ``start`` on, each with a program ``command``.

    ``spawn`` runs a coroutine in a task that somebody owns, and ends. ``on_size(path, size)`` is
    called when a terminal's size is another than the one that was known of it.
    """

    def __init__(
        self,
        paths: Sequence[str],
        command: Callable[[], Sequence[str]],
        poller: EdgePoller,
        spawn: Spawn,
        on_size: OnSize,
    ) -> None:
        self._paths = dict.fromkeys(paths)
        self._command = command
        self._poller = poller
        self._spawn = spawn
        self._on_size = on_size

    def start(self) -> None:
        """Begin; to be called once."""
        for path in self._paths:
            self._spawn(_Watch(path, self._command(), self._poller, self._on_size).run())


class _Watch:
    """One terminal's, across all devices that have its name in turn."""

    def __init__(
        self, path: str, command: Sequence[str], poller: EdgePoller, on_size: OnSize
    ) -> None:
        self._path = path
        self._command = command
        self._poller = poller
        self._on_size = on_size
        self._known: WindowSize | None = None
        self._fault = ""

    async def run(self) -> NoReturn:
        """Listen for ever, and again after each end."""
        news = asyncio.Event()
        # The folder, because we close the terminal ourselves again and again.
        folder = os.path.dirname(self._path)
        names = NameWatch(folder, self._poller, news.set, is_folder=True)
        backoff = Backoff()
        with contextlib.closing(names):
            while True:
                news.clear()
                tried = _identity(self._path)
                began = asyncio.get_running_loop().time()
                try:
                    await self._listen()
                except SessiondError as error:
                    self._tell(str(error))
                    if _identity(self._path) == tried:
                        await news.wait()
                        await asyncio.sleep(SETTLE if tried else 0)
                    continue
                log.info("%s is not listened to any more: its listener has ended", self._path)
                if asyncio.get_running_loop().time() - began > STEADY:
                    backoff.reset()
                await asyncio.sleep(backoff.delay())

    async def _listen(self) -> None:
        """Listen until the listener's end. Raises SessiondError if there is nothing to listen."""
        async with listening(self._path, self._command) as resizes:
            self._fault = ""
            log.info("%s is watched", self._path)
            self._take(resizes.size)
            async for size in resizes:
                self._take(size)

    def _tell(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            log.warning("a terminal is not watched: %s", fault)

    def _take(self, size: WindowSize) -> None:
        if self._known not in {None, size}:
            self._on_size(self._path, size)
        self._known = size


def _identity(path: str) -> tuple[int, ...] | None:
    """Return what another device would have otherwise, None for no device."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_rdev, found.st_ctime_ns)
