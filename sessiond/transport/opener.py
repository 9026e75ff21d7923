"""Opens a port as soon as that is possible. Waiting costs nothing: the kernel says when to look."""

import asyncio
import time
from collections.abc import Callable

from sessiond.errors import PortError, PortMissingError
from sessiond.transport.backoff import Backoff
from sessiond.transport.edge import EdgePoller
from sessiond.transport.names import NameWatch
from sessiond.transport.port import OpenPort, open_port


class PortOpener:
    """Calls its ``on_open(port)``, which then owns the port, once after each ``open``.

    ``on_fault(error)`` is told why there is none yet, once for as long as that is the same.
    """

    def __init__(
        self,
        path: str,
        poller: EdgePoller,
        on_open: Callable[[OpenPort], None],
        on_fault: Callable[[PortError], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._poller = poller
        self._on_open = on_open
        self._on_fault = on_fault
        self._backoff = Backoff()
        self._retry: asyncio.TimerHandle | None = None
        self._next_try = 0.0
        self._names: NameWatch | None = None  # while there is no port
        self.fault = ""

    def open(self) -> None:
        """Open it, now or as soon as that is possible."""
        self._wait_no_more()
        # Watched before it is tried: what changes in between is not missed.
        self._names = self._names or NameWatch(self._path, self._poller, self.open)
        try:
            port = open_port(self._path)
        except PortError as error:
            self._complain(error)
            if not (isinstance(error, PortMissingError) and self._names.is_watching):
                self.open_later()
            return
        self.rest()
        self._on_open(port)

    def open_later(self) -> None:
        """Do so after a while, which is longer each time until ``reset``."""
        delay = self._backoff.delay()
        self._retry = self._loop.call_later(delay, self.open)
        self._next_try = time.time() + delay

    def reset(self) -> None:
        """Take note that what was opened has worked."""
        self._backoff.reset()

    def rest(self) -> None:
        """Open none until told to, and have no fault; a second call does nothing."""
        self._wait_no_more()
        self.fault = ""
        if self._names:
            self._names.close()
            self._names = None

    @property
    def is_waiting(self) -> bool:
        """Whether it will be opened as soon as that is possible."""
        return self._retry is not None or self._names is not None

    def next_try(self) -> float:
        """Return the time of the next try in seconds since 1970; 0 for none, or for an event."""
        return self._next_try if self._retry else 0.0

    def _wait_no_more(self) -> None:
        if self._retry:
            self._retry.cancel()
            self._retry = None

    def _complain(self, error: PortError) -> None:
        before, self.fault = self.fault, str(error)
        if self.fault != before:
            self._on_fault(error)
