"""Whether there is a graphics card whose picture could be read: by its name in the devices' folder.

Whether it can indeed is for who opens it: the daemon never does.
"""

import logging
import os
from collections.abc import Callable

from sessiond.transport.edge import EdgePoller
from sessiond.transport.names import NameWatch
from sessiond.wire.kms import is_card

log = logging.getLogger(__name__)


class Cards:
    """Calls ``on_change()`` when the first card comes or the last one goes, until ``close``.

    ``are_there`` says what is so.
    """

    def __init__(self, folder: str, poller: EdgePoller, on_change: Callable[[], None]) -> None:
        self._folder = folder
        self._on_change = on_change
        self._names = NameWatch(folder, poller, self._look, is_folder=True)
        self.are_there = has_card(folder)

    def close(self) -> None:
        """Watch no more."""
        self._names.close()

    def _look(self) -> None:
        now = has_card(self._folder)
        if now != self.are_there:
            self.are_there = now
            log.info("a graphics card is %s in %s", "now" if now else "no more", self._folder)
            self._on_change()


def has_card(folder: str) -> bool:
    """Whether a folder such as /dev/dri holds one; false if there is no such folder."""
    try:
        return any(map(is_card, os.listdir(folder)))
    except OSError:
        return False
