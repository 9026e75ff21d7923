"""The display that the command line names, or else the environment of whoever started us."""

import argparse
import os
from collections.abc import Callable, Mapping
from typing import Final

from agent.capture import find_backend
from agent.capture.base import UnsupportedError
from agent.stream.opened import Opened
from sessiond.errors import UsageError

OPTION: Final = "option"
KMS_HELPER: Final = "kms-helper"

_OF_COMPOSITORS: Final = ("wlroots", "mutter")
_SOCKET: Final = "wayland-0"  # libwayland's default


def named_opener(options: argparse.Namespace, environ: Mapping[str, str]) -> Callable[[], Opened]:
    """Return what opens the display, which raises DisplayError.

    Raises UsageError where none is named. Without a word on it, a Wayland session's is its
    compositor's: what $DISPLAY names there is XWayland, which shows only single windows.
    """
    if environ.get("WAYLAND_DISPLAY") and not (options.capture or options.display):
        names = {backend: _default(backend, environ) for backend in _OF_COMPOSITORS}
        return lambda: _open_first(names)
    backend = options.capture or "x11"
    open_capture = find_backend(backend)
    if backend == "kms":
        if options.kms_fd is None:
            raise UsageError("--capture kms needs the socket of its helper: --kms-fd")

        def open_screen() -> Opened:
            capture = open_capture(str(options.kms_fd))
            # Its VT is left open: it is the helper that sees to it, and no display is proven there.
            return Opened(capture, KMS_HELPER, ", ".join(capture.outputs()), backend=backend)

        return open_screen
    name = options.display or _default(backend, environ)
    return lambda: Opened(open_capture(name), OPTION, name, backend=backend)


def _open_first(names: Mapping[str, str]) -> Opened:
    """Open by the first of these back-ends, each with its display, that serves the compositor."""
    refusals = list[str]()
    for backend, name in names.items():
        try:
            return Opened(find_backend(backend)(name), OPTION, name, backend=backend)
        except UnsupportedError as error:
            refusals.append(f"{backend}: {error}")
    raise UnsupportedError("; ".join(refusals))


def _default(backend: str, environ: Mapping[str, str]) -> str:
    """Return the name of the display that a program without a word on it would take."""
    if backend not in _OF_COMPOSITORS:
        return ""  # the back-end knows it
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if not runtime:
        raise UsageError(f"--capture {backend} needs --display, or XDG_RUNTIME_DIR to be set")
    if backend == "mutter":
        return runtime
    return os.path.join(runtime, environ.get("WAYLAND_DISPLAY") or _SOCKET)
