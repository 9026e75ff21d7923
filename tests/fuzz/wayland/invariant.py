"""What holds for all that a compositor could send.

However it is cut, the same events come of it; then comes ``ProtocolError``, and the same one ever
after, or nothing. Events are of objects that are there, and say what their messages say; their
texts are fit for a log. No more is held than one message.
"""

import struct
from collections.abc import Callable, Iterator
from enum import StrEnum
from itertools import cycle
from typing import Any

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire import wayland
from sessiond.wire.wayland import Client, Event, Interface, Proxy
from tests.fuzz.wayland.seeds import CALLBACK, CHOICES, FRAMED, GONE, MAX_MESSAGE, REGISTRY, WORDS

_WORDS = Interface(
    "words", ("say iusafou", "end!", "hand h"), ("said iusafou", "brief u", "hand h")
)
_TYPES = {"i": int, "u": int, "f": float, "s": str, "o": int, "a": bytes}


class Outcome(StrEnum):
    """What an input may come to."""

    NOTHING = "nothing"
    EVENTS = "events"
    REFUSAL = "refusal"


def check(data: bytes) -> Outcome:
    """Return what comes of the input. Raises AssertionError, or what should not be."""
    choices, stream = data[:CHOICES].ljust(CHOICES, b"\0"), data[CHOICES:]
    if choices[2] & FRAMED:
        stream = _framed(stream)
    whole = _read(iter([stream]))
    assert whole == _read(_chunks(stream, choices[0] + 1, choices[1] + 1))
    events, refusal = whole
    if refusal:
        return Outcome.REFUSAL
    return Outcome.EVENTS if events else Outcome.NOTHING


def _framed(stream: bytes) -> bytes:
    """Make messages whose sizes are right: otherwise few mutations get as far as the arguments."""
    framed = b""
    while len(stream) >= 3:
        number, opcode, length = stream[:3]
        body = stream[3 : 3 + length]
        body += bytes(-len(body) % 4)
        framed += struct.pack("=II", number, (8 + len(body)) << 16 | opcode) + body
        stream = stream[3 + length :]
    return framed


def _client() -> Client:
    """Return one with the objects that the seeds name."""
    client = Client()
    registry = client.make(client.display, "get_registry", wayland.REGISTRY)
    words = client.bind(registry, 1, _WORDS, 1)
    callback = client.make(client.display, "sync", wayland.CALLBACK)
    gone = client.bind(registry, 1, _WORDS, 1)
    assert (registry.id, words.id, callback.id, gone.id) == (REGISTRY, WORDS, CALLBACK, GONE)
    client.ask(gone, "end")
    assert sum(len(piece.data) for piece in client.take()) > 0
    return client


def _read(chunks: Iterator[bytes]) -> tuple[list[tuple[int, str, tuple[Any, ...]]], str]:
    client = _client()
    events = list[tuple[int, str, tuple[Any, ...]]]()
    try:
        for chunk in chunks:
            for event in client.receive(chunk):
                _check_event(event)
                events.append((event.proxy.id, event.message.name, event.arguments))
                event.dispatch()
    except ProtocolError as error:
        _check_dead(client, str(error))
        return events, str(error)
    _check_alive(client)
    return events, ""


def _check_event(event: Event) -> None:
    assert event.proxy.is_alive
    assert event.message in event.proxy.interface.events
    assert len(event.arguments) == len(event.message.types)
    for kind, value in zip(event.message.types, event.arguments, strict=True):
        assert type(value) is _TYPES[kind]
        assert not isinstance(value, str) or value.isprintable()
    # What was parsed can be packed, and is the same when it is parsed again.
    packed = event.message.pack(event.arguments)
    assert event.message.parse(packed) == event.arguments


def _check_dead(client: Client, text: str) -> None:
    again = ""
    try:
        list(client.receive(b""))
    except ProtocolError as error:
        again = str(error)
    assert again == text


def _check_alive(client: Client) -> None:
    """Make objects: their numbers are nobody else's, and what is gone cannot be asked."""
    gone = Proxy(GONE, _WORDS, {})
    gone.is_alive = False
    for wrong in (
        lambda: client.ask(gone, "hand", 1),
        lambda: client.ask(client.display, "hand"),
        lambda: client.ask(client.display, "sync"),
        lambda: client.make(client.display, "sync", wayland.CALLBACK, "one too many"),
    ):
        _check_refused(wrong)
    made = [client.make(client.display, "sync", wayland.CALLBACK) for _ in range(8)]
    numbers = {proxy.id for proxy in made}
    assert len(numbers) == len(made)
    assert not {1, REGISTRY, WORDS} & numbers
    words = Proxy(WORDS, _WORDS, {})
    _check_refused(lambda: client.ask(words, "say", 0, 0, "a" * MAX_MESSAGE, b"", 0, 0, 0))
    client.take()
    client.ask(words, "hand", 42)
    assert [piece.fds for piece in client.take()] == [(42,)]
    assert client.take() == []


def _check_refused(wrong: Callable[[], object]) -> None:
    try:
        wrong()
    except LocalProtocolError:
        return
    raise AssertionError("a request that nobody knows was taken")


def _chunks(stream: bytes, *sizes: int) -> Iterator[bytes]:
    begin = 0
    for size in cycle(sizes):
        if begin >= len(stream):
            return
        yield stream[begin : begin + size]
        begin += size
