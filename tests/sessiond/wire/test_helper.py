"""The legacy helper protocol: the worked examples, every way to cut them, and any bytes."""

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.helper import (
    MAX_MESSAGE,
    MAX_VALUE,
    NAME,
    Record,
    RecordReader,
    pack_record,
    parse_record,
)

ADDRESS = "01000073706963652d73747265616d696e672d6167656e742d6461656d6f6e"
OK = "0101023a30021d2f72756e2f757365722f313030302f67646d2f58617574686f72697479"
FILE = "/run/user/1000/gdm/Xauthority"
DISPLAY_0 = b"\1\2:0"
PATH = b"\2\2/a"

# The protocol's worked examples; those with a record name no file, except the first.
RECORDS = {
    "ok": (OK, Record(":0", FILE)),
    "display": ("0101023a31", Record(":1", "")),
    "twice": ("0101023a3001023a35", Record(":5", "")),
}
REFUSED = {
    "empty": ("01", "no DISPLAY"),
    "badver": ("0201023a30", "version 2 instead of 1"),
    "short": ("0101053a30", "a length beyond the end: DISPLAY with 2 of 5 bytes"),
    "trail": ("0101023a3002", "one stray byte at the end"),
    "unknown": ("0101023a30030178", "the unknown type 3"),
    "nul": ("0101073a30006576696c", "DISPLAY with NUL, control"),
}


def message(*fields: tuple[int, bytes]) -> bytes:
    return b"\1" + b"".join(bytes([kind, len(value)]) + value for kind, value in fields)


def outcome(*chunks: bytes, needs_xauthority: bool = True) -> Record | None:
    """Return the record, None for a refusal; anything else is raised."""
    reader = RecordReader(needs_xauthority=needs_xauthority)
    with suppress(ProtocolError):
        for chunk in chunks:
            reader.feed(chunk)
        is_complete = reader.is_complete
        with suppress(ProtocolError):
            record = reader.finish()
            assert is_complete
            return record
        assert not is_complete
    return None


def test_name_is_that_of_the_address() -> None:
    family = (1).to_bytes(2, "little")
    assert (family + NAME).hex() == ADDRESS
    assert len(family + NAME) == 31


@pytest.mark.parametrize("name", RECORDS)
def test_worked_example(name: str) -> None:
    data, record = bytes.fromhex(RECORDS[name][0]), RECORDS[name][1]
    assert parse_record(data, needs_xauthority=False) == record
    assert parse_record(pack_record(record), needs_xauthority=False) == record


@pytest.mark.parametrize("name", REFUSED)
def test_worked_example_that_is_refused(name: str) -> None:
    data, words = REFUSED[name]
    with pytest.raises(ProtocolError, match=words):
        parse_record(bytes.fromhex(data), needs_xauthority=False)


