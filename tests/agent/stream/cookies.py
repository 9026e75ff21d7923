"""Cookie files, as display managers write them."""

import struct
from pathlib import Path
from typing import Final

MAGIC: Final = b"MIT-MAGIC-COOKIE-1"
RIGHT: Final = bytes(range(16))
WRONG: Final = bytes(16)
LOCAL: Final = 256
WILD: Final = 65535


def record(
    data: bytes = RIGHT, *, family: int = WILD, address: bytes = b"", number: bytes = b"",
    name: bytes = MAGIC,
) -> bytes:  # fmt: skip
    """Return one record of a cookie file."""
    parts = (struct.pack(">H", len(part)) + part for part in (address, number, name, data))
    return struct.pack(">H", family) + b"".join(parts)


def write(path: Path, *records: bytes) -> str:
    """Write a cookie file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(records))
    return str(path)
