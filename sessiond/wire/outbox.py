"""What waits to be written to the port or the link: at most one message of each kind, in order.

Pure. The message that was begun is always finished; of what waits behind it only the newest of
each kind is kept, so that a slow host gets the newest picture and not a queue of old ones.
"""

from typing import Final

from sessiond.wire.buffer import Bytes
from sessiond.wire.device import Type
from sessiond.wire.link import LinkType

Kind = Type | LinkType

# A host learns of the display and the size before anything that refers to them, and of the
# cursor's shape before its place.
_ORDER: Final[tuple[Kind, ...]] = (
    Type.CAPABILITIES,
    LinkType.READY,
    LinkType.SERIAL,
    LinkType.UNAVAILABLE,
    Type.DEVICE_DISPLAY_INFO,
    Type.FORMAT,
    Type.QUALITY_INDICATOR,
    Type.CURSOR_SET,
    Type.CURSOR_MOVE,
    Type.DATA,
    LinkType.STATS,
    LinkType.FAILED,
)
# What is not a stream's own outlives it.
_LASTING: Final = frozenset({
    Type.CAPABILITIES, LinkType.READY, LinkType.STATS, LinkType.FAILED,
})  # fmt: skip


class Outbox:
    """Packed messages; ``peek`` and ``advance`` are for the one writer."""

    def __init__(self) -> None:
        self._waiting: dict[Kind, Bytes] = {}
        self._current = memoryview(b"")
        self._current_type: Kind = Type.INVALID
        self.size = 0  # of the message that ``peek`` returns, or the rest of, in bytes

    @property
    def has_frame(self) -> bool:
        """Whether a frame waits or is being written."""
        return Type.DATA in self._waiting or (
            bool(self._current) and self._current_type is Type.DATA
        )

    def resume(self, rest: bytes) -> None:
        """Begin with the rest of a message that somebody else has begun."""
        self._current, self._current_type = memoryview(rest), Type.DATA
        self.size = len(rest)

    def put(self, kind: Kind, message: Bytes) -> None:
        """Let ``message`` wait, in place of an older one of its kind.

        A FORMAT also replaces the frame that waits: that one has the size of the old FORMAT.
        It is not copied: see ``keep``. Raises ValueError for a kind that guests do not send.
        """
        if kind not in _ORDER:
            raise ValueError(f"{kind.name} is not a guest's to send")
        if kind is Type.FORMAT:
            self._waiting.pop(Type.DATA, None)
        self._waiting[kind] = message

    def keep(self) -> None:
        """Copy what is not written yet of borrowed memory, which is about to change."""
        for kind, message in self._waiting.items():
            self._waiting[kind] = bytes(message)  # one that is bytes is no copy
        if not isinstance(self._current.obj, bytes):
            self._current = memoryview(bytes(self._current))

    def drop_waiting(self) -> None:
        """Forget the stream's messages, but not one that was begun, nor answers to the peer."""
        for kind in _ORDER:
            if kind not in _LASTING:
                self._waiting.pop(kind, None)

    def peek(self) -> memoryview:
        """Return the bytes to be written next; empty when there is nothing to do."""
        if self._waiting and not self._current:
            for kind in _ORDER:
                if kind in self._waiting:
                    self._current = memoryview(self._waiting.pop(kind))
                    self._current_type = kind
                    self.size = len(self._current)
                    break
        return self._current

    def advance(self, count: int) -> None:
        """Take note that the first ``count`` bytes of ``peek`` were written."""
        self._current = self._current[count:]
