"""Tells when a file appears, goes, or is closed by others: inotify(7), without ever polling.

Python's library has no inotify, and what there is elsewhere brings threads or loops of its own for
the three calls that are needed here.
"""

import ctypes
import errno
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
_REAL_FOLDER: Final = 0x01000000 | 0x02000000  # IN_ONLYDIR, IN_DONT_FOLLOW
# What there is not, or not for us: the folder above is watched instead.
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP})
_BUFFER: Final = 64 << 10

log = logging.getLogger(__name__)

_libc: Final = ctypes.CDLL(None, use_errno=True)


class NameWatch:
    """Calls ``on_change()`` when something about PATH may be new; it does not say what.

    Watched are the file itself, for others that close it, and its folder, for names that come and
    go; where there is no such folder yet, the nearest one above it. What stands above tells too
    much rather than too little. ``is_folder``: PATH is the folder; where others may make names in
    it, none of them is looked at, and no link is followed. ``is_watching`` is false where the
    kernel has no more watches for us (inotify(7), /proc/sys/fs/inotify).
    """

    def __init__(
        self,
        path: str,
        poller: EdgePoller,
        on_change: Callable[[], None],
        *,
        is_folder: bool = False,
    ) -> None:
        self._path = Path(path)
        self._mask = _NAMES | _GONE | _REAL_FOLDER if is_folder else _CLOSED
        self._is_folder = is_folder
        self._poller = poller
        self._on_change = on_change
        self._watched: dict[Path, int] = {}
        self.is_watching = True
        try:
            self._fd = OwnedFd(_made())
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
        for place, mask in ((self._path, self._mask), *folders):
            number = _libc.inotify_add_watch(self._fd.fileno(), os.fsencode(place), mask)
            if number >= 0:
                found[place] = number
                if self._is_folder or place != self._path:
                    break
            elif ctypes.get_errno() not in _ABSENT:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return found

    def _changed(self, _events: int) -> None:
        is_news = False
        while True:
            try:
                is_news = bool(os.read(self._fd.fileno(), _BUFFER)) or is_news
            except BlockingIOError:
                break
        if is_news:
            try:
                self._watch()
            except OSError as error:  # no more watches
                log.warning("%s is watched no more: %s", self._path, error)
                self.close()
            self._on_change()


def _made() -> int:
    number: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if number < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return number
