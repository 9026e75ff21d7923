"""Recordings of GNOME's monitors, by D-Bus: org.gnome.Mutter.ScreenCast (Mutter 43 to 48).

The bus is asyncio's and the display's thread is not: a loop of its own runs here for as long as
an answer, or a change, is waited for.
"""

import asyncio
import contextlib
from collections.abc import Collection
from typing import Any, Final

from agent.capture.base import OPENING, EndedError, UnsupportedError
from agent.capture.cast import Casting, Place
from agent.capture.mutter.monitors import Layout, parse_layout
from sessiond.errors import BusCallError, BusError, DisplayError, SessiondError
from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_match import DRIVER, Match, Signal
from sessiond.transport.dbus import Variant

_SCREEN_CAST: Final = "org.gnome.Mutter.ScreenCast"
_SCREEN_CAST_PATH: Final = "/org/gnome/Mutter/ScreenCast"
_SESSION: Final = "org.gnome.Mutter.ScreenCast.Session"
_STREAM: Final = "org.gnome.Mutter.ScreenCast.Stream"
_CONFIG: Final = "org.gnome.Mutter.DisplayConfig"
_CONFIG_PATH: Final = "/org/gnome/Mutter/DisplayConfig"
_GET_STATE: Final = Call(_CONFIG, _CONFIG_PATH, _CONFIG, "GetCurrentState")
_CREATE_SESSION: Final = Call(
    _SCREEN_CAST, _SCREEN_CAST_PATH, _SCREEN_CAST, "CreateSession", "a{sv}", [{}]
)
_GET_PROCESS: Final = Call(
    DRIVER, "/org/freedesktop/DBus", DRIVER, "GetConnectionUnixProcessID", "s", [_SCREEN_CAST]
)
_CURSOR_AS_METADATA: Final = 2
_NEWS: Final = 0.5  # seconds in which we hear what else may have ended a recording
_UNKNOWN: Final = frozenset({
    "org.freedesktop.DBus.Error.ServiceUnknown",
    "org.freedesktop.DBus.Error.NameHasNoOwner",
})  # fmt: skip


