"""Each message as a value and as bytes, and what each side refuses."""

import re

import pytest
from hypothesis import given

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.buffer import Header, MessageBuffer
from sessiond.wire.device import (
    HIDDEN_CURSOR,
    MAX_FRAME,
    Capabilities,
    CursorMove,
    CursorSet,
    CursorType,
    Data,
    DeviceDisplayInfo,
    Format,
    FromGuest,
    FromHost,
    Message,
    NotifyError,
    QualityIndicator,
    StartStop,
    Type,
    Unknown,
    check_from_guest,
    check_from_host,
    pack,
    parse_from_guest,
    parse_from_host,
    printable,
)
from tests.sessiond.wire.messages import FROM_GUEST, FROM_HOST, GUEST_EXAMPLES, HOST_EXAMPLES


def from_host(data: bytes) -> list[FromHost | Unknown]:
    return [parse_from_host(*found) for found in MessageBuffer(check_from_host).feed(data)]


def from_guest(data: bytes) -> list[FromGuest]:
    return [parse_from_guest(*found) for found in MessageBuffer(check_from_guest).feed(data)]


def message(kind: int, body: bytes) -> bytes:
    return Header(kind, len(body)).pack() + body


def display_info(length: int, address: bytes) -> bytes:
    return message(8, bytes(8) + length.to_bytes(4, "little") + address)


def cursor(width: int, height: int, kind: int, size: int) -> bytes:
    shape = width.to_bytes(2, "little") + height.to_bytes(2, "little") + bytes(4)
    return message(6, shape + bytes([kind, 0, 0, 0]) + bytes(size))


@pytest.mark.parametrize(("wire", "value"), HOST_EXAMPLES.values(), ids=HOST_EXAMPLES)
def test_examples_of_a_host(wire: str, value: FromHost) -> None:
    assert from_host(bytes.fromhex(wire)) == [value]
    assert pack(value).hex() == wire


@pytest.mark.parametrize(("wire", "value"), GUEST_EXAMPLES.values(), ids=GUEST_EXAMPLES)
def test_examples_of_a_guest(wire: str, value: FromGuest) -> None:
    assert from_guest(bytes.fromhex(wire)) == [value]
    assert pack(value).hex() == wire


@given(FROM_HOST)
def test_any_message_of_a_host_comes_back(value: FromHost) -> None:
    assert from_host(pack(value)) == [value]


@given(FROM_GUEST)
def test_any_message_of_a_guest_comes_back(value: FromGuest) -> None:
    assert from_guest(pack(value)) == [value]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (bytes.fromhex("0100000000000000"), "Invalid message type"),
        (message(4, b"\0"), "Invalid message type"),
        (message(5, bytes(4)), "Invalid message type"),
        (message(10, b""), "Invalid message type"),
        (message(0xFFFF, b""), "Invalid message type"),
        (message(1, bytes(1025)), "Wrong size for StreamMsgCapabilities"),
        (message(2, bytes(11)), "Wrong size for StreamMsgFormat"),
        (message(2, bytes(13)), "Wrong size for StreamMsgFormat"),
        (bytes.fromhex("0100030001000002"), "STREAM_DATA too large"),
        (message(6, bytes(11)), "Cursor size is invalid"),
        (Header(6, 12 + 33 * 1024 * 128 + 1).pack(), "Cursor size is invalid"),
        (message(7, bytes(7)), "Wrong size for StreamMsgCursorMove"),
        (message(7, bytes(9)), "Wrong size for StreamMsgCursorMove"),
        (message(8, bytes(269)), "StreamMsgDeviceDisplayInfo too large"),
        (cursor(1, 1, 1, 4), "Protocol error"),  # MONO
        (cursor(1, 1, 255, 4), "Protocol error"),
        (cursor(2, 2, 0, 15), "Protocol error"),
        (cursor(3, 3, 5, 28), "Protocol error"),
        (cursor(3, 3, 6, 37), "Protocol error"),
        (cursor(1025, 1, 0, 4100), "Protocol error"),
        (cursor(1, 1025, 0, 4100), "Protocol error"),
    ],
)
def test_what_a_host_refuses(data: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=f"^{re.escape(complaint)}$"):
        from_guest(data)


@pytest.mark.parametrize(
    "data",
    [
        message(1, b""),
        message(1, bytes(1024)),
        Header(3, MAX_FRAME).pack(),
        Header(6, 4325388).pack(),
        cursor(0, 0, 0, 0),
        cursor(1024, 1, 0, 4096),
        cursor(3, 3, 5, 29),
        cursor(3, 3, 6, 38),
        message(8, bytes(12)),
        message(8, bytes(268)),
    ],
)
def test_limits_themselves_are_taken(data: bytes) -> None:
    from_guest(data)


