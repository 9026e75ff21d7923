"""The legacy helper protocol, version 1: one message out of a session, and no answer.

A version byte, then fields in any order: type, length, that many bytes. Nothing says where the
message ends: its sender stops, or hangs up. Who sent it and when it has ended is for others to
find out; here are the bytes and what may be in them.

The protocol's author takes any value, and a message without fields. Here both must be what an
honest helper sends, since they come from whoever can open a socket.
"""

import enum
import re
from dataclasses import dataclass
from typing import Final

from sessiond.errors import LocalProtocolError, ProtocolError

# spice-streaming-agent's daemon patch ("daemon_socket_name"). An abstract name is all of its bytes:
# one NUL more at the end is another name.
NAME: Final = b"\0spice-streaming-agent-daemon"
VERSION: Final = 1
MAX_MESSAGE: Final = 1024  # bytes; the bound that the patch documents, twice what has a meaning
MAX_VALUE: Final = 255  # bytes; the length is one byte, so no longer path can arrive

# Xlib also connects to other hosts and through other transports: no daemon could follow there.
_DISPLAY: Final = re.compile(r"(?:unix)?(:[0-9]{1,5}(?:\.[0-9]{1,5})?)")
_SHOWN: Final = 40  # characters of a refused DISPLAY in an error: enough for any honest one


class Field(enum.IntEnum):
    """The types of fields."""

    DISPLAY = 1
    XAUTHORITY = 2


@dataclass(frozen=True, slots=True)
class Record:
    """What a helper tells of its session.

    ``display`` is ``:N`` or ``:N.S``. ``xauthority`` is the absolute path of a file, "" for none.
    """

    display: str
    xauthority: str


class RecordReader:
    """Collects one message, however its bytes arrive.

    What cannot become right is refused at once, and then every further call raises the same
    error. ``needs_xauthority``: a message without a file's name is not whole.
    """

    def __init__(self, *, needs_xauthority: bool = True) -> None:
        self._needs_xauthority = needs_xauthority
        self._size = 0
        self._rest = bytearray()  # the field that is not whole yet, at most 2 + MAX_VALUE bytes
        self._values: dict[Field, str] = {}
        self._error: ProtocolError | None = None
        self._is_finished = False

    @property
    def is_complete(self) -> bool:
        """Whether what is there is a whole message; more fields could follow."""
        return not (self._error or self._missing())

    def feed(self, data: bytes) -> None:
        """Add ``data``. Raises ProtocolError for what no further bytes could make right.

        That is over MAX_MESSAGE in all, another version or type, a value that is refused, and
        anything after ``finish``.
        """
        if self._error:
            raise self._error
        try:
            self._take(data)
        except ProtocolError as error:
            self._error = error
            raise

    def finish(self) -> Record:
        """Return the record: no more bytes will come. Raises ProtocolError if it is not whole."""
        if not self._error and (missing := self._missing()):
            self._error = ProtocolError(missing)
        if self._error:
            raise self._error
        self._is_finished = True
        return Record(self._values[Field.DISPLAY], self._values.get(Field.XAUTHORITY, ""))

    def _take(self, untrusted: bytes) -> None:
        if self._is_finished and untrusted:
            raise ProtocolError("bytes after the message")
        begin = 0 if self._size else 1
        self._size += len(untrusted)
        if self._size > MAX_MESSAGE:
            raise ProtocolError(f"a message of over {MAX_MESSAGE} bytes")
        if untrusted and begin and untrusted[0] != VERSION:
            raise ProtocolError(f"version {untrusted[0]} instead of {VERSION}")
        self._rest += untrusted[begin:]
        while self._rest:
            field = _known(self._rest[0])
            end = 2 + (self._rest[1] if len(self._rest) > 1 else 0)
            if len(self._rest) < end:
                break
            self._values[field] = _checked(field, bytes(self._rest[2:end]))
            del self._rest[:end]

    def _missing(self) -> str:
        """Return what a whole message lacks, "" for nothing."""
        if not self._size:
            return "an empty message"
        if len(self._rest) == 1:
            return "one stray byte at the end"
        if self._rest:
            field, length, *value = self._rest
            return (
                f"a length beyond the end: {Field(field).name} with {len(value)} of {length} bytes"
            )
        if not self._values.get(Field.DISPLAY):
            return "no DISPLAY"
        if self._needs_xauthority and not self._values.get(Field.XAUTHORITY):
            return "no XAUTHORITY"
        return ""


def parse_record(message: bytes, *, needs_xauthority: bool = True) -> Record:
    """Return the record of a whole message. Raises ProtocolError, which says what is wrong.

    Of two fields of one type the last holds, but each has to be right. An empty one is none.
    """
    reader = RecordReader(needs_xauthority=needs_xauthority)
    reader.feed(message)
    return reader.finish()


def pack_record(record: Record) -> bytes:
    """Return the message. Raises LocalProtocolError for a record that would be refused."""
    message = bytearray([VERSION])
    for field, text in ((Field.DISPLAY, record.display), (Field.XAUTHORITY, record.xauthority)):
        value = text.encode(errors="surrogatepass")  # what is no text is refused below
        if len(value) > MAX_VALUE:
            raise LocalProtocolError(f"{field.name} of {len(value)} bytes, over {MAX_VALUE}")
        if value:
            message += bytes([field, len(value)]) + value
    try:
        parse_record(bytes(message), needs_xauthority=False)
    except ProtocolError as error:
        raise LocalProtocolError(str(error)) from None
    return bytes(message)


def _known(untrusted_type: int) -> Field:
    try:
        return Field(untrusted_type)
    except ValueError:
        raise ProtocolError(f"a field of the unknown type {untrusted_type}") from None


def _checked(field: Field, untrusted: bytes) -> str:
    """Return the value as text: what else reads it are logs, JSON and D-Bus."""
    try:
        text = untrusted.decode()
    except UnicodeDecodeError:
        raise ProtocolError(f"{field.name} is not UTF-8") from None
    if not text.isprintable():
        raise ProtocolError(f"{field.name} with NUL, control or other unprintable characters")
    if not text:
        return ""
    if field is Field.DISPLAY:
        match = _DISPLAY.fullmatch(text)
        if not match:
            raise ProtocolError(f"DISPLAY {text[:_SHOWN]!r} is not a local one such as ':0'")
        return match[1]
    if not text.startswith("/"):
        raise ProtocolError("XAUTHORITY is not an absolute path")
    return text
