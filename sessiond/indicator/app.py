"""Where the indicator's parts are joined, and when it ends.

It ends when it is told to, when either bus has gone, and when the desktop has had neither
notifications nor a place for icons for a while. It has one timer at most, and none while it waits.
"""

import asyncio
import contextlib
import logging
import os
import signal
from dataclasses import dataclass
from typing import Final

from sessiond.errors import BusCallError, BusError
from sessiond.indicator import notifier
from sessiond.indicator.notifier import Notifier
from sessiond.indicator.tray import Tray
from sessiond.indicator.view import Facts, describe
from sessiond.indicator.watch import Watch
from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_match import DRIVER

log = logging.getLogger(__name__)

_ACTIVATABLE: Final = Call(DRIVER, "/org/freedesktop/DBus", DRIVER, "ListActivatableNames")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Bus addresses; the own session's id, "" for the user's active one; ``wait`` in seconds."""

    system_bus: str
    session_bus: str
    session_id: str
    wait: float
    interval: float = notifier.INTERVAL


async def run(settings: Settings) -> None:
    """Return when there is nothing more to do. Raises BusError if a bus cannot be reached."""
    with (
        await Bus.connect(settings.session_bus) as desktop,
        await Bus.connect(settings.system_bus) as system,
    ):
        try:
            async with asyncio.TaskGroup() as group:
                app = _Indicator(settings, desktop, system, group)
                await app.run()
        except* BusError as errors:
            # A bus that went is the end of the session or of the machine, and no failure of ours.
            log.debug("ending: %s", errors.exceptions[0])


class _Indicator:
    """Lives within ``group``."""

    def __init__(
        self, settings: Settings, desktop: Bus, system: Bus, group: asyncio.TaskGroup
    ) -> None:
        self._settings = settings
        self._desktop = desktop
        self._system = system
        self._group = group
        self._loop = asyncio.get_running_loop()
        self._view = describe(Facts())
        self._facts = Facts()
        self._refresh: asyncio.Handle | None = None
        self._ended = asyncio.Event()
        self._end_timer: asyncio.TimerHandle | None = None
        self._can_start_notifier = False

    async def run(self) -> None:
        """Return when it is over; then both buses are closed."""
        for bus in (self._desktop, self._system):
            self._group.create_task(bus.wait_closed(), name="a bus")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._ended.set)
        try:
            with contextlib.closing(await self._start()):
                await self._ended.wait()
        finally:
            self._close()

    async def _start(self) -> Notifier:
        [names] = await self._desktop.call(_ACTIVATABLE)
        self._can_start_notifier = notifier.NAME in names
        self._tray = Tray(
            *(self._desktop, self._view, self._group.create_task),
            on_order=self._on_order,
            on_owner=self._mind_services,
        )
        self._notifier = Notifier(self._desktop, self._mind_services, self._settings.interval)
        await self._tray.start()
        session_id, uid = self._settings.session_id, os.getuid()
        self._watch = Watch(self._system, session_id, uid, self._on_facts)
        self._mind_services()
        return self._notifier

    def _close(self) -> None:
        for handle in (self._refresh, self._end_timer):
            if handle:
                handle.cancel()
        self._desktop.close()
        self._system.close()

    def _mind_services(self) -> None:
        """End, if for a while nothing is there to show anything; a login brings it up slowly."""
        is_of_use = self._tray.is_there or self._notifier.is_there or self._can_start_notifier
        if is_of_use and self._end_timer:
            self._end_timer.cancel()
            self._end_timer = None
        elif not is_of_use and not self._end_timer:
            self._end_timer = self._loop.call_later(self._settings.wait, self._on_nothing)

    def _on_nothing(self) -> None:
        log.debug("ending: the desktop has neither notifications nor a place for icons")
        self._ended.set()

    def _on_facts(self, facts: Facts) -> None:
        # What the daemon tells at one time comes in several signals; between them it is half true.
        self._facts = facts
        if not self._refresh:
            self._refresh = self._loop.call_soon(self._show)

    def _show(self) -> None:
        self._refresh = None
        view = describe(self._facts)
        if view == self._view:
            return
        log.debug("%s", view)
        self._view = view
        self._tray.show(view)
        self._notifier.set_shown(is_shown=view.is_shown)

    def _on_order(self, enabled: bool) -> None:
        def on_failure(error: BusCallError) -> None:
            what = "resumed" if enabled else "paused"
            log.warning("the streaming was not %s: %s", what, error)
            self._notifier.tell_failure(f"The streaming was not {what}", error.text or error.name)

        self._watch.set_streaming(enabled=enabled, on_failure=on_failure)
