"""One X display as a capture back-end: the whole root window, whatever its monitors."""

import logging
import select
from itertools import chain
from typing import Any, Final

from Xlib import X, error
from Xlib.display import Display
from Xlib.ext import ge, randr, xinput

from agent.capture.bands import all_bands, differing, pieces, touched
from agent.capture.base import BAND, MAX_SIDE, Capture, Changes, Cursor, Frame
from agent.capture.x11 import cursor, damage
from agent.capture.x11.cursor import CursorWatch
from agent.capture.x11.damage import DamageWatch, MotionWatch
from agent.capture.x11.display import HAS_VT, has_vt, lost_display, open_display
from agent.capture.x11.shm import PixelSource, choose_source
from sessiond.errors import DisplayError

log = logging.getLogger(__name__)

_RESIZES: Final = 8  # tries to catch the picture between two changes of its size


def open_x11(name: str) -> "X11Capture":
    """Open display ``name``; empty means $DISPLAY. Raises DisplayError."""
    return capture_display(open_display(name))


def capture_display(display: Display) -> "X11Capture":
    """Capture an opened display, which is closed if that cannot be. Raises DisplayError."""
    try:
        with lost_display(display):
            return X11Capture(display)
    except DisplayError:
        display.close()
        raise


class X11Capture(Capture):
    """Captures through MIT-SHM where it works, else by GetImage."""

    def __init__(self, display: Display) -> None:
        for extension in (damage.EXTENSION, cursor.EXTENSION):
            if not display.has_extension(extension):
                raise DisplayError(
                    f"display {display.get_display_name()} has no {extension} extension"
                )
        self._display = display
        self._root = display.screen().root
        self._root.change_attributes(event_mask=X.StructureNotifyMask | X.PropertyChangeMask)
        self._size = self._read_size()
        self._damage = DamageWatch(display)
        self._cursor = CursorWatch(display)
        self._motion = MotionWatch(display)
        make_source = choose_source(display)
        self._sources: list[PixelSource] = [make_source(display), make_source(display)]
        # The bands of each slot that may differ from the screen, as far as damage was told.
        self._stale: list[set[int]] = [set() for _ in self._sources]
        self._last: Frame | None = None  # what was grabbed last
        self._forget()
        self._changes = Changes.NONE  # seen, and not told yet
        self._wanted = Changes.AVAILABLE  # what is to be told
        self._has_vt_atom = display.intern_atom(HAS_VT)
        self._has_vt = has_vt(self._root, self._has_vt_atom)

    def describe(self) -> str:
        width, height = self._size
        name = self._display.get_display_name()
        return f"display {name}, {width}x{height}, by {self._sources[0].label}"

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @property
    def unavailable(self) -> str:
        if not self._has_vt:
            return "the X server is not on the active virtual terminal"
        return ""

    def begin(self) -> None:
        with lost_display(self._display):
            self._damage.begin()
            self._cursor.begin()
            self._motion.begin()
            self._forget()
            self._wanted = ~Changes.NONE
            # A new DAMAGE object reports the whole window at once, which is no news: the first
            # grab follows, and takes with it what was drawn until then.
            self._display.sync()
            self._read_events()
            self._changes &= ~Changes.PICTURE

    def end(self) -> None:
        with lost_display(self._display):
            self._damage.end()
            self._cursor.end()
            self._motion.end()
            self._display.flush()
        self._wanted = Changes.AVAILABLE
        self._changes &= self._wanted

    def wait(self, wake_fd: int) -> Changes:
        with lost_display(self._display):
            # What the connection holds unread makes it ready; asking for it first costs as much.
            self._take_events()
            if not self._changes:
                fd = self._display.fileno()
                ready, _, _ = select.select([fd, wake_fd], [], [])
                if fd in ready:
                    self._read_events()
        changes, self._changes = self._changes, Changes.NONE
        return changes

    def grab(self, slot: int) -> Frame | None:
        with lost_display(self._display):
            for _ in range(_RESIZES):
                if self.unavailable:
                    return None
                try:
                    frame = self._capture(slot)
                except error.BadMatch as refusal:  # the root window has become smaller
                    # python-xlib keeps it in a cycle: its traceback would hold our pixels, too.
                    refusal.__traceback__ = None
                    self._size = self._read_size()
                    self._forget()
                    continue
                # A server that left its VT meanwhile said so before it answered (the property
                # changes in the same turn of its loop), and what it gave is black.
                self._take_events()
                if not self._has_vt:
                    return None
                return frame
        raise DisplayError("the screen changes its size faster than it can be captured")

    def cursor(self) -> Cursor | None:
        with lost_display(self._display):
            return self._cursor.image()

    def pointer(self) -> tuple[int, int]:
        with lost_display(self._display):
            reply = self._root.query_pointer()
            return reply.root_x, reply.root_y

    def outputs(self) -> tuple[str, ...]:
        if not self._display.has_extension(randr.extname):
            return ()
        with lost_display(self._display):
            resources = self._root.xrandr_get_screen_resources_current()
            infos = [
                self._display.xrandr_get_output_info(output, resources.config_timestamp)
                for output in resources.outputs
            ]
            return tuple(info.name for info in infos if info.connection == randr.Connected)

    def close(self) -> None:
        try:
            self._display.close()
        except (error.ConnectionClosedError, OSError) as problem:
            log.debug("closing the display: %s", problem)
        # Their memory goes with the last frame that somebody still holds.
        self._sources.clear()
        self._last = None

    def _forget(self) -> None:
        """Hold no band of any slot for good."""
        self._stale = [all_bands(self._size[1]) for _ in self._sources]
        self._last = None

    def _capture(self, slot: int) -> Frame:
        # Before the capture, not after: what is drawn in between is reported again.
        question = self._damage.ask()
        if question is None:  # nobody watches
            self._forget()
        # The server answers all in one turn; mostly the frame before was damaged where this one is.
        pixels, taken = self._take_bands(slot, self._stale[slot])
        if question is not None:
            damaged = touched(damage.rows(question), self._size[1])
            for stale in self._stale:
                stale.update(damaged)
            pixels, more = self._take_bands(slot, self._stale[slot] - taken)
            taken |= more
        self._stale[slot] = set()
        return self._framed(slot, pixels, frozenset(taken))

    def _take_bands(self, slot: int, bands: set[int]) -> tuple[memoryview, set[int]]:
        """Return the memory of ``slot`` with ``bands`` captured, and which bands that are.

        Also those in between, which may be newer by now than in the frame before: their damage is
        still to be told, and will find no difference then.
        """
        taken = pieces(bands)
        height = self._size[1]
        rows = [range(each.start * BAND, min(each.stop * BAND, height)) for each in taken]
        return self._sources[slot].grab(self._size, rows), set(chain.from_iterable(taken))

    def _framed(self, slot: int, pixels: memoryview, taken: frozenset[int]) -> Frame:
        width, height = self._size
        changed: frozenset[int] | None = taken
        if self._last is None:
            changed = None
        elif self._last.slot != slot:
            changed = differing(pixels, self._last.pixels, 4 * width, taken)
        self._last = Frame(width, height, 4 * width, pixels, slot, changed)
        return self._last

    def _read_size(self) -> tuple[int, int]:
        geometry = self._root.get_geometry()
        return self._checked_size(geometry.width, geometry.height)

    def _checked_size(self, width: int, height: int) -> tuple[int, int]:
        if max(width, height) > MAX_SIDE:
            raise DisplayError(
                f"display {self._display.get_display_name()} has a screen of {width}x{height} "
                f"pixels; at most {MAX_SIDE}x{MAX_SIDE} can be shown"
            )
        return width, height

    def _read_events(self) -> None:
        # What arrives meanwhile comes next time; asking for it costs as much as an event. Where
        # handling one asks the server, and may so find others, it is a change: nobody waits then.
        self._display.pending_events()
        self._take_events()

    def _take_events(self) -> None:
        """Take those that have arrived with the answers to what we asked."""
        for _ in range(len(self._display.display.event_queue)):
            self._changes |= self._change(self._display.next_event()) & self._wanted

    def _change(self, event: Any) -> Changes:  # noqa: ANN401 (attributes depend on the type)
        match event.type:
            case self._damage.event_code:
                return Changes.PICTURE
            case self._cursor.event_code:
                return Changes.CURSOR
            case ge.GenericEventCode:
                is_motion = event.extension == self._motion.opcode
                return (
                    Changes.POINTER
                    if is_motion and event.evtype == xinput.RawMotion
                    else Changes.NONE
                )
            case X.ConfigureNotify if event.window == self._root:
                self._size = self._checked_size(event.width, event.height)
                self._forget()
                return Changes.PICTURE | Changes.AVAILABLE
            case X.PropertyNotify if event.atom == self._has_vt_atom:
                self._has_vt = has_vt(self._root, self._has_vt_atom)
                self._forget()  # what an X server gives off its VT is black
                return Changes.PICTURE | Changes.AVAILABLE
            case _:
                return Changes.NONE
