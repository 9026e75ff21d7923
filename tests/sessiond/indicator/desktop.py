"""Both of the indicator's neighbours, on real buses: the daemon, and a desktop.

``World`` has all of it; each stand-in has a connection of its own and says what it was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self

from sessiond.bus.contract import find_contract
from sessiond.errors import RequestError
from sessiond.indicator.app import Settings, run
from sessiond.indicator.item import MENU_PATH
from sessiond.indicator.item import PATH as ITEM_PATH
from sessiond.indicator.notifier import NAME as NOTIFICATIONS
from sessiond.indicator.tray import WATCHER
from sessiond.indicator.watch import MANAGER, NAME, PROPERTIES, ROOT, SESSION
from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_match import DRIVER, Match
from sessiond.transport.contract import parse
from sessiond.transport.objects import ObjectServer
from tests.fixtures.bus import PrivateBus
from tests.fixtures.loop import Signal, in_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

    from sessiond.transport.bus_match import Signal as BusSignal
    from sessiond.transport.objects import Caller, Served

P = ParamSpec("P")

ITEM: Final = "org.kde.StatusNotifierItem"
MENU: Final = "com.canonical.dbusmenu"
UID: Final = os.getuid()
_NOTIFICATIONS_XML: Final = f"""
<node><interface name="{NOTIFICATIONS}">
  <method name="Notify">
    <arg type="s" direction="in"/><arg type="u" direction="in"/><arg type="s" direction="in"/>
    <arg type="s" direction="in"/><arg type="s" direction="in"/><arg type="as" direction="in"/>
    <arg type="a{{sv}}" direction="in"/><arg type="i" direction="in"/>
    <arg type="u" direction="out"/>
  </method>
  <method name="CloseNotification"><arg type="u" direction="in"/></method>
</interface></node>"""
_WATCHER_XML: Final = f"""
<node><interface name="{WATCHER}">
  <method name="RegisterStatusNotifierItem"><arg type="s" direction="in"/></method>
</interface></node>"""


class Peer:
    """One who owns a name on a bus, and serves."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.signal = Signal()

    @classmethod
    async def connect(cls, address: str) -> Self:
        """Connect, serve and own the name."""
        peer = cls(await Bus.connect(address))
        await peer.serve()
        return peer

    async def serve(self) -> None:
        """Serve its objects."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bus.close()

    async def flush(self) -> None:
        """Return when the bus has all that was answered."""
        await self.bus.call(Call(DRIVER, "/org/freedesktop/DBus", DRIVER, "GetId"))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when CONDITION holds, which is looked at after each call to it."""
        await self.signal.until(condition)


def _never(coroutine: Coroutine[Any, Any, None]) -> None:
    coroutine.close()
    raise AssertionError("nothing here answers later")


class Notifications(Peer):
    """``shown`` are the notifications on the screen by number; ``log`` what was asked."""

    interface = NOTIFICATIONS

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self.shown: dict[int, str] = {}
        self.log: list[tuple[str, int]] = []
        self.texts: list[tuple[str, str, Mapping[str, Any]]] = []
        self._next = 1

    async def serve(self) -> None:
        server = ObjectServer(self.bus, "/", parse(_NOTIFICATIONS_XML), _never)
        server.add("/org/freedesktop/Notifications", self)
        await self.bus.request_name(NOTIFICATIONS)

    def properties(self) -> Mapping[str, Any]:
        return {}

    def Notify(  # noqa: N802
        self,
        _caller: Caller,
        app: str,
        replaces: int,
        _icon: str,
        summary: str,
        body: str,
        _actions: list[str],
        hints: Mapping[str, Any],
        _timeout: int,
    ) -> int:
        number = replaces or self._next
        self._next = max(self._next, number + 1)
        self.shown[number] = summary
        self.texts.append((app, body, hints))
        self.log.append(("notify", replaces))
        self.signal.happened()
        return number

    def CloseNotification(self, _caller: Caller, number: int) -> None:  # noqa: N802
        self.log.append(("close", number))
        self.signal.happened()
        if self.shown.pop(number, None) is None:
            raise RequestError("org.freedesktop.DBus.Error.Failed", "there is none")


