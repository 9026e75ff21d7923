"""Cuts a byte stream into messages with an 8-byte header, however the bytes arrive."""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sessiond.errors import ProtocolError

# spice-protocol 0.14.3, spice/stream-device.h: StreamDevHeader.
_HEADER = struct.Struct("<BBHI")
HEADER_SIZE = _HEADER.size
PROTOCOL_VERSION = 1


class Header(NamedTuple):
    """What precedes each body: a message type and the number of body bytes that follow."""

    type: int
    size: int

    def pack(self) -> bytes:
        """Return the 8 bytes of the wire."""
        return _HEADER.pack(PROTOCOL_VERSION, 0, self.type, self.size)


class MessageBuffer:
    """Collects bytes and yields whole ``(header, body)`` pairs.

    ``check(header)`` is called as soon as the header is complete, before any of its body is
    kept: it raises ProtocolError for a body that the caller would not accept, and so bounds the
    memory that a peer can make us hold. After an error every further call raises it again.
    """

    def __init__(self, check: Callable[[Header], None]) -> None:
        self._check = check
        self._bytes = bytearray()
        self._header: Header | None = None
        self._error: ProtocolError | None = None

    @property
    def is_between_messages(self) -> bool:
        """Whether nothing of an unfinished message is held."""
        return not self._bytes and self._header is None

    def feed(self, data: bytes) -> Iterator[tuple[Header, bytes]]:
        """Add ``data`` and yield each message that it completes.

        Raises ProtocolError at the message that is wrong, after those before it were yielded.
        """
        if self._error:
            raise self._error
        self._bytes += data
        try:
            while (message := self._next_message()) is not None:
                yield message
        except ProtocolError as error:
            self._error = error
            self._bytes.clear()
            raise

    def _next_message(self) -> tuple[Header, bytes] | None:
        if self._header is None:
            if len(self._bytes) < HEADER_SIZE:
                return None
            version, _padding, kind, size = _HEADER.unpack_from(self._bytes)
            if version != PROTOCOL_VERSION:
                raise ProtocolError(f"protocol version {version} instead of {PROTOCOL_VERSION}")
            header = Header(kind, size)
            self._check(header)
            del self._bytes[:HEADER_SIZE]
            self._header = header
        if len(self._bytes) < self._header.size:
            return None
        header, self._header = self._header, None
        body = bytes(memoryview(self._bytes)[: header.size])
        del self._bytes[: header.size]
        return header, body
