"""What is asked of the QEMU guest agent and of ours, and how their answers compare: tables.

Each case is what the host sends. Its answers have to be the same, line by line, in class, text, id
and value, unless the case says otherwise, and why.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator


class Like(enum.Enum):
    """In what the answers are alike."""

    SAME = "in all"
    CLASS = "in all but an error's text: the sheet of texts does not list it"
    SHAPE = "in the names and types of the members of what is returned"


@dataclass(frozen=True, slots=True)
class Case:
    """``chunks`` are sent. ``ours``: our answers, which differ, and ``why`` they do."""

    name: str
    chunks: tuple[bytes, ...]
    like: Like = Like.SAME
    ours: tuple[object, ...] | None = None
    why: str = ""


GENERIC: Final = "GenericError"
NOT_FOUND: Final = "CommandNotFound"

INT: Final = "int"
STR: Final = "str"
# What both have, without guest-exec: the sheet's table of commands.
COMMANDS: Final[dict[str, dict[str, str]]] = {
    "guest-ping": {},
    "guest-sync": {"id": INT},
    "guest-sync-delimited": {"id": INT},
    "guest-get-users": {},
    "guest-get-host-name": {},
    "guest-get-osinfo": {},
    "guest-get-timezone": {},
    "guest-get-time": {},
}
CHANGING: Final = ("guest-get-time", "guest-get-users")  # the time; and utmp is not logind
RIGHT: Final[dict[str, object]] = {INT: 7, STR: "x"}
VALUES: Final[tuple[object, ...]] = (
    *(None, True, False, 0, -1, 1.5, "7", "", [], [7], {}, {"id": 7}),
    *(2**63 - 1, 2**63, 2**64, -(2**63), -(2**63) - 1, 10**30),
)
IDS: Final[tuple[object, ...]] = (
    *VALUES,
    *("\u00e9\U0001f600", "\"\\/\b\f\n\r\t\x7f'", [[[]], {"a": {"b": [None, 0.1]}}], "\0"),
)


def line(command: object, **members: object) -> bytes:
    """Return a request; members by their names."""
    return json.dumps({"execute": command, **members}).encode() + b"\n"


def script() -> Iterator[Case]:
    """Yield every case, all of one connection's, in order."""
    yield from _commands()
    yield from _arguments()
    yield from _members()
    yield from _ids()
    yield from _framing()
    yield from _sentinels()
    yield from _wrong_texts()
    yield from _numbers()
    yield from _strings()
    yield from _differences()


def _commands() -> Iterator[Case]:
    for command, spec in COMMANDS.items():
        arguments = {name: RIGHT[kind] for name, kind in spec.items()}
        like = Like.SHAPE if command in CHANGING else Like.SAME
        yield Case(command, (line(command, arguments=arguments),), like)
        if not spec:
            yield Case(f"{command}, bare", (line(command),), like)
    for command in ("guest-nope", "", "GUEST-PING", "guest-ping ", "guest_ping", "\u00e9", "%s"):
        yield Case(f"unknown command {command!r}", (line(command, id=1),))


def _arguments() -> Iterator[Case]:
    for command, spec in COMMANDS.items():
        right = {name: RIGHT[kind] for name, kind in spec.items()}
        extra = {**right, "z": 1}
        yield Case(f"{command}: one too many", (line(command, arguments=extra),))
        for name in spec:
            for value in (*VALUES, "\u00e9"):
                wrong = {**right, name: value}
                yield Case(f"{command}: {name} = {value!r}", (line(command, arguments=wrong),))
            missing = {"z": 1}
            yield Case(f"{command}: none", (line(command),))
            yield Case(f"{command}: no {name}", (line(command, arguments={}),))
            yield Case(f"{command}: another for {name}", (line(command, arguments=missing),))
            both = {"z": 1, name: "wrong"}
            yield Case(f"{command}: two wrong ones", (line(command, arguments=both),))


