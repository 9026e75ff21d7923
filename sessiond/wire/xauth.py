"""The Xauthority file: records of displays and their cookies (libXau, Xau(3)).

All integers are 16 bits, big-endian: family, then address, number, name and data, each with its
length before it. The file has no header and ends where a record ends.
"""

import struct
from dataclasses import dataclass, field
from typing import Final

from sessiond.errors import ProtocolError

MAX_FILE: Final = 64 << 10  # bytes; real ones have a few hundred
NAMES: Final = frozenset(
    {b"MIT-MAGIC-COOKIE-1", b"XDM-AUTHORIZATION-1", b"MIT-KERBEROS-5", b"SUN-DES-1"}
)
LOCAL: Final = 256
WILD: Final = 65535
_U16: Final = struct.Struct(">H")


@dataclass(frozen=True, slots=True)
class Record:
    """One display's cookie; ``number`` is empty for every display."""

    family: int
    address: bytes
    number: bytes
    name: bytes
    data: bytes = field(repr=False)


def parse(data: bytes) -> list[Record]:
    """Return the records. Raises ProtocolError for a file that is too large or cut short."""
    if len(data) > MAX_FILE:
        raise ProtocolError(f"an authority file of over {MAX_FILE} bytes")
    records = []
    at = 0
    while at < len(data):
        fields = []
        try:
            (family,) = _U16.unpack_from(data, at)
            at += 2
            for _ in range(4):
                (length,) = _U16.unpack_from(data, at)
                end = at + 2 + length
                if end > len(data):
                    raise ProtocolError("an authority file that ends within a record")
                fields.append(data[at + 2 : end])
                at = end
        except struct.error:
            raise ProtocolError("an authority file that ends within a record") from None
        records.append(Record(family, *fields))
    return records


def find_cookie(data: bytes, display: str) -> bytes:
    """Return the MIT-MAGIC-COOKIE-1 of local display ``:N``, empty if there is none.

    Raises ProtocolError as ``parse``.
    """
    number = display.removeprefix(":").partition(".")[0].encode()
    for record in parse(data):
        is_local = record.family in {LOCAL, WILD}
        if is_local and record.number in {number, b""} and record.name == b"MIT-MAGIC-COOKIE-1":
            return record.data
    return b""
