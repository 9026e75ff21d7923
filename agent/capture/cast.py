"""A compositor that lets itself be recorded by PipeWire, as a capture back-end.

Who makes the recording, and says where each monitor is, is a ``Casting``: one for each kind of
compositor. Each monitor is a stream; of its pictures, what has changed is copied.
"""

import abc
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from agent.capture.base import OPENING, Capture, Changes, Cursor, EndedError, Frame
from agent.capture.canvas import Area, Canvas, enclosing
from agent.capture.pipewire import PipeWire
from agent.capture.slots import Slots
from sessiond.errors import DisplayError

MAX_RATE: Final = 30  # pictures a second that are asked for; streams are paced to that or less
MAX_MONITORS: Final = 16
_NO_LIMIT: Final = 1000  # pictures a second; what the monitor shows
_FIRST: Final = 0.5  # seconds until the first picture, before it is asked for again
_ASKED: Final = 4  # times, before we say that there is none
_NEWS: Final = 1.0  # seconds in which the compositor says why a recording ended
_RETRY: Final = 0.05  # seconds
_TRIES: Final = 8  # to begin between two changes of the monitors


@dataclass(frozen=True, slots=True)
class Place:
    """A monitor, the node of PipeWire that shows it, and where in the picture it is, in pixels."""

    name: str
    node: int
    x: int
    y: int


