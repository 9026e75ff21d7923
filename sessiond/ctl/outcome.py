"""What a failure means: the exit status, and the one line that says so."""

from enum import IntEnum
from typing import Final

from sessiond.ctl.client import NAME, NO_OWNER
from sessiond.ctl.view import safe
from sessiond.errors import BusCallError, NotPermittedError, SessiondError, UsageError

_STANDARD: Final = "org.freedesktop.DBus.Error"
_NOT_RUNNING: Final = (NO_OWNER, f"{_STANDARD}.ServiceUnknown")
_NEEDS_PASSWORD: Final = f"{_STANDARD}.InteractiveAuthorizationRequired"
_DENIED: Final = (f"{_STANDARD}.AccessDenied", _NEEDS_PASSWORD)
NO_SUCH_COMMAND: Final = f"{NAME}.Error.NoSuchCommand"
NOT_EXECUTABLE: Final = f"{NAME}.Error.NotExecutable"
START_IT: Final = "start it with: systemctl start spice-sessiond"


class Exit(IntEnum):
    """The exit statuses; the manual page lists them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    DENIED = 4
    INTERRUPTED = 130  # 128 and SIGINT's number, as a shell tells it


class ExecExit(IntEnum):
    """Those of ``exec`` that are not the command's own, as env(1) has them."""

    FAILED = 125
    REFUSED = 126
    NOT_FOUND = 127


def exec_status(error: SessiondError) -> ExecExit:
    """Return the exit status of ``exec`` when there is no command's."""
    name = error.name if isinstance(error, BusCallError) else ""
    if name == NO_SUCH_COMMAND:
        return ExecExit.NOT_FOUND
    return ExecExit.REFUSED if name in {NOT_EXECUTABLE, *_DENIED} else ExecExit.FAILED


def explain(error: SessiondError) -> tuple[Exit, str]:
    """Return the exit status of an error, and what to tell: the daemon's own words where it spoke.

    A line break in them is shown, not made: one error is one line.
    """
    if isinstance(error, UsageError):
        return Exit.USAGE, safe(error)
    if isinstance(error, NotPermittedError):
        return Exit.DENIED, f"not permitted: {safe(error)}"
    if not isinstance(error, BusCallError):
        return Exit.FAILED, safe(error)
    if error.name in _NOT_RUNNING:
        return Exit.NOT_RUNNING, f"spice-sessiond is not running; {START_IT}"
    words = safe(error.text or error.name)
    if error.name in _DENIED:
        return Exit.DENIED, f"not permitted: {words}"
    return Exit.FAILED, words