def _members() -> Iterator[Case]:
    for value in VALUES:
        text = json.dumps(value).encode()
        yield Case(f"alone: {value!r}", (text + b"\n",))
        yield Case(f"execute {value!r}", (line(value),))
        yield Case(f"arguments {value!r}", (line("guest-ping", arguments=value),))
        yield Case(f"a member more, {value!r}", (line("guest-ping", more=value),))
    for name in ("event", "exec-oob", "Execute", "", "x", "\u00e9", "a'b", "QMP"):
        yield Case(f"only {name!r}", (json.dumps({name: "guest-ping"}).encode(),))
        yield Case(f"also {name!r}", (line("guest-ping", **{name: 1, "id": name}),))
    yield Case("no command, with an id", (b'{"id":5}{"arguments":{},"id":6}',))
    yield Case("no command in a list", (b'[{"execute":"guest-ping"}]',))


def _ids() -> Iterator[Case]:
    for value in IDS:
        for command in ("guest-ping", "guest-nope", "guest-sync"):
            yield Case(f"{command} with id {value!r}", (line(command, id=value),))
        wrong = line("guest-ping", id=value, arguments=[])
        yield Case(f"wrong request with id {value!r}", (wrong,))


PING: Final = b'{"execute":"guest-ping","id":"a"}'
SYNC: Final = b'{"execute": "guest-sync", "arguments": {"id": 12}}'


def _framing() -> Iterator[Case]:
    for at in range(1, len(SYNC)):
        yield Case(f"cut at {at}", (SYNC[:at], SYNC[at:]))
    for name, data in {
        "two on a line": PING + SYNC,
        "five on a line": (PING + b" ") * 5,
        "CRLF": PING + b"\r\n" + SYNC + b"\r\n",
        "blank lines": b"\n\n \t\r\n" + PING + b"\n\n\n" + SYNC,
        "on many lines": SYNC.replace(b" ", b"\r\n\t").replace(b":", b"\n:\n"),
        "single quotes": PING.replace(b'"', b"'") + SYNC.replace(b'"', b"'"),
        "both quotes": b"""{'execute':"guest-ping",'id':'"'}{"execute":'guest-ping',"id":"'"}""",
        "escaped quotes": rb"""{'execute':'guest-ping','id':'\'\"'}""",
        "many": (PING + b"\n" + SYNC + b"\n") * 50,
        "delimited ones": 3 * line("guest-sync-delimited", arguments={"id": 5}),
        "left open": b'{"execute":"guest-ping","id":',
        "left in a string": b'{"execute":"guest-pi',
        "nothing": b"",
    }.items():
        yield Case(name, (data,))
    yield Case("byte by byte", tuple(PING[at : at + 1] for at in range(len(PING))))


def _sentinels() -> Iterator[Case]:
    for at in range(len(PING) + 1):
        yield Case(f"FF at {at}", (PING[:at] + b"\xff" + PING[at:] + b"\n" + PING,))
    for byte in (0, 1, 9, 31, 127, 128, 0xC0, 0xFD, 0xFE):
        for at in (0, 5, 12, len(PING)):
            stray = PING[:at] + bytes([byte]) + PING[at:]
            yield Case(f"byte {byte:#x} at {at}", (stray + b"\n" + PING,))
    yield Case("only FF", (b"\xff" * 5,))
    yield Case("FF and its own line", (b"\xff\n" + PING,))


