"""Where fuzzing begins: what compositors told when a screen was captured, and what they may not.

An input is ``CHOICES`` bytes that say how to run it, then what the compositor sends. They are two
sizes of chunks, less one, and flags: whether what follows is not that itself but its messages, each
with one byte for the object, one for the opcode, one for the length of its body, and the body.
"""

import struct
from typing import Final

MAX_MESSAGE: Final = 4096  # bytes, the protocol's limit; the decoder is not loaded here
CHOICES: Final = 3
FRAMED: Final = 1
MAX_INPUT: Final = CHOICES + MAX_MESSAGE + 64  # bytes; some over the protocol's limit
# The objects that there are beside the display, by their numbers.
REGISTRY, WORDS, CALLBACK, GONE = 2, 3, 4, 5


def _text(text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("=I", len(data)) + data + bytes(-len(data) % 4)


def _framed(number: int, opcode: int, body: bytes = b"") -> bytes:
    return bytes([number, opcode, len(body)]) + body


def _whole(number: int, opcode: int, body: bytes = b"") -> bytes:
    return struct.pack("=II", number, (8 + len(body)) << 16 | opcode) + body


_WORD: Final = struct.Struct("=I")
_MESSAGES: Final = (
    (REGISTRY, 0, _WORD.pack(23) + _text("zwlr_screencopy_manager_v1") + _WORD.pack(3)),
    (REGISTRY, 1, _WORD.pack(38)),
    (
        WORDS,
        0,
        struct.pack("=iI", -1, 7) + _text("HEADLESS-1") + struct.pack("=I4xiII", 4, 384, 1, 9),
    ),
    (WORDS, 1, _WORD.pack(5)),
    (WORDS, 2, b""),
    (CALLBACK, 0, _WORD.pack(4)),
    (GONE, 0, _WORD.pack(4)),
    (1, 1, _WORD.pack(GONE)),
    (1, 1, _WORD.pack(CALLBACK)),
    (1, 0, struct.pack("=II", WORDS, 2) + _text("invalid format")),
)
TOKENS: Final = (
    *(_WORD.pack(number) for number in (1, WORDS, CALLBACK, GONE)),
    b"\x0c\x00",
    b"\xff\xff\xff\xff",
    _text("a"),
    _text("\x1b[1m"),
)
SEEDS: Final = (
    bytes(CHOICES),
    *(bytes([255, 255, 0]) + _whole(*message) for message in _MESSAGES),
    *(bytes([2, 9, FRAMED]) + _framed(*message) for message in _MESSAGES),
    bytes([11, 3, 0]) + b"".join(_whole(*message) for message in _MESSAGES),
    bytes([7, 0, FRAMED]) + b"".join(_framed(*message) for message in _MESSAGES),
    bytes([0, 0, 0]) + struct.pack("=II", WORDS, (MAX_MESSAGE + 4) << 16),
    bytes([0, 0, 0]) + struct.pack("=II", 99, 8 << 16),
    bytes([0, 0, 0]) + struct.pack("=II", WORDS, 9 << 16),
)
