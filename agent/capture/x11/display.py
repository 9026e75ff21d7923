"""Opens an X display; one to capture has pixels of the one form that we take."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from Xlib import X, error
from Xlib.display import Display
from Xlib.protocol import event
from Xlib.protocol.display import Display as XlibDisplay
from Xlib.xobject.drawable import Window

from sessiond.errors import DisplayError

HAS_VT: Final = "XFree86_has_VT"  # root window property of a real Xorg: 0 while off its VT


def open_display(name: str) -> Display:
    """Connect to ``name``, or to $DISPLAY if it is empty, to capture it.

    Raises DisplayError as ``connect_display`` does, and when its pixels are not 32 bits of B, G, R
    and padding.
    """
    shown = name or os.environ.get("DISPLAY", "")
    if not shown:
        raise DisplayError("no display: neither --display nor $DISPLAY says which")
    display = connect_display(shown)
    try:
        _check_pixels(display, shown)
    except DisplayError:
        display.close()
        raise
    return display


def connect_display(name: str) -> Display:
    """Connect to a display, whatever its pixels are.

    Raises DisplayError when there is none, or it refuses us.
    """
    try:
        display = _connect(name)
    except (error.DisplayNameError, OverflowError) as problem:  # the latter: :65000 as a TCP port
        raise DisplayError(f"display {name!r} is not a display name, such as :0") from problem
    except OSError as problem:
        raise DisplayError(f"display {name} cannot be opened: {problem.strerror}") from problem
    except Exception as problem:
        # Its own errors, and what becomes of a server's nonsense: python-xlib believes all of it.
        raise DisplayError(f"display {name} cannot be opened: {_reason(problem)}") from problem
    # python-xlib prints errors of requests without a reply to stderr; ours have handlers of
    # their own where an error is expected, and nothing to say where the server is gone.
    display.set_error_handler(lambda *_: None)
    return display


@contextmanager
def lost_display(display: Display) -> Iterator[None]:
    """Turn what python-xlib raises when the server is gone into DisplayError."""
    try:
        yield
    except (error.ConnectionClosedError, OSError) as problem:
        name = display.get_display_name()
        raise DisplayError(f"display {name} has gone away") from problem


def has_vt(root: Window, atom: int) -> bool:
    """Tell whether the X server holds its VT; true where it has none (Xvfb).

    ``atom`` is that of ``HAS_VT``.
    """
    value = root.get_full_property(atom, X.AnyPropertyType)
    return value is None or len(value.value) == 0 or bool(value.value[0])


def _connect(shown: str) -> Display:
    # python-xlib keeps which event has which number in the class, for all servers at once; they
    # differ from server to server (Xorg, Xwayland), and it fails at the second with a TypeError.
    XlibDisplay.event_classes = {**event.event_class}
    display = Display(shown)
    display.display.event_classes = XlibDisplay.event_classes
    return display


def _check_pixels(display: Display, shown: str) -> None:
    info = display.display.info
    depth = display.screen().root_depth
    bits = {f.depth: f.bits_per_pixel for f in info.pixmap_formats}.get(depth, 0)
    if bits != 32 or depth not in {24, 32} or info.image_byte_order != X.LSBFirst:
        raise DisplayError(
            f"display {shown} has {depth} planes in {bits} bits a pixel; only 24 planes in 32 "
            "bits, least significant byte first, can be captured"
        )


def _reason(problem: Exception) -> str:
    return " ".join(str(problem).split()) or type(problem).__name__
