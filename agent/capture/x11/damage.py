"""What changed: DAMAGE on the root window, and raw motion of the pointer.

DAMAGE reports at level NonEmpty: one event for all that is drawn between two captures. Where it
was drawn is asked for when it is captured, through a region of XFIXES; python-xlib has none of
them (fixesproto 5.0, "Region Objects").
"""

import struct
from typing import Final

from Xlib import X
from Xlib.display import Display
from Xlib.ext import damage, xinput
from Xlib.protocol import rq

from agent.capture.x11.packed import PackedEvent, PackedQuestion, PackedRequest

EXTENSION: Final = "DAMAGE"
_XFIXES: Final = "XFIXES"
_XINPUT: Final = "XInputExtension"


# Opcode of the extension, of the request, and its length in units of four bytes.
_SUBTRACT: Final = struct.Struct("=BBHIII")  # damage, repair, parts
_FETCH_REGION: Final = struct.Struct("=BBHI")  # region
_REPLY_HEADER: Final = 32  # bytes; what follows are rectangles
_RECTANGLE: Final = struct.Struct("=hhHH")  # x, y, width, height


class _CreateRegion(rq.Request):
    """An empty region: no rectangles follow."""

    _request = rq.Struct(rq.Card8("opcode"), rq.Opcode(5), rq.RequestLength(), rq.Card32("region"))


class _DestroyRegion(rq.Request):
    _request = rq.Struct(rq.Card8("opcode"), rq.Opcode(10), rq.RequestLength(), rq.Card32("region"))


class DamageWatch:
    """Asks the server to tell when anything is drawn, and what was.

    Regions need the version of XFIXES that CursorWatch asks for, before ``begin``.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self._root = display.screen().root
        self._damage = 0
        self._region = 0
        self._requests = (b"", b"")  # of each ``ask``
        self._opcode = display.display.get_extension_major(EXTENSION)
        self._xfixes = display.display.get_extension_major(_XFIXES)
        display.damage_query_version()  # the server refuses other requests before it
        first: int = display.extension_event.DamageNotify
        self.event_code = first
        display.display.event_classes[first] = PackedEvent

    def begin(self) -> None:
        """Report from now on."""
        if not self._damage:
            self._damage = self._root.damage_create(damage.DamageReportNonEmpty)
            self._region = self._display.display.allocate_resource_id()
            _CreateRegion(display=self._display.display, opcode=self._xfixes, region=self._region)
            self._requests = (
                _SUBTRACT.pack(self._opcode, 3, 4, self._damage, X.NONE, self._region),
                _FETCH_REGION.pack(self._xfixes, 19, 2, self._region),
            )

    def end(self) -> None:
        """Report nothing more."""
        if self._damage:
            self._display.damage_destroy(self._damage)
            _DestroyRegion(display=self._display.display, opcode=self._xfixes, region=self._region)
            self._display.display.free_resource_id(self._region)
            self._damage = self._region = 0

    def ask(self) -> PackedQuestion | None:
        """Forget the damage so far, so that the next drawing is reported again, and ask for it.

        Returns what ``rows`` needs; None when nothing is watched. Nothing is waited for: what is
        asked of the server after it sees all of that damage drawn.
        """
        if not self._damage:
            return None
        subtract, fetch = self._requests
        PackedRequest(self._display.display, subtract)
        return PackedQuestion(self._display.display, fetch)


def rows(question: PackedQuestion) -> list[tuple[int, int]]:
    """Return the rows of the damage, as pairs of the first and the one behind the last, in pixels.

    They may overlap and reach over the screen.
    """
    rectangles = _RECTANGLE.iter_unpack(question.answer()[_REPLY_HEADER:])
    return [(y, y + height) for _x, y, _width, height in rectangles]


class MotionWatch:
    """Asks the server to tell when the pointer moves, whichever window it is over.

    Core events go to the windows below the pointer; raw events of XInput 2.1 reach us even
    while somebody else has grabbed the pointer. Without XInput there are no reports.
    """

    def __init__(self, display: Display) -> None:
        self._root = display.screen().root
        self.opcode = 0  # of the generic events; 0 without XInput
        if display.has_extension(_XINPUT):
            self.opcode = display.display.get_extension_major(_XINPUT)
            xinput.XIQueryVersion(
                display=display.display, opcode=self.opcode, major_version=2, minor_version=2
            )

    def begin(self) -> None:
        """Report from now on."""
        self._select(xinput.RawMotionMask)

    def end(self) -> None:
        """Report nothing more."""
        self._select(X.NONE)

    def _select(self, mask: int) -> None:
        if self.opcode:
            self._root.xinput_select_events([(xinput.AllMasterDevices, mask)])