# Each is followed by a right request: how the rest is read counts, too.
WRONG: Final = (
    *(b"{]", b"[}", b"}", b"]", b":", b",", b"{,}", b"[,]", b"{:}", b"]]}}", b"{[}]", b"[1}"),
    *(b"[1,]", b"[1 2]", b"[1:2]", b'{"a"}', b'{"a":}', b'{"a":1,}', b'{"a" 1}', b'{"a":1 "b":2}'),
    *(b"{1:2}", b"{null:1}", b"{{}:1}", b"{[]:1}", b'{"a":1,"a":1}', b'{"a":{"b":1,"b":2}}'),
    *(b'{"execute":"guest-ping","execute":"guest-ping"}', b'{"id":1,"id":1}'),
    *(b"nul", b"True", b"NaN", b"nan", b"Infinity", b"-Infinity", b"undefined", b"truefalse"),
    *(b"'a", b'"a\n"', b'"a\tb"', b"'a\"", b'"\\x"', b'"\\u12"', b'"\\u 123"', b'"\\', b"'\\'"),
    *(b"%s", b"%d", b"%", b"[%d]", b"/* x */", b"// x", b"#", b"\xef\xbb\xbf", b"A b c , 1"),
    *(b"a1", b"1a", b"1.a", b"-", b"--1", b"+1", b"01", b"1.", b".5", b"1e", b"1e+", b"0x10"),
    *(b"1e5.5", b"0e5", b"[0e5]", b"-0", b"[-0.0e-0]", b'""""', b"''", b'"a""b"', b"{}{}", b"[]"),
    b'{"a": [1, {"b": tru}]}',
)


def _wrong_texts() -> Iterator[Case]:
    for text in WRONG:
        for end in (b"\n", b" ", b""):
            yield Case(f"{text!r} and {end!r}", (text + end + SYNC,))


def _numbers() -> Iterator[Case]:
    for text in (
        *("0", "-0", "-1", "0.0", "-0.0", "1.0", "1e0", "1E2", "1e-2", "0.1", "123456789012345678"),
        *("9223372036854775807", "9223372036854775808", "-9223372036854775808"),
        *("-9223372036854775809", "18446744073709551615", "18446744073709551616"),
        *("1" + "0" * 30, "0." + "3" * 50, "1e300", "-1e300", "1e-400", "2.5e-324"),
    ):
        data = f'{{"execute":"guest-ping","id":{text}}}'.encode()
        sync = f'{{"execute":"guest-sync","arguments":{{"id":{text}}}}}'.encode()
        yield Case(f"{text} as an id", (data,))
        yield Case(f"{text} as an argument", (sync,))


STRINGS: Final = (
    *(r"\u0041", r"\u00e9\u00E9", r"\ud83d\ude00", r"\uD83D\uDE00", r"\u0000", r"\n\r\t\b\f\/\\\""),
    *(r"\ud800", r"\ude00", r"\ud800x", r"\ud800\n", r"\ud800\u0041", r"\ude00\ud83d", r"\ufffe"),
    *(r"\uffff", r"\ufdd0", r"\ufdcf", r"\ud83f\udffe", r"\udbff\udfff", r"\'", r"\a", r"\U0041"),
    *(
        r"\u004",
        r"\u00g0",
        "\x7f",
        "\u00e9",
        "\u20ac",
        "\U0001f600",
        "\ufffd",
        "%s%n%%",
        "\\\u00e9",
    ),
)
NO_UTF8: Final = (
    *(
        b"\x80",
        b"\xc3",
        b"\xc0\x80",
        b"\xc1\x81",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xef\xbf\xbe",
    ),
    *(
        b"\xef\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xfd",
        b"\xc3\\n",
        b"\xe2\x82",
    ),
    *(b"\xf0\x9f\xbf\xbe", b"\xf0\x9f\x98", b"\xc3\xa9\x80"),
)


def _strings() -> Iterator[Case]:
    for text in (*(string.encode() for string in STRINGS), *NO_UTF8):
        for quote in (b'"', b"'"):
            string = quote + text + quote
            yield Case(f"id {string!r}", (b'{"execute":"guest-ping","id":%s}' % string,))
            yield Case(f"name {string!r}", (b'{%s:1,"id":1}' % string,), like=Like.CLASS)
        yield Case(f"command {text!r}", (b'{"execute":"%s"}' % text,))


def error(text: str, cls: str = GENERIC, **members: object) -> object:
    """Return the answer."""
    return {"error": {"class": cls, "desc": text}, **members}


