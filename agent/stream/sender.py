"""The one writer of a channel: what waits, in which order, and when a frame is gone."""

import logging
from collections.abc import Callable

from sessiond.wire.device import Type
from sessiond.wire.outbox import Kind, Outbox

log = logging.getLogger(__name__)


class Sender:
    """Writes whole messages through ``write``, which returns how many bytes it took (0: blocked).

    ``peer`` is who reads, for the log.

    ``on_frame_sent`` is called once after each DATA, when it is written or dropped.
    """

    def __init__(self, write: Callable[[memoryview], int], peer: str) -> None:
        self._write = write
        self._peer = peer
        self._outbox = Outbox()
        self._owes_sent = False
        self.on_frame_sent: Callable[[], None] = lambda: None

    @property
    def is_empty(self) -> bool:
        """Whether everything was written."""
        return not self._outbox.peek()

    def put(self, kind: Kind, message: bytes) -> None:
        """Let ``message`` wait for ``flush``, in place of an older one of its kind."""
        log.debug("to the %s: %s, %d bytes", self._peer, kind.name, len(message))
        self._outbox.put(kind, message)
        self._owes_sent = self._owes_sent or kind is Type.DATA

    def drop_waiting(self) -> None:
        """Forget the messages of a stream that has ended; one that was begun is finished."""
        self._outbox.drop_waiting()
        self._settle()

    def flush(self) -> None:
        """Write what can be written now; to be called again when the channel is writable."""
        while data := self._outbox.peek():
            count = self._write(data)
            if not count:
                break
            self._outbox.advance(count)
        self._settle()

    def _settle(self) -> None:
        if self._owes_sent and not self._outbox.has_frame:
            self._owes_sent = False
            self.on_frame_sent()