class Watcher(Peer):
    """``items`` are the services that were registered."""

    interface = WATCHER

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self.items: list[str] = []

    async def serve(self) -> None:
        server = ObjectServer(self.bus, "/", parse(_WATCHER_XML), _never)
        server.add("/StatusNotifierWatcher", self)
        await self.bus.request_name(WATCHER)

    def properties(self) -> Mapping[str, Any]:
        return {}

    def RegisterStatusNotifierItem(self, _caller: Caller, service: str) -> None:  # noqa: N802
        self.items.append(service)
        self.signal.happened()


class _Object:
    """Its properties are ``values``."""

    def __init__(self, interface: str, values: dict[str, Any]) -> None:
        self.interface = interface
        self.values = values

    def properties(self) -> Mapping[str, Any]:
        return dict(self.values)


class _Session(_Object):
    """Refuses with ``refusal``, if there is one."""

    def __init__(self, daemon: Daemon, values: dict[str, Any]) -> None:
        super().__init__(SESSION, values)
        self._daemon = daemon

    def SetStreaming(self, caller: Caller, enabled: bool) -> None:  # noqa: N802
        self._daemon.orders.append((self.values["Id"], enabled, caller.is_interactive))
        self._daemon.signal.happened()
        if self._daemon.refusal:
            raise RequestError("org.freedesktop.DBus.Error.AccessDenied", self._daemon.refusal)


class Daemon(Peer):
    """What the indicator needs of spice-sessiond, after its contract."""

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self.orders: list[tuple[str, bool, bool]] = []
        self.refusal = ""
        self._objects: dict[str, _Object] = {}

    async def serve(self) -> None:
        contract = find_contract()
        for name, methods in ((MANAGER, ()), (SESSION, ("SetStreaming",))):
            whole = contract[name]
            contract[name] = replace(
                whole,
                methods={name: whole.methods[name] for name in methods},
                properties={n: replace(p, is_writable=False) for n, p in whole.properties.items()},
            )
        self._server = ObjectServer(self.bus, ROOT, contract, _never)
        self._add(ROOT, _Object(MANAGER, {
            "State": "idle", "ReasonText": "No client <asks> & none waits.",
            "StreamingEnabled": True,
        }))  # fmt: skip
        self.add_session("1")
        await self.bus.request_name(NAME)

    def add_session(self, session_id: str, **values: object) -> None:
        """Add a session of UID, in front unless told otherwise."""
        ours = {"Id": session_id, "User": [UID, "alice"], "Active": True, "Shown": False,
                "Reason": "host-not-asking", "Backend": ""}  # fmt: skip
        self._add(_path(session_id), _Session(self, ours | values))

    def remove_session(self, session_id: str) -> None:
        """Remove it."""
        self._server.remove(_path(session_id))

    def set(self, session_id: str = "", **values: object) -> None:
        """Change a session's properties, or the Manager's."""
        path = _path(session_id) if session_id else ROOT
        self._objects[path].values |= values
        self._server.changed(path)

    def stream(self, session_id: str = "1", *, is_shown: bool = True) -> None:
        """Let a client come to see a session, or go."""
        if is_shown:
            self.set(State="streaming", ReasonText="The screen is being streamed.")
            self.set(session_id, Shown=True, Reason="ok")
        else:
            self.set(State="idle", ReasonText="No client asks.")
            self.set(session_id, Shown=False, Reason="host-not-asking")

    def _add(self, path: str, served: _Object) -> None:
        self._objects[path] = served
        checked: Served = served
        self._server.add(path, checked)


def _path(session_id: str) -> str:
    return f"{ROOT}/session/s{session_id}"


