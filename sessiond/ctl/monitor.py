"""``monitor``: what the daemon tells, as it happens, a line each, until it ends or ^C."""

import time
from collections.abc import Callable
from typing import Any, Final, NoReturn

from sessiond.ctl.client import (
    MANAGER,
    NO_OWNER,
    OBJECT_MANAGER,
    PROPERTIES,
    ROOT,
    Client,
)
from sessiond.ctl.events import Told, tell, tell_state
from sessiond.ctl.view import Page, clock
from sessiond.errors import BusCallError, BusError
from sessiond.transport.bus import Bus
from sessiond.transport.bus_match import Match, Signal

_SIGNALS: Final = (
    (PROPERTIES, "PropertiesChanged", ""),
    (OBJECT_MANAGER, "InterfacesAdded", ROOT),
    (OBJECT_MANAGER, "InterfacesRemoved", ROOT),
    (MANAGER, "SessionSwitched", ROOT),
    (MANAGER, "AgentStarted", ROOT),
    (MANAGER, "AgentExited", ROOT),
)
_GONE: Final = "the daemon has left the bus"


class Monitor:
    """Hands a page to ``show`` for each event; ``now`` gives seconds since 1970."""

    def __init__(
        self, client: Client, show: Callable[[Page], None], now: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._show = show
        self._now = now
        self._names: dict[str, str] = {}
        self._early: list[Signal] | None = []  # until it is known what they happened to
        self._is_gone = False

    async def run(self, bus: Bus, name: str) -> NoReturn:
        """Watch until the daemon that was found leaves ``name``: then NameHasNoOwner is raised.

        BusError when the bus is lost. In either case ``bus`` is closed.
        """
        self._bus = bus
        bus.watch_owner(name, self._on_owner)
        for interface, member, path in _SIGNALS:
            match = Match(sender=self._client.owner, interface=interface, member=member, path=path)
            bus.subscribe(match, self._on_signal)
        try:
            await self._begin()
            await bus.wait_closed()
        except BusError:
            if not self._is_gone:
                raise
        self._tell(Told("Gone", _GONE, {}))
        raise BusCallError(NO_OWNER, _GONE)

    async def _begin(self) -> None:
        """Say what is so; what was signalled before is part of it, and what came since follows."""
        manager = await self._client.manager()
        self._early = []
        sessions, agents = await self._client.sessions(), await self._client.user_agents()
        self._names = {path: str(it.get("Id", "")) for path, it in sessions.items()}
        self._names |= {path: str(it.get("Name", "")) for path, it in agents.items()}
        self._tell(tell_state(manager))
        early, self._early = self._early, None
        for arrived in early:
            self._on_signal(arrived)

    def _on_owner(self, owner: str) -> None:
        if owner != self._client.owner:
            self._is_gone = True
            self._bus.close()  # which ends every wait

    def _on_signal(self, arrived: Signal) -> None:
        if self._early is not None:
            self._early.append(arrived)
        elif told := tell(arrived, self._names):
            self._tell(told)

    def _tell(self, told: Told) -> None:
        usec = int(self._now() * 1e6)
        document: dict[str, Any] = {"Time": usec, "Event": told.event, **told.fields}
        self._show(Page(document, note=f"{clock(usec)} {told.line}"))