class Casting(abc.ABC):
    """Makes recordings of all monitors. Raises DisplayError when the compositor is lost."""

    name: str

    @property
    @abc.abstractmethod
    def is_outdated(self) -> bool:
        """Whether ``start`` would now give something else than it gave."""

    @abc.abstractmethod
    def start(self) -> tuple[Place, ...]:
        """End the recording that is, and begin one of all the monitors that are there now."""

    @abc.abstractmethod
    def wait(self, fds: Collection[int], timeout: float | None) -> frozenset[int]:
        """Wait for one of ``fds``, for ``is_outdated``, or so many seconds; return the readable.

        Raises EndedError for a recording that nothing but somebody, or PipeWire, can have ended.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """End the recording and the connection. Does not raise."""


class CastCapture(Capture):
    """All monitors of a compositor in one picture."""

    def __init__(self, casting: Casting, pipewire: PipeWire) -> None:
        """Begin to record. Raises DisplayError; ``casting`` and ``pipewire`` are ours even then."""
        self._casting = casting
        self._pipewire = pipewire
        self._is_watching = False
        self._is_dark = False  # no picture came, though one was waited for
        self._is_told = False  # of a new picture, since the last grab
        self._grabbed = 0  # pictures that there were at the last grab
        self._changes = Changes.NONE  # seen, and not told yet
        self._seen: tuple[Cursor | None, tuple[int, int], str] = (None, (0, 0), "")
        self._size, self._pointer = (0, 0), (0, 0)
        self._places: tuple[Place, ...] = ()
        self._sizes: list[tuple[int, int]] = []
        self._areas: list[Area] = []
        self._canvas: Canvas | None = None  # for more monitors than one
        self._slots: list[Slots] = []  # for each monitor
        try:
            self._start()
            self._take_changes()  # none that anybody does not know of
        except BaseException:
            self.close()
            raise

    def describe(self) -> str:
        monitors = "+".join(self.outputs()) or "no monitor"
        return f"{monitors} of {self._casting.name}, {self._size[0]}x{self._size[1]}, by PipeWire"

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @property
    def unavailable(self) -> str:
        if not self._places:
            return f"{self._casting.name} has no monitor"
        if self._is_dark:
            return f"{self._casting.name} shows nothing: its monitors may be switched off"
        return ""

    def begin(self) -> None:
        self._is_watching = self._is_told = True
        for stream in self._pipewire.streams:
            stream.forget_picture()  # the first one comes again
            stream.set_active(active=True)
        self._renew()
        self._wait_pictures()

    def end(self) -> None:
        self._is_watching = False
        for stream in self._pipewire.streams:
            stream.set_active(active=False)

    def wait(self, wake_fd: int) -> Changes:
        is_woken = False
        while not (changes := self._take_changes()) and not is_woken:
            streams = self._pipewire.streams
            patience = [each.patience for each in streams if each.patience is not None]
            ready = self._wait((self._pipewire.fd, wake_fd), min(patience, default=None))
            if not ready:
                for stream in streams:
                    stream.ask_again()
            if self._pipewire.fd in ready:
                self._pipewire.dispatch()
            is_woken = wake_fd in ready
        return changes

    def grab(self, slot: int) -> Frame | None:
        self._pipewire.dispatch()
        if not self._wait_pictures():
            return None
        self._changes &= ~Changes.PICTURE
        self._is_told, self._grabbed = False, self._pictures()
        pictures = [stream.newest for stream in self._pipewire.streams if stream.newest]
        if self._canvas is None:
            return self._slots[0].take(slot, pictures[0])
        each = zip(self._slots, pictures, strict=True)
        return self._canvas.take(slot, [slots.take(0, picture) for slots, picture in each])

    def cursor(self) -> Cursor | None:
        for stream in self._pipewire.streams:
            if stream.cursor.is_here:
                return stream.cursor.shape
        return None

    def pointer(self) -> tuple[int, int]:
        for place, stream in zip(self._places, self._pipewire.streams, strict=True):
            if stream.cursor.is_here:
                x, y = stream.cursor.position
                self._pointer = (place.x + x, place.y + y)
        return self._pointer

    def outputs(self) -> tuple[str, ...]:
        return tuple(place.name for place in self._places)

    def close(self) -> None:
        self._forget()
        self._pipewire.close()
        self._casting.close()

    def _forget(self) -> None:
        self._pipewire.forget()
        self._places = ()
        self._slots.clear()
        self._canvas = None

    def _start(self) -> None:
        """Record the monitors that there are now."""
        for _ in range(_TRIES):
            self._forget()
            self._places = self._casting.start()
            if len(self._places) > MAX_MONITORS:
                raise DisplayError(f"{self._casting.name} has more than {MAX_MONITORS} monitors")
            self._connect()
            if not self._casting.is_outdated:
                break
        else:
            raise DisplayError(f"{self._casting.name} changes its monitors all the time")
        for stream in self._pipewire.streams:
            if stream.ended:
                raise DisplayError(f"{self._casting.name}: {stream.ended}")
            if not any(stream.size):
                raise DisplayError(
                    f"PipeWire does not connect us with what {self._casting.name} shows: is "
                    "wireplumber running for this session (install the package wireplumber)?"
                )
            stream.set_active(active=self._is_watching)
        self._arrange()

    def _connect(self) -> None:
        """Let PipeWire connect us with every monitor, or find out that it does not."""
        # Mutter paints all monitors for the picture that one of several had to wait for, so that
        # with a limit they keep each other painting; without, for a second or two.
        max_rate = MAX_RATE if len(self._places) == 1 else _NO_LIMIT
        deadline = time.monotonic() + OPENING
        while (left := deadline - time.monotonic()) > 0:
            self._pipewire.forget()
            for place in self._places:
                self._pipewire.record(place.node, max_rate)
            self._wait_until(self._is_started, left)
            if self._casting.is_outdated or not any(each.ended for each in self._pipewire.streams):
                break
            # WirePlumber refuses us where it has not heard yet of what was made a moment ago.
            self._wait((), _RETRY)

    def _is_started(self) -> bool:
        streams = self._pipewire.streams
        return self._casting.is_outdated or all(any(each.size) or each.ended for each in streams)

    def _arrange(self) -> None:
        """Find the size of the whole picture, and make what it takes to put it together."""
        streams = self._pipewire.streams
        self._sizes = [stream.size for stream in streams]
        self._areas = [
            Area(place.x, place.y, *size)
            for place, size in zip(self._places, self._sizes, strict=True)
        ]
        if self._areas:
            self._size = enclosing(self._areas)
        self._renew()
        if self._is_watching:
            self._is_told = True
            self._changes |= Changes.PICTURE

    def _renew(self) -> None:
        """Compare the next picture with none."""
        is_whole = len(self._areas) == 1 and self._areas[0].x == self._areas[0].y == 0
        self._canvas = None if is_whole else Canvas(self._size, self._areas)
        self._slots = [Slots() for _ in self._areas]

    def _mend(self) -> bool:
        """Begin again where the monitors, or the size of their pictures, have changed.

        Returns whether they have. Raises DisplayError for a recording that ended by itself.
        """
        streams = self._pipewire.streams
        if ended := [stream.ended for stream in streams if stream.ended]:
            self._wait((), _NEWS)
            if not self._casting.is_outdated:
                raise DisplayError(f"{self._casting.name}: {ended[0]}")
        if self._casting.is_outdated:
            self._start()
        elif self._sizes != [stream.size for stream in streams]:
            self._arrange()
        else:
            return False
        return True

    def _take_changes(self) -> Changes:
        """Return what is new since the call before."""
        self._mend()
        if self._is_watching and not self._is_told and self._pictures() != self._grabbed:
            self._is_told = True
            self._changes |= Changes.PICTURE
        if self._has_pictures():
            self._is_dark = False
        seen = (self.cursor(), self.pointer(), self.unavailable)
        kinds = (Changes.CURSOR, Changes.POINTER, Changes.AVAILABLE | Changes.PICTURE)
        for one, other, kind in zip(seen, self._seen, kinds, strict=True):
            if one != other:
                self._changes |= kind
        self._seen = seen
        changes, self._changes = self._changes, Changes.NONE
        return changes

    def _pictures(self) -> int:
        return sum(stream.pictures for stream in self._pipewire.streams)

    def _is_settled(self) -> bool:
        is_over = any(stream.ended for stream in self._pipewire.streams)
        return is_over or self._casting.is_outdated or self._has_pictures()

    def _has_pictures(self) -> bool:
        return all(stream.newest for stream in self._pipewire.streams)

    def _wait_pictures(self) -> bool:
        """Wait for the first picture of each monitor, and return whether there is one."""
        seconds, tries = (0.0, 1) if self._is_dark else (_FIRST, _ASKED)
        for _ in range(tries):
            self._wait_until(self._is_settled, seconds)
            while self._mend():
                self._wait_until(self._is_settled, seconds)
            if self._has_pictures():
                break
            for stream in self._pipewire.streams:
                if not stream.newest:
                    stream.ask()  # a pause and its end may have become nothing
        self._is_dark = not self._has_pictures()
        return bool(self._places) and not self._is_dark

    def _wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition() and (left := deadline - time.monotonic()) > 0:
            if self._wait((self._pipewire.fd,), left):
                self._pipewire.dispatch()

    def _wait(self, fds: Collection[int], timeout: float | None) -> frozenset[int]:
        try:
            return self._casting.wait(fds, timeout)
        except EndedError:
            # A compositor ends its recordings with the PipeWire that they went through, too.
            if not self._pipewire.is_connected:
                raise DisplayError(f"{self._casting.name}: PipeWire is gone") from None
            raise
