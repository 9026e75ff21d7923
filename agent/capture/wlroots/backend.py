"""The outputs of a Wayland compositor as a capture back-end, all in one picture.

The compositor copies each picture into memory that both see. A single output that stands upright
is shown from there, without a copy of ours; else the outputs are drawn into one picture.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from agent.capture.base import MAX_SIDE, SLOTS, Capture, Changes, Cursor, Frame
from agent.capture.wlroots.canvas import Tile
from agent.capture.wlroots.compositor import Compositor
from agent.capture.wlroots.layout import Layout, lay_out
from agent.capture.wlroots.pictures import Pictures
from sessiond.errors import DisplayError
from sessiond.transport.wayland import Connection

if TYPE_CHECKING:
    from agent.capture.wlroots.source import Source

TIMEOUT: Final = 2.0  # seconds for an answer, and for a picture that is sure to come
OLD: Final = 0.05  # seconds; when a picture has waited for so long, there may be a newer one
_NEWER: Final = 0.04  # seconds in which that comes, at 60 pictures a second


def open_wlroots(path: str) -> WlrootsCapture:
    """Open the compositor that listens at ``path``. Raises DisplayError."""
    connection = Connection.open(path, TIMEOUT)
    try:
        return WlrootsCapture(connection)
    except DisplayError:
        connection.close()
        raise


class WlrootsCapture(Capture):
    """Captures all outputs of the compositor behind ``connection``, which is ours then."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._changes = Changes.NONE  # seen, and not told yet
        self._is_watching = False
        self._is_told = False  # PICTURE was, since the last grab
        self._pictures = Pictures()
        self._compositor = Compositor(
            connection,
            self._pictures.held,
            on_picture=self._on_picture,
            on_available=self._on_available,
            on_moved=self._on_moved,
            on_shape=self._on_shape,
        )
        self._compositor.open(TIMEOUT)
        self._size = self._laid_out(self._compositor.active).size
        self._changes = Changes.NONE

    def describe(self) -> str:
        width, height = self.size
        return f"compositor at {self._connection.name}, {width}x{height}, by {self._compositor.way}"

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @property
    def unavailable(self) -> str:
        where = f"the compositor at {self._connection.name}"
        sources = self._compositor.sources
        if not sources:
            return f"{where} has no output"
        if not any(source.output.is_on for source in sources):
            return f"all outputs of {where} are off"
        if not self._compositor.active:
            return f"{where} gives no picture of its outputs"
        return ""

    def begin(self) -> None:
        self._is_watching, self._is_told = True, False
        self._pictures.forget()
        with self._connection.translated():
            self._compositor.begin()
            self._connection.flush()
        self._changes &= ~Changes.PICTURE

    def end(self) -> None:
        self._is_watching = False
        with self._connection.translated():
            self._compositor.end()
            self._connection.flush()
        self._changes &= Changes.AVAILABLE

    def wait(self, wake_fd: int) -> Changes:
        while not self._changes:
            retry_at = self._compositor.retry_at
            timeout = None if retry_at is None else max(0.0, retry_at - time.monotonic())
            if not self._connection.wait(wake_fd, timeout):
                with self._connection.translated():
                    self._compositor.retry()
                break
        changes, self._changes = self._changes, Changes.NONE
        self._is_told |= Changes.PICTURE in changes
        return changes

    def grab(self, slot: int) -> Frame | None:
        self._pictures.held[slot] = None
        with self._connection.translated():
            if not all(source.is_fresh for source in self._compositor.sources):
                self._connection.read()
            self._fetch()
            sources = self._compositor.active
            frame = self._framed(slot, sources) if sources else None
            self._is_told = False
            self._changes &= ~Changes.PICTURE
            if self._is_watching:
                for source in sources:
                    source.ask()
            else:
                self._compositor.end()
            self._connection.flush()
        return frame

    def cursor(self) -> Cursor | None:
        for source in self._compositor.active:
            if source.cursor and source.cursor.position:
                return source.cursor.shape
        return None

    def pointer(self) -> tuple[int, int]:
        sources = self._compositor.active
        for source, (x, y) in zip(sources, self._laid_out(sources).places, strict=True):
            if source.cursor and source.cursor.position:
                over_x, over_y = source.cursor.position
                return x + over_x, y + over_y
        return (0, 0)

    def outputs(self) -> tuple[str, ...]:
        return tuple(source.output.name for source in self._compositor.sources)

    def close(self) -> None:
        for source in self._compositor.sources:
            source.restart()  # it has no buffers then
        self._pictures.held[:] = [None] * SLOTS
        self._pictures.forget()
        self._connection.close()

    def _fetch(self) -> None:
        """Have a picture of each output that gives one, and none that has become old."""
        compositor = self._compositor
        for source in compositor.active:
            if source.newest is None or _is_old(source):
                source.ask()
        if any(map(_is_old, compositor.active)):
            self._connection.wait_until(lambda: not any(map(_is_old, compositor.active)), _NEWER)
        # The last to be waited for: an output that has changed meanwhile has none any more.
        if not self._connection.wait_until(
            lambda: all(source.newest for source in compositor.active), TIMEOUT
        ):
            self._connection.round_trip(TIMEOUT)  # one that is stuck does not answer that, either
            for source in compositor.active:
                if source.newest is None:
                    source.give_up()

    def _framed(self, slot: int, sources: list[Source]) -> Frame:
        layout = self._laid_out(sources)
        self._size = layout.size
        tiles = [
            Tile(source.output.number, source.newest, *place)
            for source, place in zip(sources, layout.places, strict=True)
            if source.newest
        ]
        return self._pictures.make(slot, layout.size, tiles, [source.take() for source in sources])

    def _laid_out(self, sources: list[Source]) -> Layout:
        layout = lay_out([(source.output.facts, source.size) for source in sources])
        width, height = layout.size
        if max(width, height) > MAX_SIDE:
            raise DisplayError(
                f"the outputs of the compositor at {self._connection.name} make a picture of "
                f"{width}x{height} pixels; at most {MAX_SIDE}x{MAX_SIDE} can be shown"
            )
        return layout

    def _on_picture(self) -> None:
        if self._is_watching and not self._is_told:
            self._changes |= Changes.PICTURE

    def _on_moved(self) -> None:
        self._changes |= Changes.POINTER

    def _on_shape(self) -> None:
        self._changes |= Changes.CURSOR

    def _on_available(self) -> None:
        self._changes |= Changes.AVAILABLE
        if self._compositor.active:
            self._size = self._laid_out(self._compositor.active).size


def _is_old(source: Source) -> bool:
    return source.is_fresh and time.monotonic() - source.came_at > OLD
