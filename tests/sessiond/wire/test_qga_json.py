"""JSON as QEMU reads it: where texts end, what is wrong with them, and the limits."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import CommandError
from sessiond.wire.qga_json import MAX_SHOWN, parse, parse_slowly
from sessiond.wire.qga_splitter import MAX_TEXT, Splitter
from sessiond.wire.strictjson import MAX_NESTING
from tests.fuzz.qga.seeds import PIECES

CUT = {
    "a line": (b'{"a":1}\n', [b'{"a":1}']),
    "no line feed": (b'{"a":1}', [b'{"a":1}']),
    "two on a line": (b'{"a":1}{"b":2}\n', [b'{"a":1}', b'{"b":2}']),
    "one on many lines": (b'{\r\n"a":\n\n1}\r\n', [b'{\r\n"a":\n\n1}']),
    "blank lines": (b"\n\r\n \t{}\n\n", [b"{}"]),
    "brackets in strings": (b'{"}":"]"}', [b'{"}":"]"}']),
    "quotes in strings": (rb'{"\"}":"\\"}{}', [rb'{"\"}":"\\"}', b"{}"]),
    "single quotes": (b"""{'\\'}':'"b"'}{}""", [b"""{'\\'}':'"b"'}""", b"{}"]),
    "values alone": (b'"a" 12 nul 1.5e3,', [b'"a"', b"12", b"nul", b"1.5e3", b","]),
    "values without a gap": (b"0e5true'a'", [b"0", b"e", b"5", b"true", b"'a'"]),
    "closed too often": (b"]}{}", [b"]", b"}", b"{}"]),
    "mixed up": (b"{[}]{}", [b"{[}]", b"{}"]),
    "closed by the other": (b"[1}{}", [b"[1}", b"{}"]),
}


def split(*chunks: bytes) -> list[bytes | str]:
    splitter = Splitter()
    found = [one for chunk in chunks for one in splitter.feed(chunk)]
    return [str(one) if isinstance(one, CommandError) else one for one in found]


def each_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@pytest.mark.parametrize("name", CUT)
def test_cut(name: str) -> None:
    data, texts = CUT[name]
    assert split(data) == texts
    assert split(*each_byte(data)) == texts
    assert split(data + b'{"ta', b'il":0}') == [*texts, b'{"tail":0}']


# What is wrong, what is told of it, and what of the rest is read again.
STRAY = {
    "sentinel": (b"\xff{}", "\ufffd", [b"{}"]),
    "sentinel in a string": (b'{"a": "b\xff{}', '"b\ufffd', [b"{}"]),
    "sentinel between tokens": (b'{"a" \xff{}', "\ufffd", [b"{}"]),
    "up to a line feed": (b"A 1 2 'x'\n3\n", "A", [b"3"]),
    "but not to TAB": (b"A\t1\n3\n", "A", [b"3"]),
    "up to a comma": (b"A 1,", "A", [b","]),
    "line feed in a string": (b'"a\n{}', '"a\n', [b"{}"]),
    "TAB in a string": (b"'a\tb{}", "'a\t", [b"{}"]),
    "NUL, where C ends": (b'"a\0b\n', '"a', []),
    "line feed after a backslash": (b'"a\\\n1\n2\n', '"a\\\n', [b"2"]),
    "leading zero": (b"[012]", "01", [b"]"]),
    "no digit after the point": (b"1.x\n", "1.x", []),
    "no digit after the exponent": (b"1e+\n", "1e+\n", []),
    "no digit after the sign": (b"-a\n", "-a", []),
    "plus": (b"+1\n", "+", []),
    "a capital letter": (b"True\n", "T", []),
    "a noncharacter": (b'"\xef\xbf\xbe\n', '"\ufffd\n', []),
    "a long one": (
        b'"' + b"x" * (MAX_SHOWN + 1) + b"\n",
        '"' + "x" * (MAX_SHOWN - 1) + "...",
        [],
    ),
}


@pytest.mark.parametrize("name", STRAY)
def test_stray_byte(name: str) -> None:
    data, shown, texts = STRAY[name]
    expected = [f"JSON parse error, stray '{shown}'", *texts]
    assert split(data) == expected
    assert split(*each_byte(data)) == expected


DEEPEST = b"[" * MAX_NESTING + b"]" * MAX_NESTING
TOO_DEEP = "JSON nesting depth limit exceeded"
TOO_LONG = "JSON token size limit exceeded"


def test_nesting_up_to_the_limit_and_over() -> None:
    assert split(DEEPEST + b"{}") == [DEEPEST, b"{}"]
    barely = b"[" * (MAX_NESTING + 1) + b"]" * (MAX_NESTING + 1) + b"\n{}"
    assert split(barely) == split(*each_byte(barely)) == [TOO_DEEP, b"{}"]
    deeper = b"[" * 500 + b'{"}": 1}\xff ]]]\n{}'
    assert split(deeper) == split(*each_byte(deeper)) == [TOO_DEEP, b"{}"]
    mixed = b'{"a":[' * MAX_NESTING + b"\n{}"
    assert split(mixed) == split(*each_byte(mixed)) == [TOO_DEEP, b"{}"]


LONGEST = b'{"a": "' + b"x" * (MAX_TEXT - 9) + b'"}'


@pytest.mark.parametrize(
    "filling",
    [
        b'{"a": "' + b"x" * MAX_TEXT,
        b"[" + b" " * MAX_TEXT,
        b"[" + b"1," * (MAX_TEXT // 2),
        b"7" * 2**21,
    ],
    ids=["a string", "nothing", "many values", "digits"],
)
@pytest.mark.parametrize("size", [MAX_TEXT - 1, MAX_TEXT, MAX_TEXT + 1, 65536, 3 * 2**20])
def test_text_over_the_limit_is_dropped_to_the_next_line(filling: bytes, size: int) -> None:
    data = filling + b"\xff {}]}\n{}"
    assert split(*(data[at : at + size] for at in range(0, len(data), size))) == [TOO_LONG, b"{}"]


@pytest.mark.parametrize("before", [b"", b"\n" * 70000, b"A" + b"x" * MAX_TEXT + b"\n"])
def test_longest_text(before: bytes) -> None:
    strays = ["JSON parse error, stray 'A'"] if before.startswith(b"A") else []
    data = before + LONGEST
    assert split(data, b"{}") == [*strays, LONGEST, b"{}"]
    parts = [data[:65536], data[65536:-1], data[-1:], b"{}"]
    assert split(*parts) == [*strays, LONGEST, b"{}"]
    over = before + LONGEST[:-2] + b'x"}\n{}'
    assert split(over) == split(over[:-5], *each_byte(over[-5:])) == [*strays, TOO_LONG, b"{}"]
    assert split(over[:-3]) == split(over[:-4], over[-4:-3]) == [*strays, TOO_LONG]
    assert split(over[:-4]) == strays


def test_bytes_that_are_of_no_text_are_not_kept() -> None:
    splitter = Splitter()
    for data in (b" \n" * 1000, b"\xff", b"garbage " * 1000, b"\n", b"[" * 40, b"x" * 1000):
        list(splitter.feed(data))
        assert not splitter._held
    assert list(splitter.feed(b"\n{}")) == [b"{}"]


def test_idle_only_where_a_text_may_begin() -> None:
    splitter = Splitter()
    for data, is_idle in ((b"", 1), (b"{", 0), (b'"', 0), (b'a":1', 0), (b"}", 1), (b"\n", 1)):
        list(splitter.feed(data))
        assert splitter.is_idle == bool(is_idle), data
    for data, is_idle in ((b"\xff", 0), (b"a", 0), (b"\n", 1), (b"[" * 40, 0), (b"1\n", 1)):
        list(splitter.feed(data))
        assert splitter.is_idle == bool(is_idle), data
    list(splitter.feed(b'{"a'))
    splitter.reset()
    assert splitter.is_idle
    assert list(splitter.feed(b"{}")) == [b"{}"]


VALUES: dict[bytes, object] = {
    b'{"a": [1, -2, {"b": null}], "c": {}}': {"a": [1, -2, {"b": None}], "c": {}},
    b"['a', true, false, []]": ["a", True, False, []],
    rb"""["\"\'\\\/\b\f\n\r\t", '"']""": ["\"'\\/\b\f\n\r\t", '"'],
    rb'"\u00e9\uD83d\uDe00\u0000"': "\xe9\U0001f600\0",
    b'"\xc3\xa9\xf0\x9f\x98\x80\xc0\x80\x7f"': "\xe9\U0001f600\0\x7f",
    b"9223372036854775807": 2**63 - 1,
    b"-9223372036854775808": -(2**63),
    b"18446744073709551615": 2**64 - 1,
    b"18446744073709551616": 2.0**64,
    b"-9223372036854775809": -(2.0**63),
    b"9" * 300: 1e300,
    b"-0": 0,
    b"1.5e-3": 0.0015,
    b"1E2": 100.0,
    b"0.0e5": 0.0,
    b'{"": 1}': {"": 1},
}


@pytest.mark.parametrize("text", VALUES)
def test_value(text: bytes) -> None:
    expected = VALUES[text]
    for found in (parse(text), parse_slowly(text)):
        assert found == pytest.approx(expected) if len(text) == 300 else found == expected
        assert type(found) is type(expected)
    assert split(text + b" ") == [text]


WRONG = {
    b",": "expecting value",
    b"}": "expecting value",
    b"{]": "expecting value",
    b"[1,]": "expecting value",
    b'{"a":1,}': "expecting value",
    b'{"a":}': "expecting value",
    b"[1 2]": "expected separator in list",
    b"[0e5]": "expected separator in list",
    b"[1}": "expected separator in list",
    b'{"a":1 "b":2}': "expected separator in dict",
    b'{"a" 1}': "missing : in object pair",
    b'{"a"}': "missing : in object pair",
    b"{1:2}": "key is not a string in object",
    b"{{}:2}": "key is not a string in object",
    b'{"a":1,"a":2}': "duplicate key",
    rb'{"a":1,"\u0061":2}': "duplicate key",
    b"nul": "invalid keyword 'nul'",
    b"[nan]": "invalid keyword 'nan'",
    rb'"\ud800"': r"\ud800 is not a valid Unicode character",
    rb'"\ude00\ud83d"': r"\ude00 is not a valid Unicode character",
    rb'"\ud83d\u0041"': r"\ud83d is not a valid Unicode character",
    rb'"\ufffe"': r"\ufffe is not a valid Unicode character",
    rb'"\uD83f\udFFe"': r"\uD83f\udFFe is not a valid Unicode character",
    rb'"\u12"': r'\u12" is not a valid Unicode character',
    rb'"\u12 4"': r"\u12 4 is not a valid Unicode character",
    rb'"\x"': "invalid escape sequence in string",
    b'"\\\xc3\xa9"': "invalid escape sequence in string",
    b'"\x80"': "invalid UTF-8 sequence in string",
    b'"\xc3"': "invalid UTF-8 sequence in string",
    b'"\xc3\\n"': "invalid UTF-8 sequence in string",
    b'"\xed\xa0\x80"': "invalid UTF-8 sequence in string",
    b'"\xef\xbf\xbe"': "invalid UTF-8 sequence in string",
    b'"\xc1\x81"': "invalid UTF-8 sequence in string",
    b"1e999": "number out of range",
    b"-1e999": "number out of range",
    b"[" + b"9" * 5000 + b"]": "number out of range",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:12])
def test_wrong_text(text: bytes) -> None:
    for read in (parse, parse_slowly):
        with pytest.raises(CommandError) as caught:
            read(text)
        assert str(caught.value) == f"JSON parse error, {WRONG[text]}"
    assert split(text + b" ") == [text]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(blacklist_categories=["Cs"], max_codepoint=0xFDCF)),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("ab{'\n"), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON, st.booleans())
def test_what_python_writes_is_read_by_both(value: object, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii).encode()
    assert parse(text) == parse_slowly(text) == value


def outcome(read: object, text: bytes) -> str:
    assert callable(read)
    try:
        return repr(read(text))
    except CommandError as error:
        return f"error: {error}"


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
def test_quick_and_slow_parser_agree(data: bytes) -> None:
    for text in Splitter().feed(data + b"\n"):
        if isinstance(text, bytes):
            assert outcome(parse, text) == outcome(parse_slowly, text)


@given(
    st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=20).map(b"".join), st.data()
)
def test_any_cuts_give_the_same(data: bytes, choice: st.DataObject) -> None:
    at = sorted(choice.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    chunks = [data[begin:end] for begin, end in pairwise([0, *at, len(data)])]
    assert split(*chunks) == split(data)
