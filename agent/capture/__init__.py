"""Capture back-ends: where pictures come from."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final

from agent.capture.base import OpenCapture
from sessiond.errors import UsageError

# Where each is, and what it makes of a display's name. They are imported only when used: each
# brings libraries along that no other needs.
_BACKENDS: Final[dict[str, tuple[str, str, Callable[[str], object]]]] = {
    "x11": ("agent.capture.x11.backend", "open_x11", str),  # :0
    "wlroots": ("agent.capture.wlroots.backend", "open_wlroots", str),  # a compositor's socket
    "mutter": ("agent.capture.mutter.backend", "open_mutter", Path),  # the runtime directory
    "kms": ("agent.capture.kms.backend", "open_kms", int),  # the descriptor of its helper's socket
    "pattern": ("agent.capture.pattern", "open_pattern", str),  # a size and a rate
}
NAMES: Final = tuple(_BACKENDS)


def find_backend(name: str) -> OpenCapture:
    """Return what opens the back-end ``name``; its libraries are imported only now.

    Raises UsageError for a name that is not in ``NAMES``.
    """
    if name not in _BACKENDS:
        raise UsageError(f"no capture back-end {name!r}; there are {', '.join(NAMES)}")
    module, function, convert = _BACKENDS[name]
    opener = getattr(import_module(module), function)
    return lambda display: opener(convert(display))
