"""Memory that a compositor copies pictures into, and which formats of pixels we take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.capture.base import MAX_SIDE
from sessiond.errors import DisplayError
from sessiond.transport.wayland import Connection, shared_memory
from sessiond.wire.kms import fourcc
from sessiond.wire.wayland import BUFFER, SHM_POOL, Proxy

if TYPE_CHECKING:
    from collections.abc import Iterable

XRGB8888: Final = 1  # wl_shm.format; on the wire the others are DRM's four letters
ARGB8888: Final = 0


# What the bytes of a pixel are, as Pillow calls them; the best first: BGRX is what a Frame has.
FORMATS: Final = {
    XRGB8888: "BGRX",
    ARGB8888: "BGRX",
    fourcc("XB24"): "RGBX",
    fourcc("AB24"): "RGBX",
    fourcc("RG24"): "BGR",
    fourcc("BG24"): "RGB",
}


class Box(NamedTuple):
    """A rectangle in pixels: from its first column and row to those behind its last."""

    left: int
    top: int
    right: int
    bottom: int

    def joined(self, other: Box | None) -> Box:
        """Return the smallest box around both."""
        if other is None:
            return self
        return Box(
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """How a compositor wants the memory of a picture: ``stride`` in bytes a row."""

    width: int
    height: int
    stride: int
    format: int

    @property
    def whole(self) -> Box:
        """All of it."""
        return Box(0, 0, self.width, self.height)

    def clipped(self, x: int, y: int, width: int, height: int) -> Box | None:
        """Return what of a rectangle is inside; None if nothing is."""
        box = Box(max(x, 0), max(y, 0), min(x + width, self.width), min(y + height, self.height))
        return box if box.left < box.right and box.top < box.bottom else None

    def check(self, where: str, max_side: int = MAX_SIDE) -> None:
        """Raise DisplayError if it cannot be captured."""
        pixel = len(FORMATS.get(self.format, ""))
        if not pixel:
            raise DisplayError(f"{where} has pixels of the format {format_name(self.format)}")
        if not (0 < self.width <= max_side and 0 < self.height <= max_side):
            raise DisplayError(
                f"{where} has a picture of {self.width}x{self.height} pixels; at most "
                f"{max_side}x{max_side} can be shown"
            )
        if not pixel * self.width <= self.stride <= 4 * MAX_SIDE:
            raise DisplayError(f"{where} has rows of {self.stride} bytes for {self.width} pixels")


def best_format(offered: Iterable[int], known: Iterable[int], where: str) -> int:
    """Return the first of ``known`` that is offered. Raises DisplayError if there is none."""
    formats = frozenset(offered)
    for kind in known:
        if kind in formats:
            return kind
    names = ", ".join(sorted(map(format_name, formats))) or "none"
    raise DisplayError(f"{where} has no pixels of a format that can be shown, only {names}")


def format_name(number: int) -> str:
    """Return how a format is called: its four letters, or its number."""
    letters = number.to_bytes(4, "little").decode("latin-1")
    return letters if letters.isascii() and letters.isprintable() else f"{number:#x}"


class Buffer:
    """Memory for one picture, which the compositor writes.

    ``stale`` is what of it is older than the newest picture. ``transform`` (wl_output.transform)
    and ``is_flipped`` tell how the picture in it lies.
    """

    def __init__(self, connection: Connection, shm: Proxy, shape: Shape) -> None:
        self.shape = shape
        self.stale: Box | None = shape.whole
        self.transform = 0
        self.is_flipped = False
        size = shape.stride * shape.height
        fd, self.pixels = shared_memory(size)
        client = connection.client
        self._client = client
        pool = client.make(shm, "create_pool", SHM_POOL, fd, size)
        self.proxy = client.make(
            pool, "create_buffer", BUFFER, 0, shape.width, shape.height, shape.stride, shape.format
        )
        client.ask(pool, "destroy")  # the buffer keeps its memory

    @property
    def is_plain(self) -> bool:
        """Whether its bytes are those of a Frame as they lie there."""
        is_bgrx = self.shape.format in {XRGB8888, ARGB8888}
        is_upright = not (self.transform or self.is_flipped)
        return is_bgrx and is_upright and self.shape.stride == 4 * self.shape.width

    def release(self) -> None:
        """Let the compositor forget it; who has a view of its pixels keeps the memory."""
        self._client.ask(self.proxy, "destroy")