SIZE: Final = "JSON token size limit exceeded"
NESTING: Final = "JSON nesting depth limit exceeded"


def _differences() -> Iterator[Case]:
    """Yield where ours means to be different."""
    deep = b'{"execute":"guest-ping","id":%s}\n' % (b"[" * 31 + b"]" * 31)
    yield Case("as deep as both read", (deep,))
    deeper = b'{"execute":"guest-ping","id":%s}{"lost":1}\n' % (b"[" * 32 + b"]" * 32)
    limits = "limits are ours, and an error tells once of a line that is over"
    yield Case("deeper", (deeper + PING,), ours=(error(NESTING), _pong()), why=limits)
    far = b"[" * 2000 + b"]" * 2000 + b"\n"
    yield Case("far deeper", (far,), ours=(error(NESTING),), why=limits)
    long = b'{"execute":"guest-ping","id":"%s"}'
    yield Case("as long as both read", (long % (b"x" * ((1 << 20) - len(long) + 2)),))
    longer = long % (b"x" * ((1 << 20) - len(long) + 3))
    yield Case("longer", (longer + b"\n" + PING,), ours=(error(SIZE), _pong()), why=limits)
    over = "QEMU answers with inf, which is no JSON"
    number = error("JSON parse error, number out of range")
    for digits in (b"1e400", b"-1e999", b"9" * 400):
        data = b'{"execute":"guest-ping","id":%s}' % digits
        yield Case(f"number {digits[:6]!r}", (data,), ours=(number,), why=over)
    stray = error(f"""JSON parse error, stray '"{"x" * 199}...'""")
    yield Case(
        "long garbage", (b'"' + b"x" * 300 + b"\n",), ours=(stray,), why="a line stays short"
    )
    yield from _ours()
    two = line("guest-ping", a=1, b=2, arguments=[])
    yield Case("which of two is told", (two,), Like.CLASS, why="QEMU's order is that of its hash")
    more = line("guest-ping", arguments={"a": 1, "b": 2})
    yield Case("which argument is told", (more,), Like.CLASS, why="likewise")


def _pong() -> object:
    return {"return": {}, "id": "a"}


def _ours() -> Iterator[Case]:
    """Yield what only ours has, and what only QEMU's has."""
    user = "x-virtagent-username"
    nobody = "no agent connected for user 'nobody-here'"
    member = line("guest-ping", id=1, **{user: "nobody-here"})
    both = error(nobody, id=1, **{user: "nobody-here"})
    yield Case("a user by the member", (member,), ours=(both,), why="ours")
    arguments = {"username": "nobody-here", "execute": "guest-ping"}
    call = line("virtagent-call", arguments=arguments, id=2)
    yield Case("a user by the command", (call,), ours=(error(nobody, id=2),), why="ours")
    for answer in (b'{"return":{}}', b'{"error":{"class":"a","desc":"b"},"id":1}'):
        why = "the host's answers, here to nothing, are not answered"
        yield Case(f"answer {answer!r}", (answer,), ours=(), why=why)
    capabilities = line("virtagent-set-capabilities")
    off = {"return": {"events": False, "requests": False}}
    yield Case("capabilities", (capabilities,), ours=(off,), why="ours")
    for name in ("guest-file-open", "guest-shutdown", "guest-set-user-password"):
        given = line(name, arguments={"z": 1})
        text = f"The command {name} has not been found"
        why = "not done by ours: files and power are the host's by other ways"
        yield Case(name, (given,), ours=(error(text, NOT_FOUND),), why=why)


EXEC: Final[dict[str, str]] = {
    "path": STR,
    "arg": "list",
    "env": "list",
    "input-data": STR,
    "capture-output": "bool",
}