def test_packed_as_the_worked_example() -> None:
    assert pack_record(Record(":0", FILE)).hex() == OK


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty message"),
        (b"\0", "version 0"),
        (b"\1\1", "one stray byte"),
        (b"\1\0", "unknown type 0"),
        (b"\1" + DISPLAY_0, "no XAUTHORITY"),
        (b"\1" + DISPLAY_0 + b"\2\0", "no XAUTHORITY"),
        (b"\1" + PATH, "no DISPLAY"),
        (b"\1" + PATH + DISPLAY_0 + b"\1\0", "no DISPLAY"),
        (b"\1" + PATH + b"\1\1", "DISPLAY with 0 of 1 bytes"),
        (message((2, b"a")), "XAUTHORITY is not an absolute path"),
        (message((2, b"/a\n")), "XAUTHORITY with NUL, control"),
        (message((2, b"/\xe2\x80\xae")), "XAUTHORITY with NUL, control or other unprintable"),
        (message((2, b"/\xff")), "XAUTHORITY is not UTF-8"),
        (message((1, b":0\x7f")), "DISPLAY with NUL, control"),
        (message((1, b"localhost:10.0")), "DISPLAY 'localhost:10.0' is not a local one"),
        (message((1, b"x" * 255)), f"DISPLAY '{'x' * 40}' is not a local one"),
    ],
)
def test_refusal_says_why(data: bytes, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        parse_record(data)


@pytest.mark.parametrize(
    ("display", "is_taken"),
    [
        (":0", ":0"),
        (":99999", ":99999"),
        (":1.2", ":1.2"),
        ("unix:1", ":1"),
        ("unix:1.0", ":1.0"),
        (":", ""),
        (":100000", ""),
        (":1.", ""),
        (":1.x", ""),
        (":-1", ""),
        (": 1", ""),
        (":1 ", ""),
        (":٣", ""),
        ("0", ""),
        ("vm:0", ""),
        ("vm/unix:0", ""),
        ("tcp/vm:0", ""),
        ("UNIX:0", ""),
        ("wayland-0", ""),
        ("/run/X0", ""),
    ],
)
def test_forms_of_a_display(display: str, is_taken: str) -> None:
    data = message((1, display.encode()), (2, b"/a"))
    assert outcome(data) == (Record(is_taken, "/a") if is_taken else None)


def test_longest_path() -> None:
    path = "/" + "é" * 127
    assert len(path.encode()) == MAX_VALUE
    assert parse_record(pack_record(Record(":0", path))).xauthority == path


def test_every_value_has_to_be_right() -> None:
    """The last of two holds, but an honest helper sends no wrong one before it."""
    assert outcome(b"\1" + PATH + message((2, b"/b"))[1:] + DISPLAY_0) == Record(":0", "/b")
    assert outcome(message((1, b"vm:0"), (1, b":0"), (2, b"/a"))) is None
    assert outcome(message((1, b""), (1, b":0"), (2, b"/a"))) == Record(":0", "/a")


def test_size_has_a_limit() -> None:
    path = b"/" + b"x" * (MAX_VALUE - 1)
    longest = message((1, b":0"), *[(2, path)] * 3, (2, path[: MAX_MESSAGE - 778]))
    assert len(longest) == MAX_MESSAGE
    assert outcome(longest) == Record(":0", path[: MAX_MESSAGE - 778].decode())
    with pytest.raises(ProtocolError, match="over 1024 bytes"):
        parse_record(longest + b"\2")
    with pytest.raises(ProtocolError, match="over 1024 bytes"):
        parse_record(b"\2" * 2000)
    reader = RecordReader()
    reader.feed(longest)
    with pytest.raises(ProtocolError, match="over 1024 bytes"):
        reader.feed(b"\2")


def test_garbage_is_refused_at_once() -> None:
    """A server need not hold a connection that can come to nothing."""
    for begin in (b"\2", b"\1\3", b"\1\1\1x", b"\1\2\2/\0"):
        reader = RecordReader()
        for byte in begin[:-1]:
            reader.feed(bytes([byte]))
        with pytest.raises(ProtocolError):
            reader.feed(begin[-1:])


@pytest.mark.parametrize("data", [b"\2", b"\1\3", b"\1\3\1x", b"\1\1\1x", b"\2" * 2000])
def test_after_an_error_it_stays_dead(data: bytes) -> None:
    reader = RecordReader()
    with pytest.raises(ProtocolError) as first:
        reader.feed(data)
    assert not reader.is_complete
    for use in (reader.finish, lambda: reader.feed(bytes.fromhex(OK)), lambda: reader.feed(b"")):
        with pytest.raises(ProtocolError) as again:
            use()
        assert again.value is first.value


def test_a_message_that_was_cut_off_is_dead() -> None:
    reader = RecordReader()
    reader.feed(b"\1\1")
    with pytest.raises(ProtocolError, match="stray"):
        reader.finish()
    with pytest.raises(ProtocolError, match="stray"):
        reader.feed(b"\2:0")


def test_nothing_may_follow_the_end() -> None:
    reader = RecordReader()
    reader.feed(bytes.fromhex(OK))
    assert reader.finish() == reader.finish() == Record(":0", FILE)
    reader.feed(b"")
    with pytest.raises(ProtocolError, match="bytes after the message"):
        reader.feed(b"\1\0")
    with pytest.raises(ProtocolError, match="bytes after the message"):
        reader.finish()


def test_complete_is_where_a_message_may_end() -> None:
    whole = bytes.fromhex(OK)
    reader = RecordReader()
    ends = []
    for size, byte in enumerate(whole, 1):
        reader.feed(bytes([byte]))
        if reader.is_complete:
            ends.append(size)
    assert ends == [len(whole)]
    lenient = RecordReader(needs_xauthority=False)
    ends = []
    for size, byte in enumerate(whole, 1):
        lenient.feed(bytes([byte]))
        if lenient.is_complete:
            ends.append(size)
    assert ends == [len(whole[:5]), len(whole)]
    assert lenient.finish() == Record(":0", FILE)


@pytest.mark.parametrize("data", [it[0] for it in (*RECORDS.values(), *REFUSED.values())])
def test_every_cut_in_two_and_byte_by_byte(data: str) -> None:
    whole = bytes.fromhex(data)
    expected = outcome(whole, needs_xauthority=False)
    for at in range(len(whole) + 1):
        assert outcome(whole[:at], whole[at:], needs_xauthority=False) == expected
    singly = (bytes([byte]) for byte in whole)
    assert outcome(*singly, needs_xauthority=False) == expected


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (Record(":0", "/" + "x" * 255), "XAUTHORITY of 256 bytes"),
        (Record(":" + "0" * 255, "/a"), "DISPLAY of 256 bytes"),
        (Record("", "/a"), "no DISPLAY"),
        (Record(":0", "a"), "not an absolute path"),
        (Record("vm:0", "/a"), "not a local one"),
        (Record(":0", "/\udcff"), "not UTF-8"),
        (Record(":0", "/\0"), "with NUL"),
    ],
)
def test_what_would_be_refused_is_not_packed(record: Record, words: str) -> None:
    with pytest.raises(LocalProtocolError, match=words):
        pack_record(record)


