"""What a session of ext-image-copy-capture-v1 is made of, whatever it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.capture.base import MAX_SIDE
from agent.capture.wlroots.buffers import FORMATS, Box, Buffer, Shape, best_format
from agent.capture.wlroots.protocols import FRAME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sessiond.wire.wayland import Client, Listener, Proxy

_MAX_FORMATS: Final = 16  # of those that we do not know, which are kept for the message


class Constraints:
    """What memory a session wants: ``shape`` once it has said all of it.

    ``where`` is for messages; ``known`` are the formats that will do, the best first.
    """

    def __init__(
        self, where: str, known: Collection[int] = tuple(FORMATS), max_side: int = MAX_SIDE
    ) -> None:
        self.shape: Shape | None = None
        self._where = where
        self._known = known
        self._max_side = max_side
        self._size = (0, 0)
        self._formats = set[int]()

    @property
    def is_empty(self) -> bool:
        """Whether what was told last is a picture without pixels."""
        return 0 in self._size

    def on_size(self, width: int, height: int) -> None:
        """Hear of the size."""
        self._size = (width, height)

    def on_format(self, kind: int) -> None:
        """Hear of a format."""
        if kind in self._known or len(self._formats) < _MAX_FORMATS:
            self._formats.add(kind)

    def on_done(self) -> None:
        """Know all of it. Raises DisplayError if it cannot be done."""
        kind = best_format(self._formats, self._known, self._where)
        self._formats = set()
        width, height = self._size
        row = len(FORMATS[kind]) * width
        self.shape = Shape(width, height, row + -row % 4, kind)
        self.shape.check(self._where, self._max_side)


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
