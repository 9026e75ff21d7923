"""Xauthority files: the worked examples, every cut of them, and garbage."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import ProtocolError
from sessiond.wire.xauth import LOCAL, MAX_FILE, NAMES, WILD, Record, find_cookie, parse

COOKIE = bytes(range(16))
MAGIC = b"MIT-MAGIC-COOKIE-1"
_COOKIE = "0010000102030405060708090a0b0c0d0e0f"
_MAGIC_AND_COOKIE = "00124d49542d4d414749432d434f4f4b49452d31" + _COOKIE

# As xauth(1) writes them, byte for byte.
EXAMPLES = {
    "local": (
        "01000002766d000131" + _MAGIC_AND_COOKIE,
        Record(LOCAL, b"vm", b"1", MAGIC, COOKIE),
    ),
    "wild": ("ffff00000000" + _MAGIC_AND_COOKIE, Record(WILD, b"", b"", MAGIC, COOKIE)),
    "inet": (
        "000000047f00000100023130" + _MAGIC_AND_COOKIE,
        Record(0, bytes([127, 0, 0, 1]), b"10", MAGIC, COOKIE),
    ),
    "inet6": (
        "0006001000000000000000000000000000000001000130001358444d2d415554484f52495a4154494f4e2d31"
        + _COOKIE,
        Record(6, bytes(15) + b"\1", b"0", b"XDM-AUTHORIZATION-1", COOKIE),
    ),
    "unknown name": (
        "01000002766d00013100165858582d4d49542d4d414749432d434f4f4b49452d31" + _COOKIE,
        Record(LOCAL, b"vm", b"1", b"XXX-" + MAGIC, COOKIE),
    ),
    "smallest": ("00000000000000000000", Record(0, b"", b"", b"", b"")),
}
_FIELD = st.binary(max_size=40)
RECORDS = st.builds(Record, st.integers(0, 65535), _FIELD, _FIELD, _FIELD, _FIELD)


def golden(name: str) -> bytes:
    return bytes.fromhex(EXAMPLES[name][0])


def pack(record: Record) -> bytes:
    fields = (record.address, record.number, record.name, record.data)
    return record.family.to_bytes(2) + b"".join(len(it).to_bytes(2) + it for it in fields)


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_example(name: str) -> None:
    assert parse(golden(name)) == [EXAMPLES[name][1]]
    assert pack(EXAMPLES[name][1]) == golden(name)


def test_concatenation() -> None:
    names = ("local", "wild", "inet", "inet6")
    data = b"".join(golden(name) for name in names)
    assert len(data) == 203
    assert parse(data) == [EXAMPLES[name][1] for name in names]


@pytest.mark.parametrize("name", EXAMPLES)
def test_cut_at_every_byte(name: str) -> None:
    whole = golden(name)
    for size in range(1, len(whole)):
        with pytest.raises(ProtocolError, match="ends within a record"):
            parse(whole[:size])
        with pytest.raises(ProtocolError, match="ends within a record"):
            parse(whole + whole[:size])


def test_empty_file_has_no_records() -> None:
    assert parse(b"") == []
    assert find_cookie(b"", ":0") == b""


def test_size_has_a_limit() -> None:
    smallest = golden("smallest")
    count = MAX_FILE // len(smallest)
    assert len(parse(smallest * count)) == count
    with pytest.raises(ProtocolError, match=f"over {MAX_FILE} bytes"):
        parse(smallest * (count + 1))


def test_names_that_are_known() -> None:
    assert {record.name for _, record in EXAMPLES.values()} & NAMES == {
        MAGIC,
        b"XDM-AUTHORIZATION-1",
    }


@pytest.mark.parametrize(
    ("name", "display", "is_found"),
    [
        ("local", ":1", True),
        ("local", ":1.0", True),
        ("local", ":2", False),
        ("local", ":11", False),
        ("wild", ":0", True),
        ("wild", ":63", True),
        ("inet", ":10", False),
        ("inet6", ":0", False),
        ("unknown name", ":1", False),
    ],
)
def test_cookie_of_a_display(name: str, display: str, *, is_found: bool) -> None:
    assert find_cookie(golden(name), display) == (COOKIE if is_found else b"")


def test_first_of_two_cookies_counts() -> None:
    second = Record(LOCAL, b"vm", b"1", MAGIC, b"another")
    assert find_cookie(golden("local") + pack(second), ":1") == COOKIE
    assert find_cookie(pack(second) + golden("local"), ":1") == b"another"


def test_secret_is_not_shown() -> None:
    [record] = parse(golden("local"))
    assert "data" not in repr(record)


@given(st.lists(RECORDS, max_size=20))
def test_any_records(records: list[Record]) -> None:
    assert parse(b"".join(map(pack, records))) == records


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_parsed_whole(data: bytes) -> None:
    with suppress(ProtocolError):
        assert b"".join(map(pack, parse(data))) == data


@given(st.lists(RECORDS, max_size=4), st.binary(max_size=60))
def test_what_comes_before_does_not_matter(records: list[Record], tail: bytes) -> None:
    def parsed(data: bytes) -> list[Record] | None:
        try:
            return parse(data)
        except ProtocolError:
            return None

    rest = parsed(tail)
    expected = None if rest is None else records + rest
    assert parsed(b"".join(map(pack, records)) + tail) == expected
