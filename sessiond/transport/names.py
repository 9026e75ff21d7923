"""Tells when a file appears, goes, or is closed by others: inotify(7), without ever polling.

Python's library has no inotify, and what there is elsewhere brings threads or loops of its own for
the three calls that are needed here.
"""

import contextlib
import ctypes
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sessiond.transport.edge import EdgePoller
from sessiond.transport.fds import OwnedFd

_CLOSED: Final = 0x08 | 0x10  # IN_CLOSE_WRITE, IN_CLOSE_NOWRITE
_NAMES: Final = 0x40 | 0x80 | 0x100 | 0x200  # IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE
_GONE: Final = 0x400 | 0x800  # IN_DELETE_SELF, IN_MOVE_SELF
_BUFFER: Final = 64 << 10

log = logging.getLogger(__name__)

_libc: Final = ctypes.CDLL(None, use_errno=True)


class NameWatch:
    """Calls ``on_change()`` when something about PATH may be new; it does not say what.

    Watched are the file itself, for others that close it, and its folder, for names that come and
    go; where there is no such folder yet, the nearest one above it. Folders of no name that is
    watched tell too much rather than too little. ``is_watching`` is false where the kernel has no
    more watches for us (inotify(7), /proc/sys/fs/inotify).
    """

    def __init__(self, path: str, poller: EdgePoller, on_change: Callable[[], None]) -> None:
        self._path = Path(path)
        self._poller = poller
        self._on_change = on_change
        self._watched: dict[Path, int] = {}
        self.is_watching = True
        try:
            self._fd = OwnedFd(_call(_libc.inotify_init1, os.O_CLOEXEC | os.O_NONBLOCK))
            self._watch()
        except OSError as error:
            log.warning("%s cannot be watched: %s", path, error)
            self.is_watching = False
        else:
            poller.watch(self._fd.fileno(), self._changed)

    def close(self) -> None:
        """Watch no more; a second call does nothing."""
        if self.is_watching:
            self.is_watching = False
            self._poller.forget(self._fd.fileno())
            self._fd.close()

    def _watch(self) -> None:
        """Watch what there is to watch now."""
        before = self._watched
        # A folder may come between the look for it and the watch of the one above: look again.
        while (found := self._add_watches()) != self._watched:
            self._watched = found
        for number in set(before.values()) - set(found.values()):
            _libc.inotify_rm_watch(self._fd.fileno(), number)  # gone by itself, most often

    def _add_watches(self) -> dict[Path, int]:
        """Return the kernel's numbers by place; it knows a file that it watches already."""
        found = dict[Path, int]()
        folders = ((folder, _NAMES | _GONE) for folder in self._path.parents)
        for place, mask in ((self._path, _CLOSED), *folders):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                found[place] = _call(
                    _libc.inotify_add_watch, self._fd.fileno(), os.fsencode(place), mask
                )
                if place != self._path:
                    break
        return found

    def _changed(self, _events: int) -> None:
        is_news = False
        while True:
            try:
                is_news = bool(os.read(self._fd.fileno(), _BUFFER)) or is_news
            except BlockingIOError:
                break
        if is_news:
            self._watch()
            self._on_change()


def _call(function: Callable[..., int], *arguments: object) -> int:
    result = function(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
