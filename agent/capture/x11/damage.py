"""What changed: DAMAGE on the root window, and raw motion of the pointer.

DAMAGE reports at level NonEmpty: one event for all that is drawn between two captures.
"""

from typing import Final

from Xlib import X
from Xlib.display import Display
from Xlib.ext import damage, xinput

EXTENSION: Final = "DAMAGE"
_XINPUT: Final = "XInputExtension"


class DamageWatch:
    """Asks the server to tell when anything is drawn, and forgets what was told."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._root = display.screen().root
        self._damage = 0
        display.damage_query_version()  # the server refuses other requests before it
        first: int = display.extension_event.DamageNotify
        self.event_code = first

    def begin(self) -> None:
        """Report from now on."""
        if not self._damage:
            self._damage = self._root.damage_create(damage.DamageReportNonEmpty)

    def end(self) -> None:
        """Report nothing more."""
        if self._damage:
            self._display.damage_destroy(self._damage)
            self._damage = 0

    def repair(self) -> None:
        """Forget the damage so far: the next drawing is reported again."""
        if self._damage:
            self._display.damage_subtract(self._damage)


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
