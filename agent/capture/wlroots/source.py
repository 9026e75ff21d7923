"""One output's pictures, one after the other: who holds which memory, and what is new."""

from __future__ import annotations

import abc
import logging
import time
from typing import TYPE_CHECKING, Final

from agent.capture.base import SLOTS
from agent.capture.wlroots.buffers import Box, Buffer, Shape
from agent.capture.wlroots.canvas import upright
from agent.capture.wlroots.layout import size_of

if TYPE_CHECKING:
    from agent.capture.wlroots.cursor import OutputCursor
    from agent.capture.wlroots.outputs import Output
    from agent.capture.wlroots.place import Place

log = logging.getLogger(__name__)

MAX_FAILURES: Final = 3  # in a row; one is usual when an output changes
RETRY: Final = 1.0  # seconds after which an output that gave no picture is asked again


class Source(abc.ABC):
    """What is asked of the compositor for one output, and what came of it.

    One picture is asked for at a time, and comes when there is something new. ``newest`` is the
    last that came, ``came_at`` when (time.monotonic()); ``is_fresh`` while nobody has taken it, and
    ``damage`` is what is different since. ``is_silent``: the output gives none, as far as we know;
    ``retry_at`` says when it is to be asked again, if that is of use.
    """

    def __init__(self, place: Place, output: Output) -> None:
        self.output = output
        self.newest: Buffer | None = None
        self.cursor: OutputCursor | None = None  # apart from the pictures
        self.came_at = 0.0
        self.is_fresh = False
        self.damage: Box | None = None
        self.is_silent = False
        self.retry_at: float | None = None
        self._place = place
        self._client = place.connection.client
        self._buffers = list[Buffer]()
        self._failures = 0

    @property
    def is_active(self) -> bool:
        """Whether the output has a part in the whole picture."""
        return self.output.is_on and not self.is_silent

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of its picture when that stands upright."""
        if self.newest is None:
            return size_of(self.output.facts)
        shape = self.newest.shape
        return upright((shape.width, shape.height), self.newest.transform)

    def ask(self) -> None:
        """Ask for the next picture, unless that is done."""
        if self.output.is_on:
            self.retry_at = None
            self._ask()

    def take(self) -> Box | None:
        """Return what is different since this was called last."""
        damage, self.damage = self.damage, None
        self.is_fresh = False
        return damage

    def restart(self) -> None:
        """Forget what was asked for, and what came: the output has changed."""
        self._stop()
        for buffer in self._buffers:
            buffer.release()
        self._buffers.clear()
        self.newest = self.damage = self.retry_at = None
        self.is_fresh = self.is_silent = False
        self._failures = 0

    def give_up(self) -> None:
        """Wait no more for the picture that was asked for; if it comes, it comes."""
        if not self.is_silent:
            self.is_silent = True
            self._place.on_available()

    @abc.abstractmethod
    def _ask(self) -> None:
        """Ask for the next picture, unless that is done."""

    @abc.abstractmethod
    def _stop(self) -> None:
        """Ask for nothing any more."""

    def _free_buffer(self, shape: Shape) -> Buffer:
        """Return memory of ``shape`` that nobody looks at. Raises DisplayError."""
        if self._buffers and self._buffers[0].shape != shape:
            for buffer in self._buffers:
                buffer.release()
            self._buffers.clear()
            self.newest = None
        used = [self.newest, *self._place.held]
        for buffer in self._buffers:
            if not any(buffer is each for each in used):
                return buffer
        assert len(self._buffers) <= SLOTS  # noqa: S101 (one for each slot, and one is asked for)
        self._buffers.append(Buffer(self._place.connection, self._place.shm, shape))
        return self._buffers[-1]

    def _came(self, buffer: Buffer, damage: Box | None) -> None:
        """Take the picture that was asked for; ``damage`` is what differs from the one before."""
        if self.newest is None:
            damage = buffer.shape.whole
        for each in self._buffers:
            each.stale = damage.joined(each.stale) if damage else each.stale
        buffer.stale = None
        self.newest, self.came_at, self.is_fresh = buffer, time.monotonic(), True
        self.damage = damage.joined(self.damage) if damage else self.damage
        self._failures = 0
        if self.is_silent:
            self.is_silent = False
            self._place.on_available()
        self._place.on_picture()

    def _failed(self) -> None:
        """Ask again for the picture that does not come; not for ever."""
        self._failures += 1
        self.newest = None
        if self._failures < MAX_FAILURES:
            self._ask()
            return
        log.debug("%s gives no picture", self.output.name)
        self._failures = 0
        self.retry_at = time.monotonic() + RETRY
        self.give_up()
