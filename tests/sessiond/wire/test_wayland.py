"""The Wayland protocol: golden bytes, every way to cut them, and what no compositor may send."""

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.wayland import (
    CALLBACK,
    MAX_MESSAGE,
    MAX_OBJECTS,
    OUTPUT,
    REGISTRY,
    SHM,
    SHM_POOL,
    Client,
    Event,
    Interface,
    Proxy,
)

WORDS = Interface(
    "words",
    ("say! isafou", "hand hu"),
    ("said! isafou", "brief u", "handed h", "made n"),
)
# Object 2, opcode 0, 40 bytes: -2, "hé", two bytes, 1.5, object 1, 7.
SAID = bytes.fromhex(
    "02000000 00002800 feffffff 04000000 68c3a900 02000000 01020000"
    "80010000 01000000 07000000"
)  # fmt: skip
SAID_ARGUMENTS = (-2, "hé", b"\1\2", 1.5, 1, 7)
BRIEF = bytes.fromhex("0200000001000c0009000000")
DELETED = bytes.fromhex("0100000001000c0002000000")


def message(number: int, opcode: int, body: bytes = b"", *, size: int | None = None) -> bytes:
    size = 8 + len(body) if size is None else size
    return struct.pack("=II", number, size << 16 | opcode) + body


def client_with(interface: Interface = WORDS) -> tuple[Client, Proxy]:
    """Return a client whose object 2 is of that interface."""
    client = Client()
    proxy = client.make(client.display, "get_registry", interface)
    assert proxy.id == 2
    client.take()
    return client, proxy


def told(events: Iterator[Event]) -> list[tuple[str, tuple[Any, ...]]]:
    return [(event.message.name, event.arguments) for event in events]


def hear(client: Client, stream: bytes, size: int) -> tuple[list[object], str]:
    """Return the events and the refusal of a stream that comes in pieces of that size."""
    events = list[object]()
    try:
        for begin in range(0, len(stream), size):
            for event in client.receive(stream[begin : begin + size]):
                events.append((event.message.name, event.arguments))
    except ProtocolError as refusal:
        return events, str(refusal)
    return events, ""


def sent(client: Client) -> bytes:
    return b"".join(each.data for each in client.take())


def test_requests_as_bytes() -> None:
    client, words = client_with()
    client.ask(words, "say", -2, "hé", b"\1\2", 1.5, client.display, 7)
    assert sent(client) == SAID
    assert client.take() == []


def test_objects_are_made() -> None:
    client = Client()
    registry = client.make(client.display, "get_registry", REGISTRY)
    shm = client.bind(registry, 7, SHM, 1)
    assert (registry.id, shm.id, len(client)) == (2, 3, 3)
    assert sent(client) == bytes.fromhex(
        "01000000 01000c00 02000000"
        "02000000 00002000 07000000 07000000 776c5f73 686d0000 01000000 03000000"
    )  # fmt: skip


def test_descriptors_go_with_the_request_that_has_them() -> None:
    client, shm = client_with(SHM)
    client.make(client.display, "sync", CALLBACK)
    pool = client.make(shm, "create_pool", SHM_POOL, 42, 4096)
    client.ask(pool, "destroy")
    assert [(each.data, each.fds) for each in client.take()] == [
        (message(1, 0, struct.pack("=I", 3)), ()),
        (message(2, 0, struct.pack("=II", 4, 4096)), (42,)),
        (message(4, 1), ()),
    ]


@pytest.mark.parametrize("size", [1, 3, 8, 11, 44, 1000])
def test_events_however_they_are_cut(size: int) -> None:
    client, words = client_with()
    stream = BRIEF + SAID + message(1, 1, struct.pack("=I", 2))
    events = [
        event
        for begin in range(0, len(stream), size)
        for event in told(client.receive(stream[begin : begin + size]))
    ]
    assert events == [("brief", (9,)), ("said", SAID_ARGUMENTS)]
    assert not words.is_alive
    assert len(client) == 1


def test_listeners_hear_what_they_listen_to() -> None:
    heard = list[object]()
    client = Client()
    client.make(client.display, "get_registry", WORDS, on={"brief": heard.append})
    for event in client.receive(BRIEF + SAID + BRIEF):
        event.dispatch()
    assert heard == [9]  # said was its last word


def test_an_object_that_was_ended_tells_nothing_more() -> None:
    client, words = client_with()
    client.ask(words, "say", 0, "", b"", 0, 0, 0)
    assert told(client.receive(BRIEF + BRIEF)) == []
    with pytest.raises(LocalProtocolError):
        client.ask(words, "say", 0, "", b"", 0, 0, 0)


def test_a_listener_ends_the_object_of_the_next_event() -> None:
    client, words = client_with()
    events = client.receive(BRIEF + BRIEF)
    assert next(events).proxy is words
    client.ask(words, "say", 0, "", b"", 0, 0, 0)
    assert list(events) == []


