"""Messages out of bytes, however these arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import ProtocolError
from sessiond.wire.buffer import HEADER_SIZE, Header, MessageBuffer

LIMIT = 64
MESSAGES = st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=LIMIT)), max_size=6)


def check(header: Header) -> None:
    if header.size > LIMIT:
        raise ProtocolError(f"{header.size} bytes")


def packed(kind: int, body: bytes) -> bytes:
    return Header(kind, len(body)).pack() + body


@pytest.fixture
def buffer() -> MessageBuffer:
    return MessageBuffer(check)


def test_header_on_the_wire() -> None:
    assert Header(0x0203, 0x04050607).pack() == bytes.fromhex("0100030207060504")


def test_nothing_yields_nothing(buffer: MessageBuffer) -> None:
    assert list(buffer.feed(b"")) == []
    assert buffer.is_between_messages


def test_padding_of_the_header_is_ignored(buffer: MessageBuffer) -> None:
    assert list(buffer.feed(bytes.fromhex("01ff010000000000"))) == [(Header(1, 0), b"")]


@pytest.mark.parametrize("length", range(1, HEADER_SIZE + 3))
def test_part_of_a_message_is_held(buffer: MessageBuffer, length: int) -> None:
    assert list(buffer.feed(packed(7, b"abc")[:length])) == []
    assert not buffer.is_between_messages
    assert list(buffer.feed(packed(7, b"abc")[length:])) == [(Header(7, 3), b"abc")]
    assert buffer.is_between_messages


@given(MESSAGES, st.data())
def test_chunks_do_not_matter(messages: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(packed(kind, body) for kind, body in messages)
    buffer, found, at = MessageBuffer(check), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        found += [(header.type, body) for header, body in buffer.feed(stream[at : at + size])]
        at += size
    assert found == messages
    assert buffer.is_between_messages


def test_what_comes_in_one_piece_is_not_copied(buffer: MessageBuffer) -> None:
    data = bytearray(packed(7, b"abc") + packed(8, b"de")[:-1])
    [(_, whole)] = buffer.feed_whole(data)
    data[:] = bytes(len(data))  # the next bytes come into the same memory
    assert whole == bytes(len(packed(7, b"abc")))
    assert list(buffer.feed(b"e")) == [(Header(8, 2), b"de")]


def test_header_is_checked_before_its_body_comes(buffer: MessageBuffer) -> None:
    with pytest.raises(ProtocolError, match=r"^65 bytes$"):
        list(buffer.feed(Header(1, LIMIT + 1).pack()))


@pytest.mark.parametrize("version", [0, 2, 255])
def test_other_versions_are_refused(buffer: MessageBuffer, version: int) -> None:
    with pytest.raises(ProtocolError, match=f"^protocol version {version} instead of 1$"):
        list(buffer.feed(bytes([version]) + packed(1, b"")[1:]))


def test_messages_before_the_error_are_not_lost(buffer: MessageBuffer) -> None:
    messages = buffer.feed(packed(1, b"a") + packed(2, b"b") + b"\2" + bytes(7))
    assert [next(messages), next(messages)] == [(Header(1, 1), b"a"), (Header(2, 1), b"b")]
    with pytest.raises(ProtocolError):
        next(messages)


def test_dead_after_an_error(buffer: MessageBuffer) -> None:
    with pytest.raises(ProtocolError) as first:
        list(buffer.feed(bytes(8)))
    with pytest.raises(ProtocolError) as second:
        list(buffer.feed(packed(1, b"")))
    assert second.value is first.value
    assert not buffer._rest


@given(st.lists(st.binary(max_size=2 * LIMIT), max_size=8))
def test_garbage_is_never_hoarded(chunks: list[bytes]) -> None:
    buffer = MessageBuffer(check)
    for chunk in chunks:
        try:
            list(buffer.feed(chunk))
        except ProtocolError:
            assert not buffer._rest
            return
        assert len(buffer._rest) < max(HEADER_SIZE, LIMIT)
