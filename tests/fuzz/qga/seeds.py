"""Where fuzzing begins: the format's worked examples, and the words of its texts.

An input is ``CHOICES`` bytes that say how to cut it, then what the host sends. They are two sizes
of chunks, less SMALLEST.
"""

from typing import Final

PIECES: Final = (
    *(bytes([byte]) for byte in b"{}[]:,\"'\\ \n\t\r-.A%\0\1\x7f\x80\xfd\xfe\xff"),
    *(b"0", b"1", b"17", b"1.5", b"0e5", b"1E3", b"e", b"1e999", b"9223372036854775807"),
    *(b"-9223372036854775809", b"18446744073709551615", b"18446744073709551616"),
    *(b"true", b"null", b"nul", b"NaN", b"\\n", b"\\'", b"\\x", b"\\u12", b"\\u0041", b"\\u0000"),
    *(b"\\ud83d\\ude00", b"\\ud800", b"\\ude00", b"\\ufffe", b"\xc3\xa9", b"\xc0\x80"),
    *(b"\xed\xa0\x80", b"\xef\xbf\xbe", b"\xf0\x9f\x98\x80"),
    *(b'"a"', b"'b'", b'"execute"', b'"arguments"', b'"id"', b'"return"', b'"error"'),
    *(b'"x-virtagent-username"', b'"guest-ping"', b'{"execute":"guest-ping"}\n', b"}}"),
    *(b'{"execute":"guest-ping","id":', b"{'execute':'guest-sync','arguments':{'id':"),
    *(b'{"return":', b'{"error":{"class":"C","desc":"d"},"id":', b"[" * 31, b"]" * 31),
)
"""What the format is made of, and what it is not: for inputs by chance."""

CHOICES: Final = 2
SMALLEST: Final = 4  # bytes of a chunk; smaller ones cost more than they find
LIMIT: Final = 96  # bytes of a text: small, so that short inputs get over it
MAX_INPUT: Final = CHOICES + 2 * LIMIT
TOKENS: Final = tuple(piece for piece in PIECES if len(piece) > 1)

_STREAMS: Final = (
    b'\xff{"execute":"guest-sync-delimited","arguments":{"id":1234}}\n',
    b'{"execute":"guest-ping","id":"abc"}\r\n{"execute":"guest-nope"}',
    b"{'execute':'a','id':[null,true,-1.5e3,\"\\u00e9\\n\"]}",
    b'{"execute":"b","x-virtagent-username":"alice","id":4}\n',
    b'{"execute":"virtagent-call","arguments":{"username":"u","execute":"a","arguments":{}}}',
    b'{"return":{},"id":"us"}{"error":{"class":"C","desc":"d"},"x-virtagent-username":"u"}',
    b'{"execute":"a","arguments":{"x":"\\ud83d\\ude00\xc3\xa9","y":18446744073709551616}}',
    b'{"a":1,"a":2}[1 2]{1:2}{"a" 1}nul "\\x" "\xed\xa0\x80" "\\ud800" 1e999 012 0e5 {]',
    b'{"execute":1}{"x":1}{"arguments":[]}[]17 {"execute":"a","x-virtagent-username":""}',
    b"[" * 40 + b"]\n{}",
    b'{"execute":"' + b"x" * LIMIT + b'"}\n{}',
)
SEEDS: Final = tuple(
    sizes + stream for sizes in (b"\xff\xff", b"\0\0", b"\x06\x02") for stream in _STREAMS
)