def test_numbers_are_used_again_once_they_are_let_go_of() -> None:
    client, words = client_with()
    client.ask(words, "say", 0, "", b"", 0, 0, 0)
    assert client.make(client.display, "sync", CALLBACK).id == 3
    assert list(client.receive(DELETED)) == []
    assert client.make(client.display, "sync", CALLBACK).id == 2
    assert client.make(client.display, "sync", CALLBACK).id == 4


def test_a_request_that_cannot_be_takes_no_number() -> None:
    client, words = client_with()
    with pytest.raises(LocalProtocolError):
        client.make(client.display, "sync", CALLBACK, "too", "many")
    assert client.make(client.display, "sync", CALLBACK).id == 3
    for wrong in (("unknown",), ("say", 1)):
        with pytest.raises(LocalProtocolError):
            client.ask(words, *wrong)
    with pytest.raises(LocalProtocolError, match="bytes"):
        client.ask(words, "say", 0, "x" * MAX_MESSAGE, b"", 0, 0, 0)


def test_texts_are_fit_for_a_log() -> None:
    client, _ = client_with(OUTPUT)
    body = struct.pack("=I", 7) + b"\x1b[1m\xff\n\0\0"
    ((_, (text,)),) = told(client.receive(message(2, 4, body)))
    assert text == "?[1m\ufffd?"


WRONG = {
    "too short for a header": message(2, 1, size=4),
    "not of whole words": message(2, 1, b"\0\0\0\0", size=11),
    "too long": message(2, 1, size=MAX_MESSAGE + 4),
    "nobody's": message(77, 1, b"\0\0\0\0"),
    "no such event": message(2, 9),
    "nothing in it": message(2, 1),
    "more than is in it": message(2, 1, bytes(8)),
    "more behind": message(2, 0, SAID[8:] + bytes(4)),
    "text without an end": message(2, 0, SAID[8:].replace(b"\xa9\0", b"\xa9a")),
    "text of no bytes": message(2, 0, bytes(24)),
    "text longer than the message": message(2, 0, SAID[8:12] + b"\xff" * 4 + SAID[16:]),
    "bytes longer than the message": message(2, 0, SAID[8:20] + b"\xff" * 4 + SAID[24:]),
    "a descriptor": message(2, 2),
    "a refusal": message(1, 0, struct.pack("=III", 2, 3, 4) + b"bad\0"),
    "a refusal of nobody": message(1, 0, struct.pack("=III", 77, 3, 4) + b"bad\0"),
    "nobody is gone": message(1, 1, struct.pack("=I", 77)),
    "the display is gone": message(1, 1, struct.pack("=I", 1)),
    "what is in use is gone": DELETED,
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("size", [1, 7, 4096])
def test_what_no_compositor_may_send(wrong: bytes, size: int) -> None:
    client, _ = client_with()
    stream = BRIEF + wrong + BRIEF
    events, refusal = hear(client, stream, size)
    assert events == [("brief", (9,))]
    assert refusal
    for more in (b"", BRIEF):  # it stays dead
        with pytest.raises(ProtocolError) as again:
            list(client.receive(more))
        assert str(again.value) == refusal


def test_a_refusal_says_of_what() -> None:
    client, _ = client_with()
    with pytest.raises(ProtocolError, match=r"asked of words: bad \(3\)"):
        list(client.receive(WRONG["a refusal"]))


def test_a_compositor_that_lets_go_of_nothing() -> None:
    client = Client()
    for _ in range(MAX_OBJECTS - 1):
        client.make(client.display, "sync", CALLBACK)
    with pytest.raises(ProtocolError, match="none is let go of"):
        client.make(client.display, "sync", CALLBACK)
    assert len(client) == MAX_OBJECTS


def test_what_is_held_has_a_limit() -> None:
    client, _ = client_with()
    list(client.receive(message(2, 1, size=MAX_MESSAGE)))
    with pytest.raises(ProtocolError):
        list(client.receive(bytes(MAX_MESSAGE)))


@given(st.lists(st.sampled_from([BRIEF, SAID, DELETED, *WRONG.values()]) | st.binary(max_size=40)))
def test_any_bytes_whole_or_one_by_one(parts: list[bytes]) -> None:
    stream = b"".join(parts)
    one, five, whole = (
        hear(client_with()[0], stream, size) for size in (1, 5, max(1, len(stream)))
    )
    assert one == five == whole


@given(
    st.integers(-(2**31), 2**31 - 1),
    st.text("ab :/é€😀", max_size=50),
    st.binary(max_size=50),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**32 - 1),
)
def test_what_is_packed_is_what_is_parsed(
    whole: int, text: str, data: bytes, fixed: int, number: int
) -> None:
    client, words = client_with()
    arguments = (whole, text, data, fixed / 256, number, number)
    client.ask(words, "say", *arguments)
    other, _ = client_with()
    assert told(other.receive(sent(client))) == [("said", arguments)]
