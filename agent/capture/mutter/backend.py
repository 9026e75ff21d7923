"""A GNOME session as a capture back-end."""

from pathlib import Path

from agent.capture.cast import CastCapture
from agent.capture.mutter.shell import Shell
from agent.capture.pipewire import PipeWire
from sessiond.errors import DisplayError


def open_mutter(runtime: Path) -> CastCapture:
    """Record the monitors of the GNOME whose runtime directory is ``runtime``.

    Raises DisplayError, of it UnsupportedError where there is no GNOME.
    """
    shell = Shell(f"unix:path={runtime}/bus")
    try:
        pipewire = PipeWire(runtime)
    except DisplayError:
        shell.close()
        raise
    return CastCapture(shell, pipewire)