def test_more_pixels_than_needed_are_cut() -> None:
    assert from_guest(cursor(1, 1, 0, 9)) == [CursorSet(1, 1, 0, 0, bytes(4))]


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b"", False), (b"\0", False), (b"\1", True), (b"\xff", True), (b"\0" + b"\xff" * 9, False)],
)
def test_capabilities_are_bits(body: bytes, *, expected: bool) -> None:
    assert from_host(message(1, body)) == [Capabilities(quality_indicator=expected)]
    assert from_guest(message(1, body)) == [Capabilities(quality_indicator=expected)]


@pytest.mark.parametrize("body", [b"", b"\1", b"\3\1\2", b"\xff" * 255])
def test_start_needs_the_codecs_that_it_counts(body: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"^START_STOP without the codecs that it announces$"):
        from_host(message(4, body))


def test_bytes_after_the_codecs_are_ignored() -> None:
    assert from_host(message(4, b"\1\1\2\3")) == [StartStop((1,))]


@pytest.mark.parametrize("size", range(4))
def test_error_needs_a_code(size: int) -> None:
    with pytest.raises(ProtocolError, match=r"^NOTIFY_ERROR without an error code$"):
        from_host(message(5, bytes(size)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", ""),
        (b"no end", "no end"),
        (b"one\0two", "one"),
        (b"a\x1b[31m\nb", "a?[31m?b"),
        (b"\xff\xfe", "��"),
        (b"x" * 2000, "x" * 1024),
    ],
)
def test_text_of_an_error(text: bytes, expected: str) -> None:
    assert from_host(message(5, bytes(4) + text)) == [NotifyError(0, expected)]


def test_printable_keeps_other_scripts() -> None:
    assert printable("für 画面".encode()) == "für 画面"


@pytest.mark.parametrize(
    ("length", "address", "expected"),
    [
        (0, b"pci\0", ""),
        (3, b"pci", "pc"),  # a host writes the NUL over the last byte that is counted
        (4, b"pci\0", "pci"),
        (400, b"pci\0", "pci"),
        (256, b"a" * 256, "a" * 255),
    ],
)
def test_length_of_an_address(length: int, address: bytes, expected: str) -> None:
    assert from_guest(display_info(length, address)) == [DeviceDisplayInfo(0, 0, expected)]


def test_long_address_is_cut() -> None:
    body = DeviceDisplayInfo(0, 0, "ä" * 300).body()
    assert body[8:] == (256).to_bytes(4, "little") + b"?" * 255 + b"\0"


@pytest.mark.parametrize("kind", [0, *(set(Type) - {1, 4, 5}), 10, 0xFFFF])
def test_guest_skips_what_hosts_do_not_send(kind: int) -> None:
    assert from_host(message(kind, bytes(4096))) == [Unknown(kind, 4096)]


@pytest.mark.parametrize("kind", [0, 1, 4, 5, 10])
def test_guest_refuses_what_is_too_large_to_skip(kind: int) -> None:
    with pytest.raises(
        ProtocolError, match=f"^a message of type {kind} with 4097 bytes, over 4096$"
    ):
        from_host(Header(kind, 4097).pack())


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (Format(-1, 1, 1), "Format|argument|range|format"),
        (Format(2**32, 1, 1), "range|format"),
        (CursorMove(2**31, 0), "range|format"),
        (StartStop((256,)), "range|format"),
        (StartStop((1,) * 256), "range|format"),
        (NotifyError(-1, ""), "range|format"),
        (NotifyError(0, "x" * 4096), "^too large$"),
        (CursorSet(1025, 1, 0, 0, bytes(4100)), "^a cursor of 1025x1 pixels$"),
        (CursorSet(2, 2, 0, 0, bytes(15)), "^15 bytes for a cursor of 16$"),
        (CursorSet(1, 1, -1, 0, bytes(4)), "range|format"),
        (CursorSet(1, 1, 0, 0, bytes(33 * 1024 * 128 + 1)), "^Cursor size is invalid$"),
        (QualityIndicator("x" * 4096), "^Wrong size for StreamMsgQualityIndicator$"),
    ],
)
def test_what_does_not_fit_is_our_own_error(value: Message, complaint: str) -> None:
    with pytest.raises(LocalProtocolError, match=complaint):
        pack(value)


def test_frame_may_be_as_large_as_the_host_takes() -> None:
    frame = bytes(MAX_FRAME)
    assert len(pack(Data(frame))) == 8 + MAX_FRAME
    with pytest.raises(LocalProtocolError, match=r"^STREAM_DATA too large$"):
        pack(Data(frame + b"\0"))


@pytest.mark.parametrize(
    ("kind", "size"), [(CursorType.ALPHA, 36), (CursorType.COLOR24, 29), (CursorType.COLOR32, 38)]
)
def test_bytes_of_a_cursor(kind: CursorType, size: int) -> None:
    assert kind.pixel_bytes(3, 3) == size


def test_hidden_cursor_is_one_transparent_pixel() -> None:
    assert pack(HIDDEN_CURSOR).hex() == "0100060010000000010001000000000000000000" + "00000000"
