"""What a capture back-end is."""

import abc
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sessiond.errors import DisplayError

MAX_SIDE: Final = 8192  # pixels; what the product promises, and 256 MiB of shared memory
SLOTS: Final = 2  # one frame is captured while the other is encoded
OPENING: Final = 2.0  # seconds in which whoever shows the screen has to let us in
BAND: Final = 16  # pixel rows, counted from the top: what changed is told in bands of these


class UnsupportedError(DisplayError):
    """The display is there, and has nothing by which a back-end of this kind could capture it."""


class EndedError(DisplayError):
    """Somebody at the screen has ended the capturing: nobody is to begin it again unasked."""


class Changes(enum.Flag):
    """What is new since it was last asked for."""

    NONE = 0
    PICTURE = enum.auto()
    CURSOR = enum.auto()
    POINTER = enum.auto()
    AVAILABLE = enum.auto()  # ``unavailable`` may have another answer now


@dataclass(frozen=True, slots=True)
class Frame:
    """Pixels as bytes B, G, R, X, rows of ``stride`` bytes, top first.

    ``pixels`` is the memory of ``slot`` itself, not a copy: it stays as it is until the same
    slot is grabbed again. ``changed`` are the numbers of the bands that may differ from the frame
    captured before; None when nobody can tell. ``stands_in``: it is no picture of the screen, but
    says why there is none.
    """

    width: int
    height: int
    stride: int
    pixels: memoryview
    slot: int
    changed: frozenset[int] | None = None
    stands_in: bool = False


def merged(one: frozenset[int] | None, other: frozenset[int] | None) -> frozenset[int] | None:
    """Return the bands that differ after both changes; None when nobody can tell."""
    return None if one is None or other is None else one | other


@dataclass(frozen=True, slots=True)
class Cursor:
    """A cursor's shape: rows of B, G, R, A bytes, premultiplied.

    Its hot spot is as its client has named it, which may be outside of it.
    """

    width: int
    height: int
    hot_x: int
    hot_y: int
    pixels: bytes


class Capture(abc.ABC):
    """One opened display. All methods are called by the one thread that opened it.

    Each of them raises DisplayError when the display is lost, of it EndedError where somebody at
    the screen wants that.
    """

    @abc.abstractmethod
    def describe(self) -> str:
        """Return what is captured and how, for a log line."""

    @property
    @abc.abstractmethod
    def size(self) -> tuple[int, int]:
        """Width and height of the whole picture, in pixels."""

    @property
    @abc.abstractmethod
    def unavailable(self) -> str:
        """Why there is nothing to capture now, in words; empty when there is."""

    @abc.abstractmethod
    def begin(self) -> None:
        """Watch for changes: of the picture, since the ``grab`` that is to follow."""

    @abc.abstractmethod
    def end(self) -> None:
        """Stop watching; from now on nothing wakes us but what changes ``unavailable``."""

    @abc.abstractmethod
    def wait(self, wake_fd: int) -> Changes:
        """Block until something changed or ``wake_fd`` is readable; NONE for the latter.

        PICTURE is told once; it is told again only for changes after the next ``grab``.
        """

    @abc.abstractmethod
    def grab(self, slot: int) -> Frame | None:
        """Capture the picture into the memory of ``slot``; None while ``unavailable``.

        What changed can be told most exactly when the frame before went into another slot.
        """

    @abc.abstractmethod
    def cursor(self) -> Cursor | None:
        """Return the cursor's shape; None when there is none or nobody can tell."""

    @abc.abstractmethod
    def pointer(self) -> tuple[int, int]:
        """Return where the pointer is, in pixels of the picture."""

    @abc.abstractmethod
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the connected outputs, in the display's own order."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give everything back. Does not raise."""


OpenCapture = Callable[[str], Capture]
"""Opens a display by its name (``:0``; what a name is depends on the back-end).

Raises DisplayError with the display and what is wrong with it, of it UnsupportedError for one that
is for another back-end, as a compositor without the protocol is; also when it has not answered for
``OPENING`` seconds, but for an X display, for which its caller sees to that.
"""
