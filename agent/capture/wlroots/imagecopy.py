"""An output by ext-image-copy-capture-v1: a session that lasts, and gives picture after picture.

The compositor is told what is old in the memory that we hand it, so that it need not write all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.capture.wlroots.buffers import FORMATS, Box, Buffer, Shape, best_format
from agent.capture.wlroots.protocols import FRAME, PAINT_CURSORS, SESSION, SOURCE
from agent.capture.wlroots.source import Place, Source

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.capture.wlroots.outputs import Output
    from sessiond.wire.wayland import Client, Listener, Proxy


class Constraints:
    """What memory a session wants: ``shape`` once it has said all of it."""

    def __init__(self, where: str) -> None:
        self.shape: Shape | None = None
        self._where = where
        self._size = (0, 0)
        self._formats = set[int]()

    def on_size(self, width: int, height: int) -> None:
        """Hear of the size."""
        self._size = (width, height)

    def on_format(self, kind: int) -> None:
        """Hear of a format; of those that we do not know, some are kept for the message."""
        if kind in FORMATS or len(self._formats) < 2 * len(FORMATS):
            self._formats.add(kind)

    def on_done(self) -> None:
        """Know all of it. Raises DisplayError if it cannot be done."""
        kind = best_format(self._formats, self._where)
        self._formats = set()
        width, height = self._size
        row = len(FORMATS[kind]) * width
        self.shape = Shape(width, height, row + -row % 4, kind)
        self.shape.check(self._where)


class Frame:
    """A picture that was asked for: into ``buffer``, of which the stale part is asked for again."""

    def __init__(
        self,
        client: Client,
        session: Proxy,
        buffer: Buffer,
        on_ready: Callable[[], None],
        on_failed: Callable[[], None],
    ) -> None:
        self.buffer = buffer
        self.damage: Box | None = None
        self._client = client
        on: dict[str, Listener] = {
            "transform": self._on_transform,
            "damage": self._on_damage,
            "ready": on_ready,
            "failed": lambda _reason: on_failed(),
        }
        self._proxy = client.make(session, "create_frame", FRAME, on=on)
        client.ask(self._proxy, "attach_buffer", buffer.proxy)
        stale = buffer.stale
        if stale:
            size = (stale.right - stale.left, stale.bottom - stale.top)
            client.ask(self._proxy, "damage_buffer", stale.left, stale.top, *size)
        client.ask(self._proxy, "capture")

    def release(self) -> None:
        """Be done with it, or give it up: then nothing is known of the buffer."""
        self._client.ask(self._proxy, "destroy")

    def _on_transform(self, transform: int) -> None:
        self.buffer.transform = transform

    def _on_damage(self, x: int, y: int, width: int, height: int) -> None:
        box = self.buffer.shape.clipped(x, y, width, height)
        self.damage = box.joined(self.damage) if box else self.damage


class ImageCopySource(Source):
    """One output; its cursor is painted into the pictures if ``has_cursor``."""

    def __init__(
        self,
        place: Place,
        output: Output,
        *,
        sources: Proxy,
        manager: Proxy,
        has_cursor: bool,
    ) -> None:
        super().__init__(place, output)
        self._sources = sources
        self._manager = manager
        self._options = PAINT_CURSORS if has_cursor else 0
        self._session: Proxy | None = None
        self._constraints = Constraints(output.name)
        self._frame: Frame | None = None

    def _ask(self) -> None:
        if self._session is None:
            self._start()
        elif self._frame is None and self._constraints.shape:
            self._frame = Frame(
                self._client,
                self._session,
                self._free_buffer(self._constraints.shape),
                self._on_ready,
                self._on_stopped,
            )

    def _stop(self) -> None:
        self._give_up_frame()
        if self._session:
            self._client.ask(self._session, "destroy")
            self._session = None

    def _start(self) -> None:
        """Begin a session, whose first picture comes whether anything changes or not."""
        source = self._client.make(self._sources, "create_source", SOURCE, self.output.proxy)
        self._constraints = constraints = Constraints(self.output.name)
        on: dict[str, Listener] = {
            "buffer_size": constraints.on_size,
            "shm_format": constraints.on_format,
            "done": self._on_done,
            "stopped": self._on_stopped,
        }
        self._session = self._client.make(
            self._manager, "create_session", SESSION, source, self._options, on=on
        )
        self._client.ask(source, "destroy")
        self.newest = None

    def _on_done(self) -> None:
        before = self._constraints.shape
        self._constraints.on_done()
        # The picture that was asked for will not come, or in the old size.
        if before != self._constraints.shape:
            self._give_up_frame()
        self._ask()

    def _on_ready(self) -> None:
        frame = self._frame
        assert frame is not None  # noqa: S101 (one that was given up tells nothing)
        self._frame = None
        frame.release()
        self._came(frame.buffer, frame.damage)

    def _on_stopped(self) -> None:
        # Another session's first picture is sure to come.
        self._stop()
        self._failed()

    def _give_up_frame(self) -> None:
        if self._frame:
            self._frame.release()
            self._frame.buffer.stale = self._frame.buffer.shape.whole
            self._frame = None
