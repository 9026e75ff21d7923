"""Notifications of the desktop: org.freedesktop.Notifications, version 1.2 of its specification.

At most one of ours is on the screen that says that it is being streamed.
"""

import asyncio
import logging
from collections.abc import Callable
from html import escape
from typing import Any, Final

from sessiond.indicator.view import STREAMED
from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_signals import Answer
from sessiond.transport.dbus import Variant

log = logging.getLogger(__name__)

NAME: Final = "org.freedesktop.Notifications"
_PATH: Final = "/org/freedesktop/Notifications"
APP_NAME: Final = "Screen streaming"
_DESKTOP_ENTRY: Final = "spice-session-indicator"
_BODY: Final = "A remote viewer sees what this screen shows."
_SERVERS_CHOICE: Final = -1  # when it goes by itself
_NORMAL: Final = 1  # urgency

INTERVAL: Final = 30.0  # seconds from one to the next: a client that comes and goes is no flood


class Notifier:
    """``on_owner`` is called when the service comes or goes."""

    def __init__(self, bus: Bus, on_owner: Callable[[], None], interval: float = INTERVAL) -> None:
        self._bus = bus
        self._loop = asyncio.get_running_loop()
        self._on_owner_changed = on_owner
        self._interval = interval
        self._owner = ""
        self._id = 0  # of the newest, which the next one replaces
        self._is_shown = False
        self._is_told = False  # of this start, or being told
        self._is_telling = False  # the service has not answered yet
        self._earliest = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        bus.watch_owner(NAME, self._on_owner)

    @property
    def is_there(self) -> bool:
        """Whether the service runs."""
        return bool(self._owner)

    def set_shown(self, *, is_shown: bool) -> None:
        """Tell when the streaming starts, and take it back when it ends."""
        if is_shown == self._is_shown:
            return
        self._is_shown = is_shown
        if is_shown:
            self._tell()
        else:
            self.close()
            self._is_told = False
            if not self._is_telling:  # else when its number is known
                self._take_back()

    def tell_failure(self, summary: str, text: str) -> None:
        """Tell that what a person has ordered did not happen."""
        self._notify(0, "dialog-error", summary, escape(text, quote=False), _ignore)

    def close(self) -> None:
        """Tell nothing more that waits."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _on_owner(self, owner: str) -> None:
        self._owner = owner
        self._id = 0  # another service has other numbers
        if owner and self._is_shown and not self._is_told and not self._timer:
            self._tell()
        self._on_owner_changed()

    def _tell(self) -> None:
        wait = self._earliest - self._loop.time()
        if wait > 0:
            self._timer = self._loop.call_later(wait, self._tell_now)
        else:
            self._tell_now()

    def _tell_now(self) -> None:
        self._timer = None
        self._is_told = self._is_telling = True
        self._earliest = self._loop.time() + self._interval
        self._notify(self._id, "media-record", STREAMED, _BODY, self._on_told)

    def _on_told(self, answer: Answer) -> None:
        self._is_telling = False
        if isinstance(answer, Exception):
            log.debug("no notification: %s", answer)
            # Nobody has seen it: it is told again when the service comes.
            self._is_told = False
            self._earliest = self._loop.time()
            return
        self._id = answer[0]
        if not self._is_shown:
            self._take_back()

    def _take_back(self) -> None:
        # The number stays, as what the next one replaces where this one still stands.
        if self._id and self._owner:
            call = Call(self._owner, _PATH, NAME, "CloseNotification", "u", [self._id])
            self._bus.call_nowait(call, _ignore)  # a person may have closed it already

    def _notify(
        self, replaces: int, icon: str, summary: str, body: str, on_answer: Callable[[Answer], None]
    ) -> None:
        # To the name, not its owner: where the service is started on demand, this starts it.
        hints = {
            "urgency": Variant("y", _NORMAL),
            "desktop-entry": Variant("s", _DESKTOP_ENTRY),
        }
        arguments: list[Any] = [APP_NAME, replaces, icon, summary, body, [], hints, _SERVERS_CHOICE]
        call = Call(NAME, _PATH, NAME, "Notify", "susssasa{sv}i", arguments)
        self._bus.call_nowait(call, on_answer)


def _ignore(_answer: Answer) -> None:
    """Take no note: nothing depends on it."""
