"""The display that the command line names, or else the environment of whoever started us."""

import argparse
import os
from collections.abc import Callable, Mapping
from typing import Final

from agent.capture import find_backend
from agent.stream.opened import Opened
from sessiond.errors import UsageError

OPTION: Final = "option"
KMS_HELPER: Final = "kms-helper"

_SOCKET: Final = "wayland-0"  # libwayland's default


def named_opener(options: argparse.Namespace, environ: Mapping[str, str]) -> Callable[[], Opened]:
    """Return what opens the display, which raises DisplayError.

    Raises UsageError where none is named.
    """
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


def _default(backend: str, environ: Mapping[str, str]) -> str:
    """Return the name of the display that a program without a word on it would take."""
    if backend not in {"wlroots", "mutter"}:
        return ""  # the back-end knows it
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if not runtime:
        raise UsageError(f"--capture {backend} needs --display, or XDG_RUNTIME_DIR to be set")
    if backend == "mutter":
        return runtime
    return os.path.join(runtime, environ.get("WAYLAND_DISPLAY") or _SOCKET)
