"""An output by wlr-screencopy-unstable-v1: each picture is an object of its own.

The compositor writes all of a picture each time, and tells one rectangle that holds what differs.
The cursor is drawn in: on an output without a cursor plane it would be in any case.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.capture.wlroots.buffers import FORMATS, Box, Buffer, Shape
from agent.capture.wlroots.protocols import SCREENCOPY_FRAME, Y_INVERT
from agent.capture.wlroots.source import Source

if TYPE_CHECKING:
    from agent.capture.wlroots.outputs import Output
    from agent.capture.wlroots.place import Place
    from sessiond.wire.wayland import Proxy

MIN_VERSION: Final = 2  # the first that tells what differs, and waits for something that does
MAX_VERSION: Final = 3
_OVERLAY_CURSOR: Final = 1


class ScreencopySource(Source):
    """One output; ``version`` is that of ``manager``."""

    def __init__(self, place: Place, output: Output, *, manager: Proxy, version: int) -> None:
        super().__init__(place, output)
        self._manager = manager
        self._version = version
        self._frame: Proxy | None = None
        self._shape: Shape | None = None
        self._buffer: Buffer | None = None
        self._told: Box | None = None
        self._is_flipped = False

    def _ask(self) -> None:
        if self._frame:
            return
        self._shape = self._buffer = self._told = None
        self._is_flipped = False
        self._frame = self._client.make(
            self._manager,
            "capture_output",
            SCREENCOPY_FRAME,
            _OVERLAY_CURSOR,
            self.output.proxy,
            on={
                "buffer": self._on_buffer,
                "buffer_done": self._copy,
                "flags": self._on_flags,
                "damage": self._on_damage,
                "ready": self._on_ready,
                "failed": self._on_failed,
            },
        )

    def _stop(self) -> None:
        if self._frame:
            self._client.ask(self._frame, "destroy")
            self._frame = None

    def _on_buffer(self, kind: int, width: int, height: int, stride: int) -> None:
        # Where several are offered, the first that we know.
        if self._shape is None or self._shape.format not in FORMATS:
            self._shape = Shape(width, height, stride, kind)
        if self._version < 3:  # there is no ``buffer_done``
            self._copy()

    def _copy(self) -> None:
        if self._shape is None or self._frame is None or self._buffer:
            return
        self._shape.check(self.output.name)
        self._buffer = self._free_buffer(self._shape)
        # The first one whether anything changes or not.
        request = "copy_with_damage" if self.newest else "copy"
        self._client.ask(self._frame, request, self._buffer.proxy)

    def _on_flags(self, flags: int) -> None:
        self._is_flipped = bool(flags & Y_INVERT)

    def _on_damage(self, x: int, y: int, width: int, height: int) -> None:
        box = self._buffer.shape.clipped(x, y, width, height) if self._buffer else None
        self._told = box.joined(self._told) if box else self._told

    def _on_ready(self, *_time: int) -> None:
        buffer = self._buffer
        self._stop()
        if buffer is None:
            self._failed()
            return
        buffer.transform, buffer.is_flipped = self.output.facts.transform, self._is_flipped
        # Nobody says from which end the rows of what differs are counted then.
        self._came(buffer, buffer.shape.whole if self._is_flipped else self._told)

    def _on_failed(self) -> None:
        self._stop()
        self._failed()
