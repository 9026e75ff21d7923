"""One helper's connection: from its acceptance to a record, or to the reason why there is none."""

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass

from sessiond.errors import ProtocolError
from sessiond.helper.keep import KeptConnection
from sessiond.helper.origin import Origin
from sessiond.transport.drops import Drops, may_pass_descriptors, read_nowait
from sessiond.wire.helper import MAX_MESSAGE, Record, RecordReader

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many helpers are heard at once, and for how many seconds."""

    connections: int = 63  # as in the older daemon; each costs a descriptor
    per_uid: int = 8  # of those: one user's silence must not keep the others out
    deadline: float = 5.0  # for the whole message
    silence: float = 0.2  # after a whole one, of a helper that closes only once we do


class Connection:
    """Owns an accepted socket and calls ``on_end(connection, outcome)`` once, or never if closed.

    The outcome is the record, or the reason of a refusal; the socket is still open then, and
    ``close`` is the helper's acknowledgement. Every hang-up ends the connection as soon as it is
    read: so waiting level-triggered cannot spin, and one read a turn of the loop is fair.
    """

    def __init__(
        self,
        sock: socket.socket,
        origin: Origin,
        reader: RecordReader,
        *,
        limits: Limits,
        drops: Drops,
        on_end: Callable[["Connection", Record | str], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.origin = origin
        self._sock = sock
        self._reader = reader
        self._limits = limits
        self._drops = drops
        self._on_end = on_end
        self._received = b""
        self._silence: asyncio.TimerHandle | None = None
        self._deadline = self._loop.call_later(limits.deadline, self._on_deadline)
        self._loop.add_reader(sock, self._on_readable)

    @property
    def may_pass_descriptors(self) -> bool:
        """Whether the helper can make closing it take long (``drops``)."""
        return may_pass_descriptors(self._sock)

    def hand_over(self) -> KeptConnection:
        """Hear it no more; the socket, and what it has said, are the caller's."""
        self._stop()
        sock = socket.socket(fileno=self._sock.detach())
        return KeptConnection(sock, self.origin.start, self._received)

    def close(self) -> None:
        """Close it, without a word to ``on_end``; a second call does nothing."""
        self._stop()
        if self._sock.fileno() >= 0:
            self._drops.close(self._sock)

    def _on_readable(self) -> None:
        try:
            data = read_nowait(self._sock, MAX_MESSAGE + 1)
        except BlockingIOError:
            return
        except ProtocolError as error:
            self._end(str(error))
            return
        except OSError as error:
            self._end(f"its connection failed: {error.strerror}")
            return
        if not data:
            self._finish()
            return
        self.feed(data)

    def feed(self, data: bytes) -> None:
        """Take what it says; ``on_end`` may be called at once."""
        self._received += data
        try:
            self._reader.feed(data)
        except ProtocolError as error:
            self._end(str(error))
            return
        # What is a message already may get more fields.
        if self._silence:
            self._silence.cancel()
        self._silence = self._loop.call_later(self._limits.silence, self._on_silence)

    def _on_silence(self) -> None:
        if self._reader.is_complete:
            self._finish()

    def _on_deadline(self) -> None:
        self._end(f"it did not finish within {self._limits.deadline:g} s")

    def _finish(self) -> None:
        log.debug("uid %d: a message of %d bytes", self.origin.uid, len(self._received))
        try:
            record = self._reader.finish()
        except ProtocolError as error:
            self._end(str(error))
            return
        self._end(record)

    def _end(self, outcome: Record | str) -> None:
        self._stop()
        self._on_end(self, outcome)

    def _stop(self) -> None:
        self._deadline.cancel()
        if self._silence:
            self._silence.cancel()
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
