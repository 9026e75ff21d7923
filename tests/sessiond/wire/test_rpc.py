"""The lines between the daemon and a user's agent: both ways, limits, and what is refused."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import CommandError, ProtocolError
from sessiond.wire import rpc
from sessiond.wire.rpc import Call, Farewell, LineReader, Message, Notice, Result

# Each line as it is written; the reader gets it in three feeds.
GOLDEN: dict[bytes, Message] = {
    b'{"execute": "guest-ping", "arguments": {}, "id": 7}\n': Call("guest-ping", {}, 7),
    b'{"execute": "a", "arguments": {"x": ["\\u00e9", null]}, "id": 0}\n': Call(
        "a", {"x": ["\xe9", None]}
    ),
    b'{"return": {}, "id": 7}\n': Result(7, {}),
    b'{"return": null, "id": 9223372036854775807}\n': Result(2**63 - 1),
    b'{"error": {"class": "CommandNotFound", "desc": "no"}, "id": 7}\n': Result(
        7, error=CommandError("no", "CommandNotFound")
    ),
    b'{"event": "DISPLAYS_CHANGED", "data": {}}\n': Notice("DISPLAYS_CHANGED"),
    b'{"error": {"class": "GenericError", "desc": "replaced"}}\n': Farewell("replaced"),
}


def plain(message: Message) -> tuple[object, ...]:
    match message:
        case Result(error=CommandError() as error):
            return "Result", message.id, error.cls, str(error)
        case Call():
            return "Call", message.command, message.arguments, message.id
        case Result():
            return "Result", message.id, message.value
        case Notice():
            return "Notice", message.event, message.data
        case Farewell():
            return "Farewell", message.text


def read(*chunks: bytes, limit: int = rpc.MAX_LINE) -> list[tuple[object, ...]]:
    reader = LineReader(limit)
    return [plain(message) for chunk in chunks for message in reader.feed(chunk)]


@pytest.mark.parametrize("line", GOLDEN)
def test_line_both_ways(line: bytes) -> None:
    message = plain(GOLDEN[line])
    assert rpc.encode(GOLDEN[line]) == line
    assert read(line) == [message]
    assert read(*(line[at : at + 1] for at in range(len(line)))) == [message]
    assert read(line + line[:9], line[9:]) == [message, message]


def test_members_of_a_newer_peer_and_those_left_out() -> None:
    assert read(b'{"execute":"a","id":1,"since":2}\r\n') == [("Call", "a", {}, 1)]
    assert read(b'\n \t\n{"event":"E","to":"x"}\n\n') == [("Notice", "E", {})]
    assert read(b'{"return":1,"id":2,"error":0}\n') == [("Result", 2, 1)]
    assert read(b'{"error":{"class":"C","desc":"d","data":1}}\n') == [("Farewell", "d")]


WRONG = {
    "no JSON": (b"guest-ping", "no JSON"),
    "half": (b'{"event":"E"', "no JSON"),
    "two": (b'{"event":"E"}{"event":"E"}', "no JSON"),
    "NaN": (b'{"return":NaN,"id":1}', "no JSON"),
    "infinity": (b'{"return":-Infinity,"id":1}', "no JSON"),
    "infinite in effect": (b'{"return":1e999,"id":1}', "no JSON"),
    "digits without end": (b'{"return":' + b"9" * 5000 + b',"id":1}', "no JSON"),
    "named twice": (b'{"return":1,"return":2,"id":1}', "no JSON"),
    "named twice within": (b'{"return":{"a":1,"a":1},"id":1}', "no JSON"),
    "too deep": (b'{"return":' + b"[" * 32 + b"]" * 32 + b',"id":1}', "no JSON"),
    "far too deep": (b'{"return":' + b"[" * 100_000, "no JSON"),
    "bytes": (b'{"return":"\xff","id":1}', "no JSON"),
    "a surrogate's bytes": (b'{"return":"\xed\xa0\x80","id":1}', "no JSON"),
    "half a pair": (rb'{"return":"\ud83d","id":1}', "no JSON"),
    "half a pair as a name": (rb'{"return":{"\uDE00":1},"id":1}', "no JSON"),
    "a pair the wrong way round": (rb'{"return":"\ude00\ud83d","id":1}', "no JSON"),
    "another encoding": ('{"event":"E"}'.encode("utf-16-le"), "no JSON"),
    "byte order mark": (b'\xef\xbb\xbf{"event":"E"}', "no JSON"),
    "single quotes": (b"{'event':'E'}", "no JSON"),
    "array": (b"[1]", "no JSON object"),
    "number": (b"1", "no JSON object"),
    "neither": (b'{"id":1}', "neither a call nor an answer nor an event"),
    "command no text": (b'{"execute":1,"id":1}', "a name is no text"),
    "empty command": (b'{"execute":"","id":1}', "a name is no text"),
    "long command": (b'{"execute":"' + b"x" * 256 + b'","id":1}', "a name is no text"),
    "event no text": (b'{"event":null}', "a name is no text"),
    "arguments no object": (b'{"execute":"a","arguments":[],"id":1}', "arguments is no object"),
    "arguments null": (b'{"execute":"a","arguments":null,"id":1}', "arguments is no object"),
    "data no object": (b'{"event":"E","data":1}', "data is no object"),
    "no id": (b'{"execute":"a"}', "an id is no whole number"),
    "answer without id": (b'{"return":1}', "an id is no whole number"),
    "text as id": (b'{"return":1,"id":"1"}', "an id is no whole number"),
    "float as id": (b'{"return":1,"id":1.0}', "an id is no whole number"),
    "true as id": (b'{"return":1,"id":true}', "an id is no whole number"),
    "negative id": (b'{"return":1,"id":-1}', "an id is no whole number"),
    "great id": (b'{"return":1,"id":9223372036854775808}', "an id is no whole number"),
    "error's id": (b'{"error":{"class":"C","desc":"d"},"id":null}', "an id is no whole number"),
    "error no object": (b'{"error":"d","id":1}', "an error has no class or no text"),
    "error without class": (b'{"error":{"desc":"d"},"id":1}', "an error has no class or no text"),
    "error without text": (b'{"error":{"class":"C"}}', "an error has no class or no text"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_line_after_a_right_one(name: str) -> None:
    line, words = WRONG[name]
    reader = LineReader()
    found = reader.feed(b'{"event":"E"}\n' + line + b"\n")
    assert next(found) == Notice("E")
    with pytest.raises(ProtocolError, match=words):
        next(found)


def test_as_deep_as_the_host_reads() -> None:
    [(_, _, value)] = read(b'{"return":' + b"[" * 31 + b"]" * 31 + b',"id":1}\n')
    assert str(value) == "[" * 31 + "]" * 31
    flat = b'{"return":[' + b"[]," * 100 + b'"[["],"id":1}\n'
    assert len(read(flat)) == 1


def test_line_of_the_longest_length_and_over() -> None:
    line = b'{"event":"%s"}' % (b"x" * 20)
    assert len(read(line + b"\n", limit=len(line))) == 1
    assert len(read(line, b"\n" + line + b"\n", limit=len(line))) == 2
    for chunks in ((line + b"\n",), (line,), (b"\n" + line,), (line[:5], line[5:])):
        with pytest.raises(ProtocolError, match=f"a line is over {len(line) - 1} bytes"):
            read(*chunks, limit=len(line) - 1)


def test_what_a_command_may_have_written_fits_a_line() -> None:
    both = {"out-data": "A" * (5 << 20), "err-data": "A" * (5 << 20)}
    assert read(rpc.encode(Result(1, both))) == [("Result", 1, both)]


def test_half_a_surrogate_pair_is_not_written() -> None:
    half, whole = "\ud83d \\ud83d \U0001f600 \udc80", "\ufffd \\ud83d \U0001f600 \ufffd"
    for message in (
        Call(half, {half: half}),
        Result(1, {half: half}),
        Result(1, error=CommandError(half, half)),
        Notice(half, {half: [half]}),
        Farewell(half),
    ):
        line = rpc.encode(message)
        text = json.dumps(json.loads(line), ensure_ascii=False)
        assert json.dumps(whole, ensure_ascii=False) in text
        assert text.encode()
        assert line.isascii()
        assert len(read(line)) == 1


def test_nan_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        rpc.encode(Result(1, [float("nan")]))


texts = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=9)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(texts, values, max_size=3)
ids = st.integers(0, rpc.MAX_ID)
messages = (
    st.builds(Call, texts, objects, ids)
    | st.builds(Result, ids, values)
    | st.builds(Result, ids, error=st.builds(CommandError, texts, texts))
    | st.builds(Notice, texts, objects)
    | st.builds(Farewell, texts)
)


@given(st.lists(messages, max_size=4), st.data())
def test_what_is_written_is_read_however_it_is_cut(
    sent: list[Message], choice: st.DataObject
) -> None:
    data = b"".join(map(rpc.encode, sent))
    at = sorted(choice.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    chunks = [data[begin:end] for begin, end in pairwise([0, *at, len(data)])]
    assert read(*chunks) == [plain(message) for message in sent]


@given(st.binary(max_size=60) | objects.map(lambda value: json.dumps(value).encode()))
def test_any_line_is_a_message_or_an_error(line: bytes) -> None:
    try:
        message = rpc.parse(line)
    except ProtocolError:
        return
    again: Any = rpc.parse(rpc.encode(message))
    assert plain(again) == plain(message)
