"""What an X server says of itself that tells whose screen it is."""

from typing import Final

from Xlib import X
from Xlib.display import Display
from Xlib.ext import randr

VT: Final = "XFree86_VT"  # root window property of a real Xorg: the number of its VT
_XWAYLAND: Final = "XWAYLAND"


def find_vt(display: Display) -> int | None:
    """Return the number of the server's virtual terminal; None where it has none (Xvfb)."""
    atom = display.intern_atom(VT, only_if_exists=True)
    if atom == X.NONE:
        return None
    value = display.screen().root.get_full_property(atom, X.AnyPropertyType)
    return int(value.value[0]) if value is not None and len(value.value) else None


def is_xwayland(display: Display) -> bool:
    """Tell whether the server is XWayland, whose root window shows nothing.

    It has an extension of that name since 23.1; its outputs are called ``XWAYLAND0`` and so on.
    """
    if _XWAYLAND in display.list_extensions():
        return True
    if not display.has_extension(randr.extname):
        return False
    root = display.screen().root
    resources = root.xrandr_get_screen_resources_current()
    return any(
        display.xrandr_get_output_info(output, resources.config_timestamp).name.startswith(
            _XWAYLAND
        )
        for output in resources.outputs
    )
