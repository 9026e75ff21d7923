"""What holds for every message that a helper could send.

A message is a ``Record`` or a ``ProtocolError`` and nothing else, however it is cut. A record can
be packed, and is the same when it is parsed again. What ``pack_record`` packs parses to what it
was given, and it refuses the rest with ``LocalProtocolError``.
"""

from collections.abc import Iterator
from enum import StrEnum
from itertools import cycle

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.helper import (
    MAX_MESSAGE,
    MAX_VALUE,
    Record,
    RecordReader,
    pack_record,
    parse_record,
)
from tests.fuzz.helper.seeds import CHOICES, FRAMED, NEEDS_XAUTHORITY


class Outcome(StrEnum):
    """What a message may be."""

    RECORD = "record"
    REFUSAL = "refusal"


def check(data: bytes) -> Outcome:
    """Return what the message in ``data`` is. Raises AssertionError, or what should not be."""
    choices, message = data[:CHOICES].ljust(CHOICES, b"\0"), data[CHOICES:]
    needs_xauthority = bool(choices[2] & NEEDS_XAUTHORITY)
    if choices[2] & FRAMED:
        message = _framed(message)
    whole = _parsed(message, needs_xauthority=needs_xauthority)
    reader = RecordReader(needs_xauthority=needs_xauthority)
    assert whole == _read(reader, _chunks(message, choices[0] + 1, choices[1] + 1))
    _check_packing(message)
    if whole is None:
        return Outcome.REFUSAL
    _check_record(whole, message, needs_xauthority=needs_xauthority)
    return Outcome.RECORD


def _framed(lines: bytes) -> bytes:
    """Make a message whose lengths are right: otherwise few mutations get as far as the values."""
    message = b"\1"
    for line in lines.split(b"\n"):
        value = line[1 : 1 + MAX_VALUE]
        message += line[:1] + (bytes([len(value)]) if line else b"") + value
    return message


def _parsed(message: bytes, *, needs_xauthority: bool) -> Record | None:
    try:
        return parse_record(message, needs_xauthority=needs_xauthority)
    except ProtocolError:
        return None


def _read(reader: RecordReader, chunks: Iterator[bytes]) -> Record | None:
    record = None
    try:
        for chunk in chunks:
            reader.feed(chunk)
        is_complete = reader.is_complete
        record = reader.finish()
        assert is_complete
        reader.feed(b"\1")
    except ProtocolError as error:
        _check_dead(reader, str(error))
        return record
    raise AssertionError("a byte after the message was taken")


def _check_dead(reader: RecordReader, text: str) -> None:
    assert not reader.is_complete
    for use in (reader.finish, lambda: reader.feed(b"")):
        again = ""
        try:
            use()
        except ProtocolError as error:
            again = str(error)
        assert again == text


def _chunks(message: bytes, *sizes: int) -> Iterator[bytes]:
    begin = 0
    for size in cycle(sizes):
        if begin >= len(message):
            return
        yield message[begin : begin + size]
        begin += size


def _check_record(record: Record, message: bytes, *, needs_xauthority: bool) -> None:
    """Hold a record against the protocol's words, by other means than the decoder's."""
    assert len(message) <= MAX_MESSAGE
    assert message[0] == 1
    number, dot, screen = record.display.removeprefix(":").partition(".")
    assert record.display[0] == ":"
    assert number.isascii()
    assert number.isdigit()
    assert len(number) <= 5
    assert not dot or (screen.isascii() and screen.isdigit())
    assert record.display.encode() in message
    assert record.xauthority.encode() in message
    assert record.xauthority.startswith("/") or not (record.xauthority or needs_xauthority)
    assert min((record.display + record.xauthority).encode()) >= 32
    assert parse_record(pack_record(record), needs_xauthority=needs_xauthority) == record


def _check_packing(values: bytes) -> None:
    """Pack any text at all: the first byte says where the first of two values ends."""
    text = values[1:].decode(errors="surrogateescape")
    middle = values[0] if values else 0
    meant = Record(text[:middle], text[middle:])
    try:
        packed = pack_record(meant)
    except LocalProtocolError:
        return
    assert len(packed) <= MAX_MESSAGE
    found = parse_record(packed, needs_xauthority=False)
    assert found == Record(meant.display.removeprefix("unix"), meant.xauthority)
