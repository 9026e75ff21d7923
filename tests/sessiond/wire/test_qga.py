"""The host channel's format: the worked examples, who is meant, and what is answered."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import CommandError, NoAgentError
from sessiond.wire import qga, qga_json
from sessiond.wire.qga import Answer, Reader, Refused, Request, unwrap
from tests.fixtures.qga import Seen, read, seen
from tests.fuzz.qga.seeds import PIECES

SYNC_TX = bytes.fromhex(
    "ff7b2265786563757465223a2267756573742d73796e632d64656c696d69746564222c22617267756d656e7473223a"
    "7b226964223a313233347d7d0a"
)
SYNC_RX = bytes.fromhex("ff7b2272657475726e223a20313233347d0a")
SYNC = Request("guest-sync-delimited", {"id": 1234})
STRAY = Refused(CommandError("JSON parse error, stray '\ufffd'"))
EXEC = {
    "path": "/bin/sh",
    "arg": ["-c", "cat; echo err >&2; exit 3"],
    "input-data": "aGkgdGhlcmUK",
    "capture-output": True,
}
STATUS = {
    "exitcode": 3,
    "err-data": "ZXJyCg==",
    "out-data": "aGkgdGhlcmUK",
    "err-truncated": False,
    "out-truncated": False,
    "exited": True,
}
EXAMPLES: dict[str, tuple[bytes, list[qga.Message]]] = {
    "sync": (SYNC_TX, [STRAY, SYNC]),
    "exec": (
        (
            b'{"execute":"guest-exec","arguments":{"path":"/bin/sh","arg":["-c","cat; echo err >&2;'
            b' exit 3"],"input-data":"aGkgdGhlcmUK","capture-output":true}}\n'
        ),
        [Request("guest-exec", EXEC)],
    ),
    "status": (
        b'{"execute":"guest-exec-status","arguments":{"pid":9095}}\n',
        [Request("guest-exec-status", {"pid": 9095})],
    ),
    "ping": (
        b'{"execute":"guest-ping","id":"abc"}\n',
        [Request("guest-ping", {}, "abc", has_id=True)],
    ),
    "nope": (b'{"execute":"guest-nope"}\n', [Request("guest-nope")]),
    "user": (
        b'{"execute":"virtagent-query-displays","x-virtagent-username":"alice","id":4}\n',
        [Request("virtagent-query-displays", {}, 4, has_id=True, user="alice")],
    ),
    "call": (
        b'{"execute":"virtagent-call","arguments":{"username":"alice","execute":"guest-ping"}}\n',
        [Request("virtagent-call", {"username": "alice", "execute": "guest-ping"})],
    ),
    "answer": (
        b'{"return": [1], "id": "us", "x-virtagent-username": "alice"}\n',
        [Answer("us", [1], user="alice")],
    ),
    "error": (
        b'{"error": {"class": "CommandNotFound", "desc": "no"}, "id": 3}\n',
        [Answer(3, error=CommandError("no", "CommandNotFound"))],
    ),
    "many": (
        b"{'execute':'a'}{'execute':'b'}\r\n\n{\n\"execute\":\r\n\"c\"\n}  [1] nul",
        [
            *(Request(name) for name in "abc"),
            Refused(CommandError("QMP input must be a JSON object")),
            Refused(CommandError("JSON parse error, invalid keyword 'nul'")),
        ],
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_example(name: str) -> None:
    data, expected = EXAMPLES[name]
    assert read(data + b"\n") == seen(expected)
    assert read(*(data[at : at + 1] for at in range(len(data))), b"\n") == seen(expected)
    tail = b'\n{"execute": "guest-pi'
    assert read(data + tail) == seen(expected)
    assert read(data + tail, b'ng"}') == seen([*expected, Request("guest-ping")])


REFUSED: dict[str, tuple[str, str]] = {
    "array": ('[{"execute":"a"}]', "QMP input must be a JSON object"),
    "string": ('"execute"', "QMP input must be a JSON object"),
    "number": ("17 ", "QMP input must be a JSON object"),
    "null": ("null ", "QMP input must be a JSON object"),
    "empty": ("{}", "QMP input lacks member 'execute'"),
    "nothing asked": ('{"arguments":{}}', "QMP input lacks member 'execute'"),
    "event": ('{"event":"X"}', "QMP input member 'event' is unexpected"),
    "other member": ('{"execute":"a","x":1}', "QMP input member 'x' is unexpected"),
    "out of band": ('{"exec-oob":"a"}', "QMP input member 'exec-oob' is unexpected"),
    "answer and request": ('{"execute":"a","return":1}', "QMP input member 'return' is unexpected"),
    "long member": (
        '{"' + "x" * 1000 + '":1}',
        f"QMP input member '{'x' * 200}' is unexpected",
    ),
    "no command": ('{"execute":1}', "QMP input member 'execute' must be a string"),
    "null command": ('{"execute":null}', "QMP input member 'execute' must be a string"),
    "list of arguments": (
        '{"execute":"a","arguments":[]}',
        "QMP input member 'arguments' must be an object",
    ),
    "null arguments": (
        '{"execute":"a","arguments":null}',
        "QMP input member 'arguments' must be an object",
    ),
    "first of two": ('{"execute":1,"x":2}', "QMP input member 'execute' must be a string"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    text, words = REFUSED[name]
    assert read(text.encode()) == seen([Refused(CommandError(words))])


@pytest.mark.parametrize(
    "id_", [0, -1, 1.5, "abc", "", None, True, [1, {"a": None}], {"execute": "a"}, 2**64 - 1]
)
def test_any_id_comes_back(id_: object) -> None:
    for members in ({"execute": "a"}, {"execute": 1}, {"x": 1}, {}):
        [found] = Reader().feed(json.dumps({"id": id_, **members}).encode())
        assert isinstance(found, Request | Refused)
        assert found.has_id
        assert repr(found.id) == repr(id_)
        answer = json.loads(qga.encode_error(CommandError("x"), to=found))
        assert answer == {"error": {"class": "GenericError", "desc": "x"}, "id": id_}
    [found] = Reader().feed(b'{"execute": "a"}')
    assert isinstance(found, Request)
    assert not found.has_id
    assert qga.encode_return({}, request=found) == b'{"return": {}}\n'


@pytest.mark.parametrize(
    "text",
    [r"\ud800", r"\uDC00\ud800", r"\ufffe", r"\uFDD0", r"\ud83f\udfff", "\ufffe", "\U0010ffff"],
)
def test_what_python_reads_and_qemu_does_not(text: str) -> None:
    data = f'{{"execute":"a","id":"{text}"}}'.encode()
    [found] = read(data)
    assert found[:2] == ("Refused", "GenericError")
    assert str(found[2]).startswith("JSON parse error, ")
    assert found == slowly(data)[0]


USERS = {
    "alice": True,
    "#1000": True,
    "DOMAIN\\bob smith": True,
    "x" * 255: True,
    "\xe9" * 127: True,
    "": False,
    "x" * 256: False,
    "\xe9" * 128: False,
    "a\nb": False,
    "a\0": False,
    "\x7f": False,
    "\x9b": False,
}


@pytest.mark.parametrize("user", USERS)
def test_user(user: str) -> None:
    data = json.dumps({"execute": "a", qga.USERNAME: user, "id": 1}).encode()
    wrapped = Request("virtagent-call", {"username": user, "execute": "a"}, 1, has_id=True)
    words = "must be a string of 1 to 255 bytes without control characters"
    if USERS[user]:
        expected = Request("a", {}, 1, has_id=True, user=user)
        assert read(data) == seen([expected])
        assert unwrap(wrapped) == expected
        return
    error = CommandError(f"QMP input member 'x-virtagent-username' {words}")
    assert read(data) == seen([Refused(error, 1, has_id=True)])
    with pytest.raises(CommandError, match=f"Parameter 'username' {words}"):
        unwrap(wrapped)


@pytest.mark.parametrize("value", [None, 1, ["alice"], {"name": "alice"}])
def test_user_is_a_string(value: object) -> None:
    [found] = read(json.dumps({"execute": "a", qga.USERNAME: value}).encode())
    assert "must be a string of 1 to 255 bytes" in str(found)


def test_refused_request_of_a_user_is_answered_with_the_user() -> None:
    [found] = Reader().feed(b'{"execute":1,"x-virtagent-username":"alice","id":[]}')
    assert isinstance(found, Refused)
    assert qga.encode_error(NoAgentError("alice"), to=found) == (
        b'{"error": {"class": "GenericError", "desc": "no agent connected for user \'alice\'"}, '
        b'"id": [], "x-virtagent-username": "alice"}\n'
    )


ANSWERS = {
    '{"return": null}': Answer(None),
    '{"return": 1, "id": 2, "more": 3}': Answer(2, 1),
    '{"error": {"class": "C", "desc": "d", "data": 1}, "id": 2}': Answer(
        2, error=CommandError("d", "C")
    ),
    '{"error": "no", "id": 2}': Answer(2, error=CommandError("an error without class or text")),
    '{"error": {"class": 1, "desc": "d"}}': Answer(
        None, error=CommandError("an error without class or text")
    ),
    '{"return": {}, "error": {"class": "C", "desc": "d"}}': Answer(
        None, error=CommandError("d", "C")
    ),
    '{"return": {}, "id": 7, "x-virtagent-username": ""}': Answer(
        7,
        error=CommandError(
            "the answer's member 'x-virtagent-username' must be a string of 1 to 255 bytes "
            "without control characters"
        ),
    ),
}


@pytest.mark.parametrize("text", ANSWERS)
def test_answer_of_the_host(text: str) -> None:
    assert read(text.encode()) == seen([ANSWERS[text]])


UNWRAPPED_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no user": ({"execute": "a"}, "Parameter 'username' is missing"),
    "no command": ({"username": "u"}, "Parameter 'execute' is missing"),
    "wrong user": (
        {"username": 1, "execute": "a"},
        "Invalid parameter type for 'username', expected: string",
    ),
    "wrong command": (
        {"username": "u", "execute": {}},
        "Invalid parameter type for 'execute', expected: string",
    ),
    "wrong arguments": (
        {"username": "u", "execute": "a", "arguments": []},
        "Invalid parameter type for 'arguments', expected: object",
    ),
    "more": ({"username": "u", "execute": "a", "id": 1}, "Parameter 'id' is unexpected"),
    "itself": (
        {"username": "u", "execute": "virtagent-call", "arguments": {}},
        "virtagent-call cannot call itself",
    ),
}


@pytest.mark.parametrize("name", UNWRAPPED_WRONG)
def test_call_that_is_wrong(name: str) -> None:
    wrapped, words = UNWRAPPED_WRONG[name]
    with pytest.raises(CommandError) as caught:
        unwrap(Request("virtagent-call", wrapped))
    assert (str(caught.value), caught.value.cls) == (words, "GenericError")


def test_call_is_unwrapped_and_answered_plainly() -> None:
    inner = {"path": "ls", "username": "kept"}
    arguments = {"username": "alice", "execute": "guest-exec", "arguments": inner}
    request = Request("virtagent-call", arguments, 5, has_id=True)
    assert unwrap(request) == Request("guest-exec", inner, 5, has_id=True, user="alice")
    assert qga.encode_return({"pid": 1}, request=request) == b'{"return": {"pid": 1}, "id": 5}\n'
    plain = Request("guest-exec", inner, user="alice")
    assert unwrap(plain) is plain
    with pytest.raises(CommandError, match="one is enough"):
        unwrap(Request("virtagent-call", arguments, user="alice"))


def test_lines_that_are_written() -> None:
    ping = Request("guest-ping", {}, "abc", has_id=True)
    assert qga.encode_return({}, request=ping) == b'{"return": {}, "id": "abc"}\n'
    assert qga.encode_return(1234, request=SYNC, delimited=True) == SYNC_RX
    assert qga.encode_return(STATUS, request=Request("x")) == (
        b'{"return": {"exitcode": 3, "err-data": "ZXJyCg==", "out-data": "aGkgdGhlcmUK", '
        b'"err-truncated": false, "out-truncated": false, "exited": true}}\n'
    )
    nope = CommandError("The command guest-nope has not been found", "CommandNotFound")
    assert qga.encode_error(nope, to=Request("guest-nope")) == (
        b'{"error": {"class": "CommandNotFound", '
        b'"desc": "The command guest-nope has not been found"}}\n'
    )
    asked = Request("virtagent-query-displays", {}, 4, has_id=True, user="alice")
    assert qga.encode_error(NoAgentError("alice"), to=asked) == (
        b'{"error": {"class": "GenericError", "desc": "no agent connected for user \'alice\'"}, '
        b'"id": 4, "x-virtagent-username": "alice"}\n'
    )
    assert qga.encode_event("SWITCHED", {"to": "2"}, 1700000000.9999996, "\xe9") == (
        b'{"event": "SWITCHED", "data": {"to": "2"}, "timestamp": {"seconds": 1700000001, '
        b'"microseconds": 0}, "x-virtagent-username": "\\u00e9"}\n'
    )
    assert qga.encode_event("X", {}, 12.000345, None) == (
        b'{"event": "X", "data": {}, "timestamp": {"seconds": 12, "microseconds": 345}}\n'
    )
    assert qga.encode_request("a", {"b": [1]}, id="us-1", user="alice") == (
        b'{"execute": "a", "arguments": {"b": [1]}, "id": "us-1", '
        b'"x-virtagent-username": "alice"}\n'
    )


def test_half_a_surrogate_pair_does_not_leave() -> None:
    half = "\ud83d \ude00 \\ud83d \U0001f600"
    whole = "\ufffd \ufffd \\ud83d \U0001f600"
    for line in (
        qga.encode_return({half: [half]}, request=Request("a", {}, half, has_id=True, user=half)),
        qga.encode_error(CommandError(half), to=Refused(STRAY.error, {half: half}, has_id=True)),
        qga.encode_event(half, {half: half}, 0, half),
        qga.encode_request(half, {half: half}, id=half, user=half),
    ):
        assert line.isascii()
        assert line.count(b"\n") == 1
        text = json.dumps(json.loads(line), ensure_ascii=False)
        assert text.count(json.dumps(whole, ensure_ascii=False)) >= 2
        assert text.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_what_json_has_not_is_a_fault_of_ours(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        qga.encode_return(value, request=SYNC)


@pytest.mark.parametrize("half", [b'{"execute": "a', b"[" * 40, b"\xff garbage", b'"', b"12"])
def test_reset_forgets_what_is_half_read(half: bytes) -> None:
    reader = Reader()
    reader.feed(half)
    reader.reset()
    assert seen(reader.feed(b'{"execute":"a"}')) == seen([Request("a")])


def test_limits_are_the_hosts_one_error() -> None:
    deep = b'{"execute":"a","arguments":{"x":' + b"[" * 30 + b"]" * 30 + b"}}"
    assert len(read(deep)) == 1
    assert read(deep)[0][0] == "Request"
    deeper = deep.replace(b"[]", b"[[{}]]") + b'{"execute":"lost"}\n{"execute":"b"}'
    error = Refused(CommandError("JSON nesting depth limit exceeded"))
    assert read(deeper) == seen([error, Request("b")])
    assert read(b'{"a":' * 100_000) == seen([error])
    long = b'{"execute":"a","arguments":{"x":"%s"}}'
    fits = long % (b"x" * (qga.MAX_TEXT - len(long) + 2))
    for chunks in ((fits,), (b"\n" + fits,), (fits[:-1], fits[-1:])):
        assert read(*chunks)[0][0] == "Request"
    over = fits.replace(b"xx", b"xxx", 1) + b'{"execute":"lost"}\n{"execute":"b"}'
    error = Refused(CommandError("JSON token size limit exceeded"))
    assert read(over) == read(over[:70000], over[70000:]) == seen([error, Request("b")])


streams = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=20).map(b"".join)


@given(streams, st.data())
def test_any_cuts_give_the_same(data: bytes, choice: st.DataObject) -> None:
    at = sorted(choice.draw(st.lists(st.integers(0, len(data)), max_size=6)))
    chunks = [data[begin:end] for begin, end in pairwise([0, *at, len(data)])]
    assert read(*chunks) == read(data)


@given(streams)
def test_quick_and_slow_way_agree(data: bytes) -> None:
    assert read(data) == slowly(data)


@given(st.binary(max_size=200))
def test_any_bytes_at_all(data: bytes) -> None:
    assert read(data) == slowly(data)


def slowly(data: bytes) -> list[Seen]:
    """Read byte by byte, with the parser that knows what QEMU's does and without C's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qga_json, "parse", qga_json.parse_slowly)
        patch.setattr(qga, "_read_plain", lambda data, _found: data)
        return read(*(data[at : at + 1] for at in range(len(data))))


json_values = st.recursive(
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
json_objects = st.dictionaries(st.text("ab{'\n\xe9"), json_values, max_size=4)
names = st.text(st.characters(blacklist_categories=["Cs", "Cc"], max_codepoint=0xFDCF), min_size=1)


@given(names, json_objects, json_values, st.none() | names)
def test_what_is_written_is_read(
    command: str, arguments: dict[str, Any], id_: object, user: str | None
) -> None:
    line = qga.encode_request(command, arguments, id=id_, user=user)
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
    request = Request(command, arguments, id_, has_id=True, user=user)
    assert read(line) == seen([request])
    answer = qga.encode_return(arguments, request=request)
    assert read(answer) == seen([Answer(id_, arguments, user=user)])
    error = CommandError(command)
    assert read(qga.encode_error(error, to=request)) == seen([Answer(id_, error=error, user=user)])
