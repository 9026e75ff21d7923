"""A stand-in for GNOME's shell on a bus: it says what the real one says, and shows nothing.

The real one refuses recordings while it is locked and in its greeter, and ends them when somebody
wants that in its panel.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final, Self

from sessiond.transport.bus import Bus
from sessiond.transport.dbus import ErrorType, Incoming, Message

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

NAMES: Final = ("org.gnome.Mutter.DisplayConfig", "org.gnome.Mutter.ScreenCast")
_PLACE: Final = [0, 0, 1.0, 0, True, [["Virtual-1", "", "", ""]], {}]
_STATE: Final = "ua((ssss)a(siiddada{sv})a{sv})a(iiduba(ssss)a{sv})a{sv}"
_SESSION: Final = "org.gnome.Mutter.ScreenCast.Session"
_STREAM: Final = "/stream/1"
_MOMENT: Final = 0.05  # seconds
INHIBITED: Final = "Session creation inhibited"  # Mutter's words, while it is locked


class Gnome:
    """A GNOME Shell with one monitor. ``error`` is what it answers to CreateSession, "" for none.

    ``heard`` are the names of the methods that were called. ``on_close`` is called when it has said
    that a recording is closed, ``on_probe_over`` a moment after it was then asked for another that
    was only a question; both in its loop. ``is_mute``: it answers nothing any more.
    """

    def __init__(self, address: str, error: str = "") -> None:
        self.error = error
        self.heard = list[str]()
        self.is_mute = False
        self.on_close: Callable[[], None] = lambda: None
        self.on_probe_over: Callable[[], None] = lambda: None
        self._address = address
        self._bus: Bus
        self._serial = 1
        self._sessions = 0
        self._is_closed = False
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._ready.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the bus, and wait until that is done."""
        self.end()
        self._thread.join()
        self._loop.close()

    def end(self) -> None:
        """Leave the bus soon, as the end of the shell does."""
        self._loop.call_soon_threadsafe(self.leave)

    def close_recording(self) -> None:
        """Say that the newest recording is closed, as it does when somebody wants that."""
        asyncio.run_coroutine_threadsafe(self._close_recording(), self._loop).result()

    def lock(self) -> None:
        """Let nobody record from now on, and close the recording."""
        self.error = INHIBITED
        self.close_recording()

    # In its loop.

    def change_monitors(self) -> None:
        """Have other monitors, and say so."""
        self._serial += 1
        self.tell_monitors()

    def tell_monitors(self) -> None:
        """Say that the monitors have changed."""
        self._emit(NAMES[0], "/org/gnome/Mutter/DisplayConfig", "MonitorsChanged")

    def leave(self) -> None:
        """End."""
        self._end.set()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        with await Bus.connect(self._address) as self._bus:
            self._bus.serve(self._answer)
            for name in NAMES:
                await self._bus.request_name(name)
            self._ready.set()
            await self._end.wait()

    async def _close_recording(self) -> None:
        self._is_closed = True
        self._emit(_SESSION, self._path, "Closed")
        self.on_close()

    @property
    def _path(self) -> str:
        return f"/session/{self._sessions}"

    def _emit(self, interface: str, path: str, name: str, *body: int) -> None:
        self._bus.emit(path, interface, name, "u" * len(body), body)

    def _answer(self, message: Message, _incoming: Incoming) -> bool:
        member = message.member or ""
        if self.is_mute:
            return True
        self.heard.append(member)
        signature, body = "", list[Any]()
        match member:
            case "GetCurrentState":
                signature, body = _STATE, [self._serial, [], [_PLACE], {}]
            case "CreateSession" if self.error:
                self._bus.reply(Message.new_error(message, ErrorType.ACCESS_DENIED, self.error))
                return True
            case "CreateSession":
                self._sessions += 1
                signature, body = "o", [self._path]
            case "RecordMonitor":
                signature, body = "o", [_STREAM]
            case "Start":
                self._emit("org.gnome.Mutter.ScreenCast.Stream", _STREAM, "PipeWireStreamAdded", 5)
        self._bus.reply(Message.new_method_return(message, signature, body))
        if member == "Stop" and self._is_closed:
            self._loop.call_later(_MOMENT, self.on_probe_over)
        return True
