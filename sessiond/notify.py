"""What systemd is told: readiness, the status line, that we live (sd_notify(3))."""

import logging
import os

from systemd.daemon import notify

log = logging.getLogger(__name__)


class Notifier:
    """Talks to $NOTIFY_SOCKET; where there is none, nobody is told.

    ``watchdog`` is how often, in seconds, a sign of life is due; 0 for never. What systemd said
    is taken out of the environment: it is meant for this process, and for no child of it.
    """

    def __init__(self) -> None:
        self._socket = os.environ.pop("NOTIFY_SOCKET", "")
        usec = os.environ.pop("WATCHDOG_USEC", "")
        is_ours = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog = int(usec) / 1e6 / 2 if usec.isdecimal() and is_ours else 0.0

    def send(self, **state: str | int) -> None:
        """Send the assignments, such as READY=1, STATUS=text; each is made one line."""
        if not self._socket:
            return
        lines = [f"{name}={' '.join(str(value).splitlines())}" for name, value in state.items()]
        os.environ["NOTIFY_SOCKET"] = self._socket  # where libsystemd looks for it
        try:
            notify("\n".join(lines))
        except OSError as error:
            log.debug("systemd cannot be told: %s", error)
        finally:
            del os.environ["NOTIFY_SOCKET"]