# Mostly right, so that what is wrong is met at every place.
VALUES = st.one_of(
    st.sampled_from([b":0", b":1.0", b"unix:7", b"/a", b"", b"vm:0", b"/\xff", b":0\0"]),
    st.binary(max_size=MAX_VALUE),
    st.text(max_size=60).map(lambda text: b"/" + text.encode(errors="replace")),
)
FIELDS = st.lists(st.tuples(st.sampled_from([1, 2, 1, 2, 1, 2, 3]), VALUES), max_size=6)
MESSAGES = st.one_of(
    st.binary(max_size=40),
    FIELDS.map(lambda fields: message(*fields)),
    st.tuples(FIELDS, st.binary(max_size=4)).map(lambda it: message(*it[0]) + it[1]),
    st.binary(min_size=MAX_MESSAGE - 2, max_size=MAX_MESSAGE + 2),
)


@given(MESSAGES, st.lists(st.integers(0, MAX_MESSAGE + 2), max_size=8), st.booleans())
def test_a_record_or_a_refusal_and_nothing_else(
    data: bytes, cuts: list[int], needs_xauthority: bool
) -> None:
    ends = [0, *sorted(cuts), len(data)]
    chunks = [data[a:b] for a, b in pairwise(ends)]
    record = outcome(data, needs_xauthority=needs_xauthority)
    assert outcome(*chunks, needs_xauthority=needs_xauthority) == record
    if record:
        assert len(data) <= MAX_MESSAGE
        assert record.display.startswith(":")
        assert record.xauthority.startswith("/") or not (needs_xauthority or record.xauthority)
        assert (record.display + record.xauthority).isprintable()
        assert parse_record(pack_record(record), needs_xauthority=needs_xauthority) == record


@given(
    st.from_regex(r":[0-9]{1,5}(\.[0-9]{1,5})?", fullmatch=True),
    st.text(min_size=1).map(lambda text: "/" + text),
)
def test_what_is_packed_is_what_was_meant(display: str, xauthority: str) -> None:
    record = Record(display, xauthority)
    try:
        data = pack_record(record)
    except LocalProtocolError:
        assert not xauthority.isprintable() or len(xauthority.encode()) > MAX_VALUE
    else:
        assert parse_record(data) == record
