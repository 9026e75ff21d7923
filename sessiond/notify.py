"""What systemd is told: readiness, the status line, that we live (sd_notify(3))."""

import logging
import os
import select
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from systemd.daemon import listen_fds_with_names, notify

from sessiond.transport.fds import OwnedFd

log = logging.getLogger(__name__)

BARRIER: Final = 2000  # milliseconds that systemd may take to read what it was told


class Notifier:
    """Talks to $NOTIFY_SOCKET; where there is none, nobody is told.

    ``watchdog`` is how often, in seconds, a sign of life is due; 0 for never. ``may_close_slowly``
    is whether systemd goes on while it closes what it has stored. What systemd said is taken out of
    the environment: it is meant for this process, and for no child of it.
    """

    def __init__(self) -> None:
        self._socket = os.environ.pop("NOTIFY_SOCKET", "")
        usec = os.environ.pop("WATCHDOG_USEC", "")
        is_ours = os.environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # Said since 254, and since then it closes them beside its work. Before, one that takes long
        # to close stops all of its work, at the latest when the unit is stopped.
        self.may_close_slowly = bool(os.environ.pop("FDSTORE", ""))
        self.watchdog = int(usec) / 1e6 / 2 if usec.isdecimal() and is_ours else 0.0

    def send(self, **state: str | int) -> None:
        """Send the assignments, such as READY=1, STATUS=text; each is made one line."""
        if not self._socket:
            return
        lines = [f"{name}={' '.join(str(value).splitlines())}" for name, value in state.items()]
        self._notify("\n".join(lines))

    def take_stored(self) -> dict[str, OwnedFd]:
        """Return the descriptors that systemd has for us, by their names; it keeps them, too."""
        stored = {name: OwnedFd(fd) for fd, name in listen_fds_with_names().items()}
        for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
            os.environ.pop(name, None)  # libsystemd has unset those of C's environment alone
        return stored

    def drop_stored(self, names: Iterable[str]) -> None:
        """Let systemd forget them: from now on they are ours alone.

        Not before they are in use: what it does not hold, is closed where a start fails.
        """
        for name in names:
            self.send(FDSTOREREMOVE=1, FDNAME=name)

    def store(self, fds: Mapping[str, OwnedFd], *, even_hung_up: bool = False) -> None:
        """Let systemd keep descriptors, by their names, until we are started again; close ours.

        ``even_hung_up``: also those whose other end hangs up meanwhile. Returns when it has them,
        or after ``BARRIER`` milliseconds. A unit without FileDescriptorStoreMax keeps none.
        """
        poll = "\nFDPOLL=0" if even_hung_up else ""
        if self._socket and fds:
            for name, fd in fds.items():
                self._notify(f"FDSTORE=1\nFDNAME={name}{poll}", [fd.fileno()])
            self._wait_until_read()
        for fd in fds.values():
            fd.close()

    def _wait_until_read(self) -> None:
        """Wait for systemd to read what was sent: who has ended by then is not heard."""
        ours, theirs = os.pipe()  # sd_notify_barrier(3)
        with OwnedFd(ours), OwnedFd(theirs) as barrier:
            self._notify("BARRIER=1", [barrier.fileno()])
            barrier.close()
            poll = select.poll()
            poll.register(ours, 0)
            poll.poll(BARRIER)

    def _notify(self, text: str, fds: Sequence[int] = ()) -> None:
        os.environ["NOTIFY_SOCKET"] = self._socket  # where libsystemd looks for it
        try:
            notify(text, fds=list(fds)) if fds else notify(text)
        except OSError as error:
            log.debug("systemd cannot be told: %s", error)
        finally:
            del os.environ["NOTIFY_SOCKET"]
