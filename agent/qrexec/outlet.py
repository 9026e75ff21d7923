"""What a program still has to read: at most one chunk."""

import contextlib
import errno
import logging
import select
from collections.abc import Callable
from typing import Final

from agent.qrexec.ends import End
from sessiond.wire.buffer import Bytes

log = logging.getLogger(__name__)

_EMPTY: Final = memoryview(b"")


class Outlet:
    """Writes to an end without ever waiting for its reader.

    What does not fit is held, and until it is written nothing more may be put: that throttles the
    peer. What is put when nobody reads any more is dropped.
    """

    def __init__(self, end: End, *, change: Callable[[Bytes], Bytes] = bytes) -> None:
        self.end = end
        self._change = change
        self._held = _EMPTY
        self.is_open = True

    @property
    def is_full(self) -> bool:
        """Whether something is held that waits for the reader."""
        return bool(self._held)

    @property
    def wanted(self) -> int:
        """What poll(2) is to tell; without anything held, that the reader has gone."""
        return select.POLLOUT if self._held else 0

    def put(self, data: Bytes) -> None:
        """Write ``data``, or hold what does not fit."""
        if self.is_open:
            self._held = memoryview(self._change(data))
            self.flush()

    def flush(self) -> None:
        """Write on."""
        try:
            while self._held and (written := self.end.write(self._held)):
                self._held = self._held[written:]
        except ConnectionError as error:
            if error.errno not in {errno.EPIPE, errno.ECONNRESET}:
                log.warning("what was to be written is lost: %s", error)
            self.finish()

    def finish(self) -> None:
        """Drop what is held and let the reader find the end now."""
        self._held = _EMPTY
        if self.is_open:
            self.is_open = False
            with contextlib.suppress(OSError):
                self.end.end_writing()
