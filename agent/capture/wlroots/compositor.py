"""A compositor that lets its outputs be copied: what it offers, and a source for each output."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

from agent.capture.base import UnsupportedError
from agent.capture.wlroots import screencopy
from agent.capture.wlroots.cursor import Pointer
from agent.capture.wlroots.imagecopy import ImageCopySource
from agent.capture.wlroots.outputs import Output, Outputs
from agent.capture.wlroots.place import Place
from agent.capture.wlroots.protocols import COPY_MANAGER, SCREENCOPY_MANAGER, SEAT, SOURCE_MANAGER
from agent.capture.wlroots.screencopy import ScreencopySource
from agent.capture.wlroots.source import Source
from sessiond.errors import DisplayError
from sessiond.wire.wayland import SHM, Listener, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.capture.wlroots.buffers import Buffer
    from sessiond.transport.wayland import Connection

# What we need of it, beside its outputs.
_MANAGERS: Final = {
    each.name: each for each in (SHM, COPY_MANAGER, SOURCE_MANAGER, SCREENCOPY_MANAGER)
}
_VERSIONS: Final = {SCREENCOPY_MANAGER.name: screencopy.MAX_VERSION}


class Compositor:
    """Follows the compositor behind ``connection``; ``way`` is by which protocol.

    Listeners: ``on_picture`` hears that the whole picture may be another one, ``on_available`` that
    other outputs may have a part in it, ``on_moved`` and ``on_shape`` of the cursor. ``held`` are
    the buffers that somebody looks at, kept up by who owns them.
    """

    def __init__(
        self,
        connection: Connection,
        held: Sequence[Buffer | None],
        *,
        on_picture: Callable[[], None],
        on_available: Callable[[], None],
        on_moved: Callable[[], None],
        on_shape: Callable[[], None],
    ) -> None:
        self.way = ""
        self._connection = connection
        self._held = held
        self._on_picture = on_picture
        self._on_available = on_available
        self._is_watching = False
        self._managers = dict[str, tuple[Proxy, int]]()
        self._outputs = Outputs(connection, self._on_output, self._on_output_gone)
        self._pointer = Pointer(
            connection.client, on_changed=self._on_pointer, on_moved=on_moved, on_shape=on_shape
        )
        self.sources = list[Source]()  # of all outputs, as they came
        self._make: Callable[[Output], Source] | None = None
        self._registry: Proxy

    @property
    def active(self) -> list[Source]:
        """Those that have a part in the picture."""
        return [source for source in self.sources if source.is_active]

    @property
    def retry_at(self) -> float | None:
        """When a source is to be asked again (time.monotonic()), if one is."""
        times = (source.retry_at for source in self.sources)
        return min((each for each in times if each is not None), default=None)

    def open(self, timeout: float) -> None:
        """Learn what there is. Raises DisplayError, UnsupportedError if it cannot be captured."""
        on: dict[str, Listener] = {
            "global": self._on_global,
            "global_remove": self._outputs.on_gone,
        }
        self._registry = self._connection.registry(on)
        self._connection.round_trip(timeout)
        self._make = self._choose()
        for output in self._outputs.by_number.values():  # what is known of one may be here already
            self._on_output(output)
        self._connection.round_trip(timeout)

    def begin(self) -> None:
        """Ask each output for pictures when it has changed."""
        self._is_watching = True
        for source in self.sources:
            self._restart(source)

    def end(self) -> None:
        """Ask for nothing any more."""
        self._is_watching = False
        for source in self.sources:
            source.restart()

    def retry(self) -> None:
        """Ask again where it is time."""
        now = time.monotonic()
        for source in self.sources:
            if source.retry_at is not None and source.retry_at <= now:
                source.ask()

    def _choose(self) -> Callable[[Output], Source]:
        where = f"the compositor at {self._connection.name}"
        shm, _ = self._managers.get(SHM.name, (None, 0))
        if shm is None:
            raise DisplayError(f"{where} has no shared memory")
        place = Place(self._connection, shm, self._held, self._on_picture, self._on_available)
        sources, _ = self._managers.get(SOURCE_MANAGER.name, (None, 0))
        manager, _ = self._managers.get(COPY_MANAGER.name, (None, 0))
        if sources and manager:
            self.way = "ext-image-copy-capture"
            return partial(
                ImageCopySource, place, sources=sources, manager=manager, pointer=self._pointer
            )
        manager, version = self._managers.get(SCREENCOPY_MANAGER.name, (None, 0))
        if manager and version >= screencopy.MIN_VERSION:
            self.way = "wlr-screencopy"
            return partial(ScreencopySource, place, manager=manager, version=version)
        raise UnsupportedError(
            f"{where} lets nobody copy its outputs: it has neither ext-image-copy-capture-v1 nor "
            f"wlr-screencopy-unstable-v1 (version {screencopy.MIN_VERSION} or later)"
        )

    def _on_global(self, number: int, name: str, version: int) -> None:
        interface = _MANAGERS.get(name)
        if interface and name not in self._managers:
            version = min(version, _VERSIONS.get(name, 1))
            proxy = self._connection.client.bind(self._registry, number, interface, version)
            self._managers[name] = (proxy, version)
        elif name == SEAT.name:
            self._pointer.on_global(self._registry, number)
        else:
            self._outputs.on_global(self._registry, number, name, version)

    def _on_output(self, output: Output) -> None:
        source = self._source_of(output)
        if source is None and self._make:
            source = self._make(output)
            self.sources.append(source)
        if source:
            self._restart(source)
        self._on_available()
        self._on_picture()

    def _source_of(self, output: Output) -> Source | None:
        return next((source for source in self.sources if source.output is output), None)

    def _restart(self, source: Source) -> None:
        source.restart()
        if self._is_watching:
            source.ask()

    def _on_pointer(self) -> None:
        """Have the cursor in the pictures, or no more."""
        for source in self.sources:
            self._restart(source)
        self._on_picture()

    def _on_output_gone(self, output: Output) -> None:
        source = self._source_of(output)
        if source:
            source.restart()
            self.sources.remove(source)
        self._on_available()
        self._on_picture()
