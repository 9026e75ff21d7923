"""Cuts a byte stream into messages with an 8-byte header, however the bytes arrive."""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sessiond.errors import ProtocolError

# spice-protocol 0.14.3, spice/stream-device.h: StreamDevHeader.
_HEADER = struct.Struct("<BBHI")
HEADER_SIZE = _HEADER.size
PROTOCOL_VERSION = 1


Bytes = bytes | bytearray | memoryview


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
        self._rest = bytearray()
        self._error: ProtocolError | None = None

    @property
    def is_between_messages(self) -> bool:
        """Whether nothing of an unfinished message is held."""
        return not self._rest

    def feed(self, data: Bytes) -> Iterator[tuple[Header, bytes]]:
        """Add ``data``, which is not kept, and return the messages that it completes.

        The iterator raises ProtocolError at the message that is wrong, after those before it.
        """
        return ((header, bytes(whole[HEADER_SIZE:])) for header, whole in self.feed_whole(data))

    def feed_whole(self, data: Bytes) -> Iterator[tuple[Header, Bytes]]:
        """Do as ``feed``, but with each message's header in front of its body: to be passed on.

        What came in one piece is not copied: it is a part of ``data``, and lives as long.
        """
        if self._error:
            raise self._error
        return self._hand_out(self._take(data))

    def _hand_out(self, found: list[tuple[Header, Bytes]]) -> Iterator[tuple[Header, Bytes]]:
        yield from found
        if self._error:
            raise self._error

    def _take(self, data: Bytes) -> list[tuple[Header, Bytes]]:
        """Return what is complete, and keep the rest."""
        found: list[tuple[Header, Bytes]] = []
        begin = 0
        is_held = bool(self._rest)
        self._rest += data if self._rest else b""
        with memoryview(self._rest or data) as view:
            try:
                while header := self._header_at(view, begin):
                    end = begin + HEADER_SIZE + header.size
                    if end > len(view):
                        break
                    whole = bytes(view[begin:end]) if is_held else view[begin:end]
                    found.append((header, whole))
                    begin = end
            except ProtocolError as error:
                self._error = error
                begin = len(view)
            if not self._rest:
                self._rest += view[begin:]
                return found
        del self._rest[:begin]  # in place: what is held of a long message is not copied each time
        return found

    def _header_at(self, view: memoryview, begin: int) -> Header | None:
        """Return the checked header there, None if it is not complete."""
        if len(view) - begin < HEADER_SIZE:
            return None
        version, _padding, kind, size = _HEADER.unpack_from(view, begin)
        if version != PROTOCOL_VERSION:
            raise ProtocolError(f"protocol version {version} instead of {PROTOCOL_VERSION}")
        header = Header(kind, size)
        self._check(header)
        return header
