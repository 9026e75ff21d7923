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

EXTENSION: Final = "DAMAGE"
_XFIXES: Final = "XFIXES"
_XINPUT: Final = "XInputExtension"


_RECTANGLE: Final = struct.Struct("<hhHH")  # x, y, width, height


class _CreateRegion(rq.Request):
    """An empty region: no rectangles follow."""

    _request = rq.Struct(rq.Card8("opcode"), rq.Opcode(5), rq.RequestLength(), rq.Card32("region"))


class _DestroyRegion(rq.Request):
    _request = rq.Struct(rq.Card8("opcode"), rq.Opcode(10), rq.RequestLength(), rq.Card32("region"))


class _FetchRegion(rq.ReplyRequest):
    _request = rq.Struct(rq.Card8("opcode"), rq.Opcode(19), rq.RequestLength(), rq.Card32("region"))
    _reply = rq.Struct(
        rq.ReplyCode(),
        rq.Pad(1),
        rq.Card16("sequence_number"),
        rq.ReplyLength(),
        rq.Int16("x"),
        rq.Int16("y"),
        rq.Card16("width"),
        rq.Card16("height"),
        rq.Pad(16),
        rq.Binary("rectangles"),
    )


class DamageWatch:
    """Asks the server to tell when anything is drawn, and what was.

    Regions need the version of XFIXES that CursorWatch asks for, before ``begin``.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self._root = display.screen().root
        self._damage = 0
        self._region = 0
        self._xfixes = display.display.get_extension_major(_XFIXES)
        display.damage_query_version()  # the server refuses other requests before it
        first: int = display.extension_event.DamageNotify
        self.event_code = first

    def begin(self) -> None:
        """Report from now on."""
        if not self._damage:
            self._damage = self._root.damage_create(damage.DamageReportNonEmpty)
            self._region = self._display.display.allocate_resource_id()
            _CreateRegion(display=self._display.display, opcode=self._xfixes, region=self._region)

    def end(self) -> None:
        """Report nothing more."""
        if self._damage:
            self._display.damage_destroy(self._damage)
            _DestroyRegion(display=self._display.display, opcode=self._xfixes, region=self._region)
            self._display.display.free_resource_id(self._region)
            self._damage = self._region = 0

    def take(self) -> list[tuple[int, int]] | None:
        """Forget the damage so far, so that the next drawing is reported again.

        Returns its rows, as pairs of the first and the one behind the last, in pixels; None when
        nothing is watched. They may overlap and reach over the screen.
        """
        if not self._damage:
            return None
        self._display.damage_subtract(self._damage, parts=self._region)
        reply = _FetchRegion(
            display=self._display.display, opcode=self._xfixes, region=self._region
        )
        rectangles = _RECTANGLE.iter_unpack(reply.rectangles)
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
