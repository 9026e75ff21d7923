"""What holds for all that a host could send.

However it is cut, the same is read, and Python's own JSON finds nothing else than the parser that
does as QEMU's. Nor does the JSON that we let users' agents speak. All that is read can be answered,
with one line of JSON in ASCII that has the id and the user. A request, written by us, is read as it
was.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import StrEnum
from itertools import cycle

from sessiond.errors import CommandError
from sessiond.wire import qga, qga_json, strictjson
from sessiond.wire.qga_splitter import Splitter
from tests.fixtures.qga import seen
from tests.fuzz.qga.seeds import CHOICES, LIMIT, SMALLEST


class Outcome(StrEnum):
    """What an input's last message may be."""

    NOTHING = "nothing"
    REQUEST = "request"
    REFUSAL = "refusal"
    ANSWER = "answer"


def check(data: bytes) -> Outcome:
    """Return what was read last. Raises AssertionError, or what should not be."""
    choices, stream = data[:CHOICES].ljust(CHOICES, b"\0"), data[CHOICES:]
    found = _read([stream])
    again = _read(_chunks(stream, choices[0] + SMALLEST, choices[1] + SMALLEST))
    assert seen(found) == seen(again)
    _check_texts(stream, len(found))
    outcome = Outcome.NOTHING
    for message in found:
        outcome = _check_message(message)
    return outcome


def _read(chunks: list[bytes] | Iterator[bytes]) -> list[qga.Message]:
    reader = qga.Reader(LIMIT)
    found = [message for chunk in chunks for message in reader.feed(chunk)]
    reader.reset()
    assert len(reader.feed(b'{"execute":"a"}')) == 1
    return found


def _chunks(stream: bytes, *sizes: int) -> Iterator[bytes]:
    begin = 0
    for size in cycle(sizes):
        if begin >= len(stream):
            return
        yield stream[begin : begin + size]
        begin += size


def _check_texts(stream: bytes, count: int) -> None:
    """Read each text in both ways."""
    texts = list(Splitter(LIMIT).feed(stream))
    assert len(texts) == count
    for text in texts:
        if isinstance(text, bytes):
            assert 0 < len(text) <= LIMIT
            outcome = _outcome(qga_json.parse_slowly, text)
            assert outcome == _outcome(qga_json.parse, text)
            with suppress(ValueError, CommandError):
                strict = strictjson.decode(text.decode())
                assert repr(strict) == repr(qga_json.parse(text))


def _outcome(parse: Callable[[bytes], object], text: bytes) -> str:
    try:
        return repr(parse(text))
    except CommandError as error:
        return f"error: {error}"


def _check_message(message: qga.Message) -> Outcome:
    if isinstance(message, qga.Answer):
        return Outcome.ANSWER
    if isinstance(message, qga.Refused):
        _check_line(qga.encode_error(message.error, to=message), message)
        return Outcome.REFUSAL
    _check_line(qga.encode_return(message.id, request=message), message)
    _check_line(qga.encode_return(1, request=message, delimited=True)[1:], message)
    event = json.loads(qga.encode_event(message.command, message.arguments, 1.5, message.user))
    assert event["timestamp"] == {"seconds": 1, "microseconds": 500_000}
    line = qga.encode_request(message.command, message.arguments, id=message.id, user=message.user)
    [again] = qga.Reader().feed(line)
    assert isinstance(again, qga.Request)
    assert repr(again.arguments) == repr(message.arguments)
    with suppress(CommandError):
        unwrapped = qga.unwrap(message)
        assert (unwrapped.id, unwrapped.has_id) == (message.id, message.has_id)
    return Outcome.REQUEST


def _check_line(line: bytes, message: qga.Request | qga.Refused) -> None:
    assert line.isascii()
    assert line.index(b"\n") == len(line) - 1
    members = json.loads(line)
    assert repr(members.get("id")) == repr(message.id)
    assert ("id" in members, members.get(qga.USERNAME)) == (message.has_id, message.user)
    assert isinstance(qga.Reader().feed(line)[0], qga.Answer)
