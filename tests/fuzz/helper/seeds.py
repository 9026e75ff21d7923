"""Where fuzzing begins: the protocol's worked examples, and the words of its values.

An input is ``CHOICES`` bytes that say how to run it, then a message. They are two sizes of chunks,
less one, and flags: whether the message has to name a file, and whether what follows is not the
message itself but its fields, one a line, without their lengths.
"""

from typing import Final

CHOICES: Final = 3
NEEDS_XAUTHORITY: Final = 1
FRAMED: Final = 2
MAX_INPUT: Final = CHOICES + 1024 + 64  # bytes; some over the protocol's limit
TOKENS: Final = (
    b":0",
    b"unix:",
    b".1",
    b"/a",
    b"\1\2:0",
    b"\2\2/a",
    b"\1\0",
    b"\2\0",
    b"\xc3\xa9",
    b"\xd9\xa3",
)

_MESSAGES: Final = (
    "",
    "01",
    "0101023a30021d2f72756e2f757365722f313030302f67646d2f58617574686f72697479",
    "0101023a31",
    "0101023a3001023a35",
    "0201023a30",
    "0101053a30",
    "0101023a3002",
    "0101023a30030178",
    "0101073a30006576696c",
    "0101" + b"\x08unix:1.0".hex() + "0202" + b"/a".hex(),
    "0101023a30" + "02022f61" * 255,  # right, but for its size
)
_FIELDS: Final = (
    b"\1:0\n\2/a",
    b"\1unix:12.3\n\1:4",
    b"\2/\xc3\xa9\n\1:0",
    b"\1vm:0\n\2a\n\3",
    b"\1:\xd9\xa3",
)
SEEDS: Final = (
    *(
        choices + bytes.fromhex(message)
        for choices in (b"\0\0\0", bytes([255, 2, NEEDS_XAUTHORITY]))
        for message in _MESSAGES
    ),
    *(bytes([0, 0, FRAMED | NEEDS_XAUTHORITY]) + fields for fields in _FIELDS),
    *(bytes([2, 9, FRAMED]) + fields for fields in _FIELDS),
)
