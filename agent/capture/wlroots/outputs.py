"""The outputs of a compositor: what it tells of each, and which there are."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from agent.capture.wlroots.protocols import (
    POWER,
    POWER_MANAGER,
    XDG_OUTPUT,
    XDG_OUTPUT_MANAGER,
)
from sessiond.wire.wayland import OUTPUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from sessiond.transport.wayland import Connection
    from sessiond.wire.wayland import Listener, Proxy

log = logging.getLogger(__name__)

MAX_OUTPUTS: Final = 16  # more than a machine of this kind has; of further ones nothing is kept
_MIN_VERSION: Final = 2  # of wl_output: the first that says when it has told all
_MAX_VERSION: Final = 4
_XDG_VERSION: Final = 3
_IS_CURRENT: Final = 1  # wl_output.mode
_MAX_NAME: Final = 64  # characters that are kept


@dataclass(frozen=True, slots=True)
class Facts:
    """What a compositor tells of an output.

    ``size`` is that of its mode in pixels, before it is turned by ``transform``
    (wl_output.transform); ``x``, ``y`` and ``logical_size`` are in the compositor's own units.
    """

    name: str
    size: tuple[int, int] = (0, 0)
    transform: int = 0
    x: int = 0
    y: int = 0
    logical_size: tuple[int, int] = (0, 0)
    is_powered: bool = True


class Output:
    """One output as it was told last; ``on_changed`` is called when it is another one."""

    def __init__(
        self, connection: Connection, number: int, on_changed: Callable[[Output], None]
    ) -> None:
        self.number = number  # in the registry
        self.facts = Facts(f"output {number}")
        self._next = self.facts
        self._has_xdg_place = False
        self._client = connection.client
        self._on_changed = on_changed
        self._xdg: Proxy | None = None
        self._power: Proxy | None = None
        self.proxy: Proxy

    @property
    def name(self) -> str:
        """What the compositor calls it."""
        return self.facts.name

    @property
    def is_on(self) -> bool:
        """Whether it shows something."""
        return self.facts.is_powered and 0 not in self.facts.size

    def bind(self, registry: Proxy, version: int) -> None:
        """Ask for what there is to know."""
        on: dict[str, Listener] = {
            "geometry": self._on_geometry,
            "mode": self._on_mode,
            "name": self._on_name,
            "done": self._apply,
        }
        version = min(version, _MAX_VERSION)
        self._has_release = version >= 3
        self.proxy = self._client.bind(registry, self.number, OUTPUT, version, on)

    def watch_place(self, manager: Proxy) -> None:
        """Ask for its place by xdg-output, which knows it better than the core protocol."""
        on: dict[str, Listener] = {
            "logical_position": self._on_place,
            "logical_size": self._on_logical_size,
            "name": self._on_name,
            "done": self._apply,
        }
        if self._xdg is None:
            self._xdg = self._client.make(manager, "get_xdg_output", XDG_OUTPUT, self.proxy, on=on)

    def watch_power(self, manager: Proxy) -> None:
        """Ask whether it is on."""
        if self._power is None:
            on: dict[str, Listener] = {"mode": self._on_power}
            self._power = self._client.make(manager, "get_output_power", POWER, self.proxy, on=on)

    def release(self) -> None:
        """Forget it."""
        for proxy in (self._xdg, self._power):
            if proxy:
                self._client.ask(proxy, "destroy")
        if self._has_release:
            self._client.ask(self.proxy, "release")

    def _on_geometry(
        self, x: int, y: int, _w: int, _h: int, _sub: int, _make: str, _model: str, turned: int
    ) -> None:
        self._next = replace(self._next, transform=turned % 8)
        if not self._has_xdg_place:
            self._next = replace(self._next, x=x, y=y)

    def _on_mode(self, flags: int, width: int, height: int, _refresh: int) -> None:
        if flags & _IS_CURRENT:
            self._next = replace(self._next, size=(max(width, 0), max(height, 0)))

    def _on_name(self, name: str) -> None:
        self._next = replace(self._next, name=name[:_MAX_NAME] or self._next.name)

    def _on_place(self, x: int, y: int) -> None:
        self._has_xdg_place = True
        self._next = replace(self._next, x=x, y=y)

    def _on_logical_size(self, width: int, height: int) -> None:
        self._next = replace(self._next, logical_size=(width, height))

    def _on_power(self, mode: int) -> None:
        self._next = replace(self._next, is_powered=bool(mode))
        self._apply()

    def _apply(self) -> None:
        if self._next != self.facts:
            self.facts = self._next
            log.debug("output %s", self.facts)
            self._on_changed(self)


class Outputs:
    """Follows the registry: ``by_number`` are the outputs in the order in which they came.

    ``on_changed`` hears of each that is new or another one, ``on_gone`` of each that has gone.
    """

    def __init__(
        self,
        connection: Connection,
        on_changed: Callable[[Output], None],
        on_gone: Callable[[Output], None],
    ) -> None:
        self.by_number = dict[int, Output]()
        self._connection = connection
        self._on_changed = on_changed
        self._on_gone = on_gone
        self._places: Proxy | None = None
        self._powers: Proxy | None = None

    def on_global(self, registry: Proxy, number: int, name: str, version: int) -> None:
        """Hear of a global."""
        client = self._connection.client
        if name == XDG_OUTPUT_MANAGER.name:
            version = min(version, _XDG_VERSION)
            self._places = client.bind(registry, number, XDG_OUTPUT_MANAGER, version)
        elif name == POWER_MANAGER.name:
            self._powers = client.bind(registry, number, POWER_MANAGER, 1)
        elif name == OUTPUT.name and number not in self.by_number:
            self._add(registry, number, version)
        else:
            return
        for output in self.by_number.values():
            if self._places:
                output.watch_place(self._places)
            if self._powers:
                output.watch_power(self._powers)

    def on_gone(self, number: int) -> None:
        """Hear that a global has gone."""
        output = self.by_number.pop(number, None)
        if output:
            self._on_gone(output)
            output.release()

    def _add(self, registry: Proxy, number: int, version: int) -> None:
        if len(self.by_number) >= MAX_OUTPUTS or version < _MIN_VERSION:
            log.warning("output %d of the compositor is not shown", number)
            return
        output = Output(self._connection, number, self._on_changed)
        output.bind(registry, version)
        self.by_number[number] = output