class Shell(Casting):
    """GNOME's compositor, on the bus of its session."""

    name = "GNOME"

    def __init__(self, address: str, pid: int = 0) -> None:
        """Connect to the bus at ``address``, where it is process ``pid`` (0: any).

        Raises UnsupportedError where there is no such bus or no such GNOME on it.
        """
        self._loop = asyncio.new_event_loop()
        self._bus: Bus | None = None
        self._watch: asyncio.Task[None] | None = None
        self._woken: asyncio.Future[None] | None = None
        self._nodes: dict[str, int] = {}  # of PipeWire, by the stream's object
        self._serial = -1  # of the monitors that are recorded
        self._session = ""  # the recording's object
        self._owner = ""  # GNOME's name on the bus
        self._has_changed = self._is_closed = False
        self._lost = ""
        try:
            self._loop.run_until_complete(self._connect(address, pid))
        except BaseException:
            self.close()
            raise

    @property
    def is_outdated(self) -> bool:
        return self._has_changed

    def start(self) -> tuple[Place, ...]:
        return self._loop.run_until_complete(self._start())

    def wait(self, fds: Collection[int], timeout: float | None) -> frozenset[int]:
        ready = set[int]()

        def note(fd: int) -> None:
            ready.add(fd)
            self._wake()

        self._woken = self._loop.create_future()
        timer = self._loop.call_later(timeout, self._wake) if timeout is not None else None
        for fd in fds:
            self._loop.add_reader(fd, note, fd)
        try:
            if not (self._has_changed or self._is_closed or self._lost):
                self._loop.run_until_complete(self._woken)
        finally:
            for fd in fds:
                self._loop.remove_reader(fd)
            if timer:
                timer.cancel()
            self._woken = None
        self._check_lost()
        if self._is_closed and not self._has_changed:
            self._loop.run_until_complete(self._explain_end())
        return frozenset(ready)

    def close(self) -> None:
        if self._bus:
            self._bus.close()  # GNOME ends the recordings of who leaves the bus
        if self._watch:
            self._loop.run_until_complete(self._watch)
        self._loop.close()

    def _wake(self) -> None:
        if self._woken and not self._woken.done():
            self._woken.set_result(None)

    async def _connect(self, address: str, pid: int) -> None:
        try:
            self._bus = await Bus.connect(address, limit=OPENING)
        except BusError as error:
            raise UnsupportedError(f"no GNOME: {error}") from None
        self._watch = self._loop.create_task(self._watch_bus(self._bus), name="bus")
        self._bus.watch_owner(_SCREEN_CAST, self._on_owner)
        for sender, interface, member, handler in (
            (_CONFIG, _CONFIG, "MonitorsChanged", self._on_monitors),
            (_SCREEN_CAST, _SESSION, "Closed", self._on_closed),
            (_SCREEN_CAST, _STREAM, "PipeWireStreamAdded", self._on_added),
        ):
            match = Match(sender=sender, interface=interface, member=member)
            self._bus.subscribe(match, handler)
        await self._layout()  # is there a GNOME, and do we hear its signals?
        if pid:
            await self._check_process(pid)

    async def _check_process(self, pid: int) -> None:
        """Raise UnsupportedError if GNOME is another process: of a user's other session."""
        try:
            [its_pid] = await self._call(_GET_PROCESS)
        except BusCallError as error:
            raise _refusal(error) from None
        if its_pid != pid:
            raise UnsupportedError(
                f"no GNOME: the one on the session's bus (pid {its_pid}) is not this session's "
                f"compositor (pid {pid})"
            )

    async def _watch_bus(self, bus: Bus) -> None:
        try:
            await bus.wait_closed()
        except SessiondError as error:
            self._lose(str(error))

    def _check_lost(self) -> None:
        if self._lost:
            raise DisplayError(self._lost)

    def _lose(self, text: str) -> None:
        self._lost = self._lost or text
        self._wake()

    def _on_owner(self, owner: str) -> None:
        if self._owner not in {"", owner}:
            self._lose("GNOME Shell has ended")
        self._owner = owner

    def _on_monitors(self, _signal: Signal) -> None:
        self._has_changed = True
        self._wake()

    def _on_closed(self, signal: Signal) -> None:
        if signal.path == self._session:
            self._is_closed = True
            self._wake()

    def _on_added(self, signal: Signal) -> None:
        self._nodes[signal.path] = int(signal.body[0])
        self._wake()

    async def _start(self) -> tuple[Place, ...]:
        await self._stop()
        self._has_changed = self._is_closed = False
        layout = await self._layout()
        self._serial = layout.serial
        try:
            return await self._record(layout)
        except BusCallError as error:
            if not self._has_changed:
                raise _refusal(error) from None
            return ()  # of monitors that are no more

    async def _layout(self) -> Layout:
        try:
            return parse_layout(await self._call(_GET_STATE))
        except BusCallError as error:
            raise _refusal(error) from None

    async def _stop(self) -> None:
        """End the recording, if there is one."""
        if session := self._session:
            self._session = ""
            with contextlib.suppress(BusCallError):  # it has ended by itself
                await self._call(Call(_SCREEN_CAST, session, _SESSION, "Stop"))

    async def _record(self, layout: Layout) -> tuple[Place, ...]:
        self._nodes.clear()
        [self._session] = await self._call(_CREATE_SESSION)
        streams = list[str]()
        for monitor in layout.monitors:
            body = [monitor.connector, {"cursor-mode": Variant("u", _CURSOR_AS_METADATA)}]
            streams += await self._call(
                Call(_SCREEN_CAST, self._session, _SESSION, "RecordMonitor", "sa{sv}", body)
            )
        if not streams:
            return ()
        await self._call(Call(_SCREEN_CAST, self._session, _SESSION, "Start"))
        await self._wait_nodes(streams)
        return tuple(
            Place(monitor.connector, self._nodes[stream], monitor.x, monitor.y)
            for monitor, stream in zip(layout.monitors, streams, strict=True)
        )

    async def _wait_nodes(self, streams: list[str]) -> None:
        try:
            async with asyncio.timeout(OPENING):
                while not self._nodes.keys() >= set(streams):
                    self._woken = self._loop.create_future()
                    await self._woken
        except TimeoutError:
            raise DisplayError(
                "GNOME makes no stream of its picture: it does not reach PipeWire"
            ) from None
        finally:
            self._woken = None

    async def _explain_end(self) -> None:
        """Find out why the recording was ended; return if by a change of the monitors.

        GNOME does not say. Raises DisplayError where it lets nobody record it now, or is gone, and
        EndedError where nothing is left but somebody who has ended it, in the panel.
        """
        # What GNOME has told before it answers has come by then, and so has a change's signal.
        if (await self._layout()).serial != self._serial:
            self._has_changed = True
        if self._has_changed:
            return
        await self._check_leave()
        await self._wait_news()
        self._check_lost()
        if not self._has_changed:
            raise EndedError("somebody has ended the recording at the screen, in GNOME's panel")

    async def _check_leave(self) -> None:
        """Raise DisplayError if GNOME lets nobody record it now. Nothing is recorded for that."""
        try:
            [session] = await self._call(_CREATE_SESSION)
        except BusCallError as error:
            raise _refusal(error) from None
        with contextlib.suppress(BusCallError):
            await self._call(Call(_SCREEN_CAST, session, _SESSION, "Stop"))

    async def _wait_news(self) -> None:
        """Wait until GNOME or its bus is lost, or the monitors change; not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_NEWS):
                while not (self._lost or self._has_changed):
                    self._woken = self._loop.create_future()
                    await self._woken
        self._woken = None

    async def _call(self, call: Call) -> list[Any]:
        """Return the answer. Raises BusCallError, and DisplayError if the bus is lost."""
        assert self._bus  # noqa: S101 (there is one from the constructor on)
        try:
            return await self._bus.call(call, limit=OPENING)
        except BusError as error:
            raise DisplayError(f"the session's message bus is lost: {error}") from None


def _refusal(error: BusCallError) -> DisplayError:
    if error.name in _UNKNOWN:
        return UnsupportedError(f"no GNOME: nobody on the session's bus is {_SCREEN_CAST}")
    if "inhibited" in error.text:
        return DisplayError(
            "GNOME lets nobody record its screen now: it is locked, or shows the greeter "
            f"({error.text})"
        )
    return DisplayError(f"GNOME refuses to be recorded: {error}")
