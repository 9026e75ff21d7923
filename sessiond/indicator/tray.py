"""The icon in the desktop's panel: serves it, and registers it with each watcher that comes."""

import logging
import os
from collections.abc import Callable
from typing import Final

from sessiond.errors import BusError
from sessiond.indicator.contract import CONTRACT
from sessiond.indicator.item import MENU_PATH, PATH, Item
from sessiond.indicator.menu import Menu
from sessiond.indicator.view import View
from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_signals import Answer
from sessiond.transport.objects import ObjectServer, Spawn

log = logging.getLogger(__name__)

WATCHER: Final = "org.kde.StatusNotifierWatcher"
_WATCHER_PATH: Final = "/StatusNotifierWatcher"

# Which signal tells of which property.
_SIGNALS: Final = {"Title": "NewTitle", "IconName": "NewIcon", "ToolTip": "NewToolTip"}


class Tray:
    """Calls ``on_order(enabled)`` when a person pauses or resumes.

    ``on_owner`` is called when the watcher comes or goes.
    """

    def __init__(
        self,
        bus: Bus,
        view: View,
        spawn: Spawn,
        *,
        on_order: Callable[[bool], None],
        on_owner: Callable[[], None],
    ) -> None:
        self._bus = bus
        self._on_owner_changed = on_owner
        self._item = Item(view)
        self._menu = Menu(view, on_order)
        self._owner = ""
        # One server for both, so that who browses the paths from / on finds both.
        self._server = ObjectServer(bus, "/", CONTRACT, spawn)
        self._server.add(PATH, self._item)
        self._server.add(MENU_PATH, self._menu)

    async def start(self) -> None:
        """Own the name that hosts expect, and register from now on."""
        name = f"org.kde.StatusNotifierItem-{os.getpid()}-1"
        try:
            await self._bus.request_name(name)
            self._name = name
        except BusError as error:  # such as in another pid namespace: the unique name does too
            log.debug("%s", error)
            self._name = self._bus.unique_name
        self._bus.watch_owner(WATCHER, self._on_owner)

    @property
    def is_there(self) -> bool:
        """Whether there is a watcher."""
        return bool(self._owner)

    def show(self, view: View) -> None:
        """Show another view."""
        before = self._item.properties()
        self._item.view = view
        now = self._item.properties()
        self._server.changed(PATH)
        for name, member in _SIGNALS.items():
            if now[name] != before[name]:
                self._server.emit(PATH, member)
        if now["Status"] != before["Status"]:
            self._server.emit(PATH, "NewStatus", now["Status"])
        if news := self._menu.show(view):
            self._server.emit(MENU_PATH, "ItemsPropertiesUpdated", news, [])

    def _on_owner(self, owner: str) -> None:
        self._owner = owner
        if owner:
            log.debug("registering with the watcher %s", owner)
            call = Call(owner, _WATCHER_PATH, WATCHER, "RegisterStatusNotifierItem", "s",
                        [self._name])  # fmt: skip
            self._bus.call_nowait(call, _note)
        self._on_owner_changed()


def _note(answer: Answer) -> None:
    if isinstance(answer, Exception):
        log.debug("the watcher did not take the icon: %s", answer)
