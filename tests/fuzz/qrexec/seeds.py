"""Where fuzzing begins: the protocol's worked examples, and the words of its command lines.

An input is ``CHOICES`` bytes that say how to run it, then what the peer sends. They are two sizes
of chunks, less one, and a way: its low bits are the index of one of ``READERS``, ``GREETED`` says
that both HELLOs were said before, the version being in the two bits above, and ``FRAMED`` that what
follows is not the messages themselves but one a line, the first byte for the type, without lengths.
"""

from typing import Final

CHOICES: Final = 3
READERS: Final = ("agent", "daemon", "service", "client", "caller", "command line")
GREETED: Final = 8
VERSION_SHIFT: Final = 4  # 0 and 1 are version 4
FRAMED: Final = 64
MAX_INPUT: Final = CHOICES + 512
TYPES: Final = (
    *range(0x190, 0x194), *range(0x200, 0x204), *range(0x210, 0x214), 0x300, 0x100,
)  # fmt: skip
"""Every type of a message, and one that does not exist."""

TOKENS: Final = (
    *(kind.to_bytes(4, "little") for kind in TYPES),
    *(size.to_bytes(4, "little") for size in (0, 1, 2, 4, 8, 9, 32, 40, 128, 161, 4096, 65536)),
    *(b"QUBESRPC ", b"nogui:", b" name ", b" keyword ", b"user:", b"+arg", b"SOCKET12"),
    *(bytes(32), bytes(64)),
)

_AGENT: Final = (
    "00020000270000002b000000000400006e6f626f64793a515542455352504320746573742e4563686f20646f6d5800",
    "01020000140000002b000000000400006e6f626f64793a7472756500",
    "02020000280000002b00000001040000534f434b45543132" + "00" * 24,
    "0302000020000000534f434b45543132" + "00" * 24,
)
_NAMES: Final = b"target".ljust(64, b"\0") + b"SOCKET12".ljust(32, b"\0")
_OLD: Final = b"qubes.Test".ljust(64, b"\0") + b"target".ljust(32, b"\0") + _NAMES[64:]
_DAEMON: Final = (
    "11020000080000002b00000000040000",
    "1002000080000000" + _OLD.hex(),
    "1202000062000000" + (_NAMES + b"a\0").hex(),
    "13020000a2000000" + (bytes(64) + _NAMES + b"a\0").hex(),
)
_DATA: Final = (
    "9001000006000000646174612031" + "9001000000000000",
    "91010000020000006869" + "92010000020000006572" + "9101000000000000" + "9201000000000000",
    "930100000400000003000000",
    "9301000000000000" + "91010000020000006869",
    "9001000001100000",
)
_HELLOS: Final = tuple(f"0003000004000000{version:02x}000000" for version in range(1, 6))
_LINES: Final = (
    b"nobody:QUBESRPC test.Echo+x domX",
    b"user:nogui:QUBESRPC a b name dom0",
    b"u:QUBESRPC a b keyword adminvm",
    b"u:ls -l",
    b"u",
)
_FRAMED: Final = (
    b"\0data\n\0\n\1x\n\3\1\0\0\0",
    b"\4\0\0\0\0\1\0\0\0u:a\0\n\7" + bytes(32),
    b"\x0a"
    + _NAMES
    + b"s\0\n\x0b"
    + bytes(64)
    + _NAMES
    + b"s\0\n\x09"
    + bytes(8)
    + b"\n\x08"
    + _OLD,
    b"\x0c\4\0\0\0\n\x0d",
)


def _ways() -> tuple[int, ...]:
    greeted = tuple(GREETED | version << VERSION_SHIFT for version in (0, 2, 3))
    return tuple(reader | way for reader in range(5) for way in (0, *greeted))


SEEDS: Final = (
    *(
        bytes([255, 255, way]) + bytes.fromhex(message)
        for way in _ways()
        for message in (*_AGENT, *_DAEMON, *_DATA, *_HELLOS)
    ),
    *(bytes([0, 6, way | FRAMED]) + lines for way in _ways() for lines in _FRAMED),
    *(bytes([0, 0, READERS.index("command line")]) + line for line in _LINES),
)
