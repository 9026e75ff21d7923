"""The parts of a baseline JPEG picture: its header, and the entropy-coded segments of its scan.

Pure: bytes in, bytes out. Section numbers are those of ITU-T T.81.
"""

import struct
from collections.abc import Iterator
from typing import Final

MAX_SIDE: Final = 0xFFFF  # pixels (B.2.2)

# Table B.1
_SOF0: Final = 0xC0
_SOS: Final = 0xDA
_DRI: Final = 0xDD
_RST: Final = tuple(bytes((0xFF, 0xD0 + number)) for number in range(8))
_EOI: Final = b"\xff\xd9"


def split(jpeg: bytes, count: int) -> tuple[bytes, list[bytes]]:
    """Return the header, up to the scan's first byte, and the COUNT segments of the scan.

    ValueError when there are not as many.
    """
    start = 2  # behind SOI
    for _marker, part in _parts(jpeg):
        start += len(part)
    header = jpeg[:start]
    segments = []
    # In a scan 0xFF is followed by 0 unless it begins a marker (F.1.2.3); the markers count to 8.
    for number in range(count - 1):
        end = jpeg.find(_RST[number % 8], start)
        if end < 0:
            raise ValueError(f"a picture has {number} restart markers, not {count - 1}")
        segments.append(jpeg[start:end])
        start = end + 2
    if not jpeg.endswith(_EOI):
        raise ValueError("the picture does not end with EOI")
    segments.append(jpeg[start:-2])
    return header, segments


def header_of(header: bytes, height: int, interval: int) -> bytes:
    """Return HEADER as that of a picture of HEIGHT pixels with INTERVAL MCUs between restarts."""
    parts = [header[:2]]
    for marker, part in _parts(header):
        if marker == _SOS:
            parts.append(struct.pack(">BBHH", 0xFF, _DRI, 4, interval))
        if marker == _SOF0:  # marker, length, precision, height (B.2.2)
            parts.append(part[:5] + height.to_bytes(2, "big") + part[7:])
        elif marker != _DRI:
            parts.append(part)
    return b"".join(parts)


def markers(count: int) -> list[bytes]:
    """Return what follows each of COUNT segments: restarts (E.1.4), and the end of the picture."""
    return [_RST[number % 8] for number in range(count - 1)] + [_EOI]


def _parts(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each marker between SOI and the scan, and its segment from the 0xFF on (B.1.1.4)."""
    at, marker = 2, 0
    while marker != _SOS:
        _, marker, length = struct.unpack_from(">BBH", jpeg, at)
        yield marker, jpeg[at : at + 2 + length]
        at += 2 + length
