"""The cursor's shape and its changes, by XFIXES."""

from typing import Final

from Xlib import X, error
from Xlib.display import Display
from Xlib.protocol import rq

from agent.capture.base import Cursor

EXTENSION: Final = "XFIXES"
_DISPLAY_CURSOR: Final = 1  # XFixesDisplayCursorNotifyMask


class _GetCursorImage(rq.ReplyRequest):
    """As python-xlib's, but the pixels stay bytes: its list of integers is slow to make."""

    _request = rq.Struct(rq.Card8("opcode"), rq.Opcode(4), rq.RequestLength())
    _reply = rq.Struct(
        rq.ReplyCode(),
        rq.Pad(1),
        rq.Card16("sequence_number"),
        rq.ReplyLength(),
        rq.Int16("x"),
        rq.Int16("y"),
        rq.Card16("width"),
        rq.Card16("height"),
        rq.Card16("xhot"),
        rq.Card16("yhot"),
        rq.Card32("cursor_serial"),
        rq.Pad(8),
        rq.Binary("pixels"),
    )


class CursorWatch:
    """Asks the server to tell when another cursor is shown; there is one of these a display."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._opcode = display.display.get_extension_major(EXTENSION)
        display.xfixes_query_version()
        code, _subcode = display.extension_event.DisplayCursorNotify
        self.event_code: int = code

    def begin(self) -> None:
        """Report from now on."""
        self._display.xfixes_select_cursor_input(self._display.screen().root, _DISPLAY_CURSOR)

    def end(self) -> None:
        """Report nothing more."""
        self._display.xfixes_select_cursor_input(self._display.screen().root, X.NONE)

    def image(self) -> Cursor | None:
        """Return the shape; None when the server has none to give.

        It answers BadCursor when no cursor is shown and BadAccess for one whose client is gone.
        """
        try:
            reply = _GetCursorImage(display=self._display.display, opcode=self._opcode)
        except error.XError:
            return None
        size = 4 * reply.width * reply.height
        return Cursor(reply.width, reply.height, reply.xhot, reply.yhot, reply.pixels[:size])
