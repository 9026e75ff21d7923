"""The cursor apart from the pictures, by ext-image-copy-capture-v1: its shape, and where it is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from agent.capture.base import Cursor
from agent.capture.wlroots.buffers import ARGB8888, Buffer
from agent.capture.wlroots.protocols import CURSOR_SESSION, HAS_POINTER, POINTER, SEAT, SESSION
from agent.capture.wlroots.session import Constraints, Frame
from sessiond.errors import DisplayError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.capture.wlroots.place import Place
    from sessiond.wire.wayland import Client, Listener, Proxy

log = logging.getLogger(__name__)

MAX_SIDE: Final = 512  # pixels; twice the largest size that themes have


class Pointer:
    """The seat's pointer: ``proxy`` while it has one whose cursor can be shown apart.

    ``on_changed`` hears that there is one, or none any more; ``on_moved`` that its cursor is
    somewhere else, ``on_shape`` that it looks different.
    """

    def __init__(
        self,
        client: Client,
        *,
        on_changed: Callable[[], None],
        on_moved: Callable[[], None],
        on_shape: Callable[[], None],
    ) -> None:
        self.proxy: Proxy | None = None
        self.on_moved = on_moved
        self.on_shape = on_shape
        self._client = client
        self._on_changed = on_changed
        self._seat: Proxy | None = None
        self._is_lost = False

    def on_global(self, registry: Proxy, number: int) -> None:
        """Hear of a seat; a machine of this kind has one."""
        if self._seat is None:
            on: dict[str, Listener] = {"capabilities": self._on_capabilities}
            self._seat = self._client.bind(registry, number, SEAT, 1, on)

    def give_up(self, reason: str) -> None:
        """Let the cursor be painted into the pictures from now on."""
        log.info("the cursor is painted into the pictures: %s", reason)
        self._is_lost = True
        self.proxy = None
        self._on_changed()

    def _on_capabilities(self, capabilities: int) -> None:
        has_pointer = bool(capabilities & HAS_POINTER) and not self._is_lost
        if has_pointer == bool(self.proxy) or self._seat is None:
            return
        self.proxy = self._client.make(self._seat, "get_pointer", POINTER) if has_pointer else None
        self._on_changed()


class OutputCursor:
    """The cursor over one output, for which ``source`` stands.

    ``position`` is that of its hot spot in the output's picture, None while it is not over it.
    """

    def __init__(self, place: Place, manager: Proxy, source: Proxy, pointer: Pointer) -> None:
        self.shape: Cursor | None = None
        self.position: tuple[int, int] | None = None
        self._place = place
        self._client = place.connection.client
        self._pointer = pointer
        self._hot_spot = (0, 0)
        self._buffer: Buffer | None = None
        self._frame: Frame | None = None
        self._constraints = Constraints("the cursor", (ARGB8888,), MAX_SIDE)
        on: dict[str, Listener] = {
            "leave": self._on_leave,
            "position": self._on_position,
            "hotspot": self._on_hot_spot,
        }
        self._watch = self._client.make(
            manager,
            "create_pointer_cursor_session",
            CURSOR_SESSION,
            source,
            pointer.proxy,
            on=on,
        )
        on = {
            "buffer_size": self._constraints.on_size,
            "shm_format": self._constraints.on_format,
            "done": self._on_done,
            "stopped": self._on_failed,
        }
        self._session = self._client.make(self._watch, "get_capture_session", SESSION, on=on)

    def release(self) -> None:
        """Forget it."""
        self._forget_buffer()
        self._client.ask(self._session, "destroy")
        self._client.ask(self._watch, "destroy")

    def _on_leave(self) -> None:
        self.position = None
        self._pointer.on_shape()

    def _on_position(self, x: int, y: int) -> None:
        was_away = self.position is None
        self.position = (x, y)
        if was_away:
            self._pointer.on_shape()
        self._pointer.on_moved()

    def _on_hot_spot(self, x: int, y: int) -> None:
        self._hot_spot = (x, y)

    def _on_done(self) -> None:
        before = self._constraints.shape
        if self._constraints.is_empty:
            # There is none, or it is painted into the pictures by whoever wants that.
            self._forget_buffer()
            self.shape = self._constraints.shape = None
            self._pointer.on_shape()
            return
        try:
            self._constraints.on_done()
        except DisplayError as error:
            self._pointer.give_up(str(error))
            return
        if before != self._constraints.shape:
            self._forget_buffer()
        self._ask()

    def _ask(self) -> None:
        """Ask for the shape as soon as it is another one."""
        if self._frame or self._constraints.shape is None:
            return
        if self._buffer is None:
            place = self._place
            self._buffer = Buffer(place.connection, place.shm, self._constraints.shape)
        self._buffer.stale = self._buffer.shape.whole
        self._frame = Frame(
            self._client, self._session, self._buffer, self._on_ready, self._on_failed
        )

    def _on_ready(self) -> None:
        assert self._frame is not None  # noqa: S101 (one that was given up tells nothing)
        buffer = self._frame.buffer
        self._frame.release()
        self._frame = None
        shape = buffer.shape  # without padding: that is how ``Constraints`` wants it
        self.shape = Cursor(shape.width, shape.height, *self._hot_spot, bytes(buffer.pixels))
        self._pointer.on_shape()
        self._ask()

    def _on_failed(self) -> None:
        self._pointer.give_up("the compositor gives no picture of it")

    def _forget_buffer(self) -> None:
        if self._frame:
            self._frame.release()
            self._frame = None
        if self._buffer:
            self._buffer.release()
            self._buffer = None
