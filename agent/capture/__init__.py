"""Capture back-ends: where pictures come from."""

from importlib import import_module
from typing import Final, cast

from agent.capture.base import OpenCapture
from sessiond.errors import UsageError

_BACKENDS: Final = {
    "x11": ("agent.capture.x11.backend", "open_x11"),
    "pattern": ("agent.capture.pattern", "open_pattern"),
}
NAMES: Final = tuple(_BACKENDS)


def find_backend(name: str) -> OpenCapture:
    """Return what opens the back-end ``name``; its libraries are imported only now.

    Raises UsageError for a name that is not in ``NAMES``.
    """
    if name not in _BACKENDS:
        raise UsageError(f"no capture back-end {name!r}; there are {', '.join(NAMES)}")
    module, function = _BACKENDS[name]
    return cast("OpenCapture", getattr(import_module(module), function))
