"""A GNOME session as a capture back-end."""

from pathlib import Path

from agent.capture.cast import CastCapture
from agent.capture.mutter.shell import Shell
from agent.capture.pipewire import PipeWire
from sessiond.errors import DisplayError


def open_mutter(runtime: Path, address: str = "", pid: int = 0) -> CastCapture:
    """Record the monitors of the GNOME whose runtime directory is ``runtime``.

    It is on the message bus at ``address``; without one, on that of its user. It is process
    ``pid``, or 0 for any. Raises DisplayError, of it UnsupportedError where there is no such GNOME.
    """
    shell = Shell(address or f"unix:path={runtime}/bus", pid)
    try:
        pipewire = PipeWire(runtime)
    except DisplayError:
        shell.close()
        raise
    return CastCapture(shell, pipewire)
