"""The doctor's checks of what captures need: the graphics card and its helper, and PipeWire. Pure.

What is missing is a failure only where the session in front could not be shown without it.
"""

from typing import Final

from sessiond.ctl.client import Properties
from sessiond.ctl.findings import FAIL, OK, SKIP, Answer, Findings
from sessiond.ctl.view import safe
from sessiond.logind.routes import is_gnome
from sessiond.model import KMS

_NOT_SHOWN: Final = "text consoles, and what offers no other way, are not shown"
_GIVE_CARD: Final = "Give the VM a video device that the kernel has a driver for, such as virtio."
_START_HELPER: Final = "Start it: systemctl start spice-sessiond-kms.socket."
_NEEDED_BY: Final = "Sessions of GNOME on Wayland need it"


def graphics_card(found: Findings) -> Answer:
    """Judge whether the card can be read, if it may."""
    means = found.means
    if found.config_error:
        return SKIP, "not known without the configuration"
    if found.told("Backend") == KMS:
        return OK, "is being read"
    if means.kms == "off":
        return OK, f'is not read, capture.kms is "off": {_NOT_SHOWN}'
    if not means.has_card:
        return OK, f"there is none in {safe(means.cards)}: {_NOT_SHOWN}. {_GIVE_CARD}"
    if not (means.has_kms_socket or means.may_help_itself):
        text = f"there is no {safe(means.kms_socket)}, where the helper is that reads it."
        return FAIL, f"{text} {_START_HELPER}"
    return OK, "is there, and a helper that reads it"


def pipewire(found: Findings) -> Answer:
    """Judge what GNOME hands out its picture by."""
    missing = _missing(found)
    if not missing:
        return OK, "is there"
    if found.front and _needs_pipewire(found.front):
        return FAIL, missing
    return OK, f"{missing} {_NEEDED_BY}."


def _missing(found: Findings) -> str:
    means = found.means
    if not means.has_libpipewire:
        return "there is no libpipewire-0.3.so.0. Install libpipewire-0.3-0."
    if not means.has_pipewire:
        start = "Start it there: systemctl --user start pipewire."
        return f"there is no {safe(means.pipewire)}. {start}"
    if not means.has_wireplumber:
        start = "Install wireplumber, and start it there: systemctl --user start wireplumber."
        return f"nobody connects its streams in the session in front. {start}"
    return ""


def _needs_pipewire(front: Properties) -> bool:
    if front.get("Type") != "wayland":
        return False
    backend = front.get("Backend")
    return backend == "mutter" or (not backend and is_gnome(str(front.get("Desktop"))))
