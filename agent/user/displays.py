"""The displays of the user: which there are, and those that the host has had connected.

A connection is opened when it is asked for, and then watched in the loop: a display that goes is
told of at once. Nothing of X is loaded before.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from agent.stream.bounded import within
from agent.stream.evidence import MAX_NUMBER, display_number, socket_number
from agent.stream.listeners import listener
from agent.stream.places import Places
from sessiond.errors import CommandError, DisplayError
from sessiond.transport.aside import run_aside
from sessiond.transport.edge import EdgePoller
from sessiond.transport.names import NameWatch

if TYPE_CHECKING:
    from agent.user.screens import Connection

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_CONNECTED: Final = 8
MAX_FOUND: Final = 32  # displays of one user
SCAN_TIMEOUT: Final = 5.0  # seconds for all sockets, one of which may be a link to a dead mount
CALM: Final = 0.25  # seconds in which changes are gathered; a new server listens by then, too

_LOOK_TIMEOUT: Final = 1.0  # seconds for one socket, likewise


class Displays:
    """The displays of ``places``' user; ``environ`` is this agent's own environment.

    ``on_change()`` says that there may be others, or others connected, than before.
    """

    def __init__(
        self,
        places: Places,
        environ: Mapping[str, str],
        poller: EdgePoller,
        on_change: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._places = places
        self._environ = environ
        self._on_change = on_change
        self._connected = dict[str, _Connected]()
        self._connecting = dict[str, asyncio.Future["Connection"]]()
        self._scan: asyncio.Future[list[str]] | None = None
        self._calm: asyncio.TimerHandle | None = None
        self._is_open = True
        self._numbers = self._listed()
        sockets = str(places.sockets)
        self._watch = NameWatch(sockets, poller, self._names_changed, is_folder=True)

    async def query(self) -> list[dict[str, object]]:
        """Return the displays that this user serves, and those that are connected.

        Of the displays that root serves there is that of our own $DISPLAY alone: whose the others
        are, their sockets do not tell. Raises CommandError.
        """
        if self._scan is None or self._scan.done():
            self._scan = run_aside(self._find)
        done, _ = await asyncio.wait([self._scan], timeout=SCAN_TIMEOUT)
        if not done:
            raise CommandError(f"looking for displays: no answer in {SCAN_TIMEOUT:g} s")
        names = {*self._scan.result(), *self._connected}
        return [
            {"display": name, "connected": name in self._connected}
            for name in sorted(names, key=lambda name: int(name[1:]))
        ]

    async def connect(self, untrusted_name: str) -> None:
        """Connect to a display; one that is connected stays so. Raises CommandError."""
        name = _checked(untrusted_name)
        if name in self._connected:
            return
        if name not in self._connecting:
            if len(self._connected) + len(self._connecting) >= MAX_CONNECTED:
                raise CommandError(f"{MAX_CONNECTED} displays of this user are connected already")
            opening = run_aside(partial(self._open, int(name[1:])))
            self._connecting[name] = opening
            opening.add_done_callback(partial(self._opened, name))
        try:
            await asyncio.shield(self._connecting[name])
        except DisplayError as error:
            raise CommandError(str(error)) from None

    async def screens(self, untrusted_name: str) -> list[dict[str, object]]:
        """Return the screens of a connected display, as ``query-screens`` has them.

        Raises CommandError.
        """
        name = _checked(untrusted_name)
        if name not in self._connected:
            raise CommandError(f"display '{name}' is not connected")
        return await self._connected[name].screens()

    def close(self) -> None:
        """Give up all connections."""
        self._is_open = False
        self._watch.close()
        if self._calm:
            self._calm.cancel()
        for connected in self._connected.values():
            connected.close()
        self._connected.clear()

    def _find(self) -> list[str]:
        """Return the names of the displays of this user; may block."""
        named = display_number(self._environ.get("DISPLAY", ""))
        found = list[str]()
        # Any number of servers may have left their sockets behind.
        for number in self._places.server_numbers(limit=MAX_NUMBER + 1):
            # A server without room for a connection is not waited for: it may be anybody's.
            server = listener(self._places.server(number), timeout=0)
            uids = {self._places.uid} | ({0} if number == named else set())
            if server and server.uid in uids:
                found.append(f":{number}")
            if len(found) == MAX_FOUND:
                break
        return found

    def _open(self, number: int) -> "Connection":
        """Connect to a display; may block. Raises DisplayError."""
        path = self._places.server(number)
        server = within(_LOOK_TIMEOUT, lambda: listener(path), f"socket of display ':{number}'")
        if server is None:
            raise DisplayError(f"there is no display ':{number}'")
        if server.uid not in {0, self._places.uid}:
            raise DisplayError(f"display ':{number}' is served by uid {server.uid}")
        from agent.user.screens import connect  # noqa: PLC0415 (loads python-xlib)

        return connect(number, server, self._environ, self._places)

    def _opened(self, name: str, opening: "asyncio.Future[Connection]") -> None:
        del self._connecting[name]
        if opening.exception():
            log.info("display %s is not connected: %s", name, opening.exception())
            return
        if not self._is_open:
            opening.result().close()
            return
        self._connected[name] = _Connected(opening.result(), partial(self._gone, name))
        log.info("display %s is connected", name)

    def _gone(self, name: str, reason: str) -> None:
        del self._connected[name]
        log.info("%s: display %s is not connected any more", reason, name)
        self._changed()

    def _names_changed(self) -> None:
        numbers = self._listed()
        if numbers != self._numbers:
            self._numbers = numbers
            self._changed()

    def _listed(self) -> frozenset[int]:
        names = list[str]()
        with contextlib.suppress(OSError):
            names = os.listdir(self._places.sockets)
        return frozenset(n for name in names if (n := socket_number(name)) is not None)

    def _changed(self) -> None:
        if self._calm is None:
            self._calm = self._loop.call_later(CALM, self._tell)

    def _tell(self) -> None:
        self._calm = None
        self._on_change()


class _Connected:
    """Watches one connection, and gives it to one thread at a time."""

    def __init__(self, connection: "Connection", on_gone: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._on_gone = on_gone
        self._asking: asyncio.Future[list[dict[str, object]]] | None = None
        self._is_open = True
        self._fd = connection.fileno()  # at its end python-xlib closes it, and does not tell it
        self._loop.add_reader(self._fd, self._drain)

    async def screens(self) -> list[dict[str, object]]:
        """Return what the display's outputs are; who asks meanwhile gets the same."""
        if self._asking is None:
            self._loop.remove_reader(self._fd)
            self._asking = run_aside(self._ask)
            self._asking.add_done_callback(self._asked)
        try:
            return await asyncio.shield(self._asking)
        except DisplayError as error:
            raise CommandError(str(error)) from None

    def close(self) -> None:
        """Disconnect."""
        self._is_open = False
        if self._asking is None:
            self._loop.remove_reader(self._fd)
            self._connection.close()

    def _ask(self) -> list[dict[str, object]]:
        return [
            {
                "output": it.output, "x": it.x, "y": it.y, "width": it.width,
                "height": it.height, "primary": it.is_primary,
            }
            for it in self._connection.screens()
        ]  # fmt: skip

    def _asked(self, asking: "asyncio.Future[list[dict[str, object]]]") -> None:
        self._asking = None
        error = asking.exception()
        if not self._is_open:
            self._connection.close()
        elif error:
            self._end(str(error))
        else:
            self._loop.add_reader(self._fd, self._drain)
            self._drain()  # what python-xlib has read already makes nothing readable

    def _drain(self) -> None:
        try:
            self._connection.drain()
        except DisplayError as error:
            self._loop.remove_reader(self._fd)
            self._end(str(error))

    def _end(self, reason: str) -> None:
        self._is_open = False
        self._connection.close()
        self._on_gone(reason)


def _checked(untrusted_name: str) -> str:
    """Return the display's name without a screen's number. Raises CommandError."""
    number = display_number(untrusted_name)
    if number is None:
        raise CommandError(f"{untrusted_name!r} is not a display of this machine, such as :0")
    return f":{number}"