def exec_errors() -> Iterator[tuple[str, dict[str, object], Like]]:
    """Yield a command, its arguments, which are wrong, and in what the errors are alike."""
    right: dict[str, object] = {"path": "/nonexistent/program"}
    yield "guest-exec", {}, Like.SAME
    yield "guest-exec", {"z": 1}, Like.SAME
    yield "guest-exec", {**right, "z": 1}, Like.SAME
    for name, kind in EXEC.items():
        for value in VALUES:
            if not isinstance(value, str) or kind == "list":
                yield "guest-exec", {**right, name: value}, _like(name, value)
    wrong: tuple[object, ...] = (["a", 1], [1, "a"], [None], [["a"]], [{}], ["a", True])
    for items in wrong:
        yield "guest-exec", {**right, "arg": items}, Like.SAME
        yield "guest-exec", {**right, "env": items}, Like.SAME
    for data in ("a\u00e9==", "a b=", "!!!!", "aGk=\0"):
        yield "guest-exec", {"path": "/bin/cat", "input-data": data}, Like.SAME
    for path in ("", "/", "/etc/passwd", "no-such-program", "./x", "/nonexistent", "\u00e9"):
        yield "guest-exec", {"path": path}, Like.CLASS
    yield "guest-exec-status", {}, Like.SAME
    yield "guest-exec-status", {"pid": 1, "z": 1}, Like.SAME
    for value in VALUES:
        yield "guest-exec-status", {"pid": value}, Like.SAME


def _like(name: str, value: object) -> Like:
    """Tell in what the errors about an argument of guest-exec are alike.

    What is wrong may be that the program does not exist, in words that are not QEMU's. Ours also
    takes for capture-output what QEMU takes since 8.0, and says so as that does.
    """
    if name == "capture-output" or isinstance(value, list):
        return Like.CLASS
    return Like.SAME


SHELL: Final = "/bin/sh"
LONG: Final = 200_000  # bytes: more than a pipe holds
EXECS: Final[dict[str, dict[str, object]]] = {
    "worked example": {
        "path": SHELL,
        "arg": ["-c", "cat; echo err >&2; exit 3"],
        "input-data": "aGkgdGhlcmUK",
        "capture-output": True,
    },
    "nothing captured": {"path": SHELL, "arg": ["-c", "echo out; echo err >&2"]},
    "capture off": {"path": SHELL, "arg": ["-c", "echo out"], "capture-output": False},
    "no output": {"path": "/bin/true", "capture-output": True},
    "only errors": {"path": SHELL, "arg": ["-c", "echo err >&2"], "capture-output": True},
    "found by PATH": {"path": "echo", "arg": ["-n", "a", "b c", ""], "capture-output": True},
    "environment replaced": {
        "path": "/usr/bin/env",
        "env": ["A=1", "B=two words", "C="],
        "capture-output": True,
    },
    "input is read to its end": {
        "path": "/usr/bin/wc",
        "arg": ["-c"],
        "input-data": "A" * LONG,
        "capture-output": True,
    },
    "input is not read": {"path": "/bin/true", "input-data": "A" * LONG, "capture-output": True},
    "no input": {"path": "/bin/cat", "capture-output": True},
    "empty input": {"path": "/bin/cat", "input-data": "", "capture-output": True},
    "much of both": {
        "path": SHELL,
        "arg": ["-c", f"head -c {LONG} /dev/zero; head -c {LONG} /dev/zero >&2"],
        "capture-output": True,
    },
    "bytes": {"path": SHELL, "arg": ["-c", r"printf '\377\000\n'"], "capture-output": True},
    "killed": {"path": SHELL, "arg": ["-c", "echo x; kill -9 $$"], "capture-output": True},
    "terminated": {"path": SHELL, "arg": ["-c", "kill -15 $$"]},
    "exit 255": {"path": SHELL, "arg": ["-c", "exit 255"]},
    "zero in its name": {
        "path": SHELL,
        "arg": ["-c", "echo $0 $1", "n\u00e4me", "$x"],
        "capture-output": True,
    },
}