class Panel:
    """One who shows the item: reads it, and hears its signals."""

    def __init__(self, bus: Bus, service: str) -> None:
        self._bus = bus
        self._service = service
        self._signal = Signal()
        self.heard: list[tuple[str, list[Any]]] = []
        for interface, members in (
            (ITEM, ("NewTitle", "NewIcon", "NewToolTip", "NewStatus")),
            (MENU, ("ItemsPropertiesUpdated", "LayoutUpdated")),
        ):
            for member in members:
                match = Match(sender=service, interface=interface, member=member)
                bus.subscribe(match, self._on_signal)

    def _on_signal(self, signal: BusSignal) -> None:
        self.heard.append((signal.member, signal.body))
        self._signal.happened()

    async def until(self, member: str, *body: object) -> None:
        """Return when a signal with that body was heard."""
        await self._signal.until(lambda: (member, list(body)) in self.heard)

    async def until_item(self, name: str, value: object) -> None:
        """Return when a property of the item has that value."""
        while True:
            heard = len(self.heard)
            if (await self.item())[name] == value:
                return
            await self._signal.until(lambda known=heard: len(self.heard) > known)  # type: ignore[misc]

    async def until_status(self, status: str) -> None:
        """Return when the item's status is STATUS."""
        await self.until_item("Status", status)

    async def until_known(self) -> None:
        """Return when it shows what the daemon has said first."""
        await self.until_item("Title", "Nobody watches this screen")

    async def call(self, path: str, interface: str, member: str, *signature: object) -> list[Any]:
        """Call it: signature and arguments."""
        kind, *body = signature or ("",)
        return await self._bus.call(Call(self._service, path, interface, member, str(kind), body))

    async def item(self) -> dict[str, Any]:
        """Return the item's properties."""
        [values] = await self.call(ITEM_PATH, PROPERTIES, "GetAll", "s", ITEM)
        return dict(values)

    async def menu(self, member: str, *arguments: object) -> list[Any]:
        """Call the menu."""
        return await self.call(MENU_PATH, MENU, member, *arguments)

    async def click(self, entry: int) -> None:
        """Click an entry of the menu."""
        await self.menu("Event", "isvu", entry, "clicked", _nothing(), 0)

    async def entries(self) -> dict[int, tuple[str, bool, bool]]:
        """Return each entry's label, whether it is enabled, and visible."""
        _, [_, _, children] = await self.menu("GetLayout", "iias", 0, -1, [])
        return {
            entry: (values["label"], values["enabled"], values["visible"])
            for entry, values, _ in children
        }


def _nothing() -> Any:  # noqa: ANN401 (the library's)
    from sessiond.transport.dbus import Variant  # noqa: PLC0415 (named once)

    return Variant("i", 0)


class World:
    """Two buses; the neighbours come when a test asks, and go at its end (``in_world``)."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.peers = contextlib.ExitStack()
        self.system = stack.enter_context(PrivateBus())
        self.session = stack.enter_context(PrivateBus())

    async def daemon(self) -> Daemon:
        """Start the daemon."""
        return self.peers.enter_context(await Daemon.connect(self.system.address))

    async def notifications(self) -> Notifications:
        """Start the service of notifications."""
        return self.peers.enter_context(await Notifications.connect(self.session.address))

    async def watcher(self) -> Watcher:
        """Start the place for icons."""
        return self.peers.enter_context(await Watcher.connect(self.session.address))

    async def panel(self, watcher: Watcher) -> Panel:
        """Return who shows the item that was registered."""
        await watcher.until(lambda: bool(watcher.items))
        bus = self.peers.enter_context(await Bus.connect(self.session.address))
        return Panel(bus, watcher.items[-1])

    def settings(
        self, *, session_id: str = "1", wait: float = 60.0, interval: float = 0.0
    ) -> Settings:
        """Return what the indicator is told."""
        return Settings(
            system_bus=self.system.address,
            session_bus=self.session.address,
            session_id=session_id,
            wait=wait,
            interval=interval,
        )


def in_world(
    test: Callable[Concatenate[World, P], Coroutine[None, None, None]],
) -> Callable[..., None]:
    """Make a test of a coroutine function, as ``in_loop``; its neighbours go with its loop."""

    @functools.wraps(test)
    async def run_within(world: World, *args: P.args, **kwargs: P.kwargs) -> None:
        with world.peers:
            await test(world, *args, **kwargs)

    return in_loop(run_within)


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """Run the indicator meanwhile."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run(settings))
        yield task
        task.cancel()
