"""An output by ext-image-copy-capture-v1: a session that lasts, and gives picture after picture.

The compositor is told what is old in the memory that we hand it, so that it need not write all.
The cursor comes apart where there is a pointer whose it is, else it is painted into the pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.capture.wlroots.cursor import OutputCursor
from agent.capture.wlroots.protocols import PAINT_CURSORS, SESSION, SOURCE
from agent.capture.wlroots.session import Constraints, Frame
from agent.capture.wlroots.source import Source

if TYPE_CHECKING:
    from agent.capture.wlroots.cursor import Pointer
    from agent.capture.wlroots.outputs import Output
    from agent.capture.wlroots.place import Place
    from sessiond.wire.wayland import Listener, Proxy


class ImageCopySource(Source):
    """One output; its cursor is painted into the pictures if ``has_cursor``."""

    def __init__(
        self,
        place: Place,
        output: Output,
        *,
        sources: Proxy,
        manager: Proxy,
        pointer: Pointer,
    ) -> None:
        super().__init__(place, output)
        self._sources = sources
        self._manager = manager
        self._pointer = pointer
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
        if self.cursor:
            self.cursor.release()
            self.cursor = None
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
        # wlroots (0.20) cuts the cursor of a turned output off.
        pointer = None if self.output.facts.transform else self._pointer.proxy
        options = 0 if pointer else PAINT_CURSORS
        self._session = self._client.make(
            self._manager, "create_session", SESSION, source, options, on=on
        )
        if pointer:
            self.cursor = OutputCursor(self._place, self._manager, source, self._pointer)
        self._client.ask(source, "destroy")
        self.newest = None

    def _on_done(self) -> None:
        before = self._constraints.shape
        self._constraints.on_done()
        # Else, as after another refresh rate, what was asked for still comes; or has come, and is
        # still to be taken.
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
