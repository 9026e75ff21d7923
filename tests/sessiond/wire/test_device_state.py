"""Who may send what, when: both ends of a connection."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.buffer import HEADER_SIZE, Header
from sessiond.wire.device import (
    MAX_FRAME,
    MAX_FROM_HOST,
    Capabilities,
    CursorMove,
    Data,
    Format,
    FromGuest,
    FromHost,
    Message,
    NotifyError,
    QualityIndicator,
    Role,
    StartStop,
    Unknown,
    pack,
)
from sessiond.wire.device_state import TRANSITIONS, DeviceConnection, Signal, State
from tests.sessiond.wire.messages import FROM_GUEST, FROM_HOST, GUEST_EXAMPLES, HOST_EXAMPLES

Feed = Callable[[DeviceConnection, bytes, bytes], Iterator[Message | Unknown]]
TAIL = Capabilities()


def whole(connection: DeviceConnection, data: bytes, tail: bytes) -> Iterator[Message | Unknown]:
    yield from connection.receive(data)
    yield from connection.receive(tail)


def byte_by_byte(
    connection: DeviceConnection, data: bytes, tail: bytes
) -> Iterator[Message | Unknown]:
    for byte in data + tail:
        yield from connection.receive(bytes([byte]))


def with_a_tail(
    connection: DeviceConnection, data: bytes, tail: bytes
) -> Iterator[Message | Unknown]:
    yield from connection.receive(data + tail[:3])
    yield from connection.receive(tail[3:])


FEEDS = pytest.mark.parametrize("feed", [whole, byte_by_byte, with_a_tail])


def streaming_host() -> DeviceConnection:
    """Make a host whose guest may send everything."""
    host = DeviceConnection(Role.HOST)
    host.send(Capabilities(quality_indicator=True))
    host.send(StartStop((1,)))
    list(host.receive(pack(Format(1, 1, 1))))
    return host


@FEEDS
@pytest.mark.parametrize(("wire", "value"), HOST_EXAMPLES.values(), ids=HOST_EXAMPLES)
def test_guest_understands_a_host(feed: Feed, wire: str, value: FromHost) -> None:
    found = list(feed(DeviceConnection(Role.GUEST), bytes.fromhex(wire), pack(TAIL)))
    assert found == ([value] if isinstance(value, NotifyError) else [value, TAIL])


@FEEDS
@pytest.mark.parametrize(("wire", "value"), GUEST_EXAMPLES.values(), ids=GUEST_EXAMPLES)
def test_host_understands_a_guest(feed: Feed, wire: str, value: FromGuest) -> None:
    assert list(feed(streaming_host(), bytes.fromhex(wire), pack(TAIL))) == [value, TAIL]


REFUSED = {
    "type 0": (Role.HOST, "0100000000000000", "Invalid message type"),
    "type 9 that nobody asked for": (Role.HOST, "01000900020000007800", "Invalid message type"),
    "frame too large": (Role.HOST, "0100030001000002", "STREAM_DATA too large"),
    "short format": (Role.HOST, "010002000b000000" + 11 * "00", "Wrong size for StreamMsgFormat"),
    "bad cursor": (Role.HOST, "010006000c000000" + 8 * "00" + "01000000", "Protocol error"),
    "version": (Role.GUEST, "0200010001000000", "protocol version 2 instead of 1"),
    "too large": (
        Role.GUEST,
        "0100630001100000",
        "a message of type 99 with 4097 bytes, over 4096",
    ),
    "bad start": (
        Role.GUEST,
        "01000400010000000" + "1",
        "START_STOP without the codecs that it announces",
    ),
}


@FEEDS
@pytest.mark.parametrize(("role", "wire", "complaint"), REFUSED.values(), ids=REFUSED)
def test_refused_and_dead_ever_after(feed: Feed, role: Role, wire: str, complaint: str) -> None:
    connection = DeviceConnection(role)
    good = pack(Capabilities())
    found = []
    with pytest.raises(ProtocolError) as first:
        found += list(feed(connection, good + bytes.fromhex(wire), good))
    assert str(first.value) == complaint
    for data in (good, b"", bytes.fromhex(wire)):
        with pytest.raises(ProtocolError) as again:
            list(connection.receive(data))
        assert again.value is first.value


def test_messages_before_an_error_are_yielded() -> None:
    messages = DeviceConnection(Role.GUEST).receive(pack(TAIL) + bytes(8))
    assert next(messages) == TAIL
    with pytest.raises(ProtocolError):
        next(messages)


@FEEDS
@pytest.mark.parametrize("size", [0, 1, MAX_FROM_HOST])
def test_unknown_is_skipped_by_a_guest(feed: Feed, size: int) -> None:
    guest = DeviceConnection(Role.GUEST)
    data = Header(99, size).pack() + bytes(size)
    assert list(feed(guest, data, pack(TAIL))) == [Unknown(99, size), TAIL]
    assert guest.state is State.IDLE


def test_nothing_is_heard_after_the_hosts_error() -> None:
    guest = DeviceConnection(Role.GUEST)
    error = NotifyError(0, "no")
    assert list(guest.receive(pack(error) + pack(StartStop((1,))))) == [error]
    assert list(guest.receive(pack(TAIL))) == []
    assert guest.state is State.FAILED


def test_host_drops_frames_that_nobody_asked_for() -> None:
    host = DeviceConnection(Role.HOST)
    frame = pack(Data(b"x"))
    assert list(host.receive(frame + pack(CursorMove(1, 2)) + frame)) == [CursorMove(1, 2)]


def test_capabilities_of_the_peer_are_kept() -> None:
    guest = DeviceConnection(Role.GUEST)
    assert not guest.peer.quality_indicator
    list(guest.receive(pack(Capabilities(quality_indicator=True))))
    assert guest.peer.quality_indicator


def test_quality_only_to_a_host_that_asked() -> None:
    guest = DeviceConnection(Role.GUEST)
    list(guest.receive(pack(Capabilities()) + pack(StartStop((1,)))))
    with pytest.raises(LocalProtocolError, match="did not ask for quality"):
        guest.send(QualityIndicator("q=80"))
    list(guest.receive(pack(Capabilities(quality_indicator=True))))
    assert guest.send(QualityIndicator("q=80")).hex() == GUEST_EXAMPLES["quality"][0]


def test_message_that_does_not_fit_changes_nothing() -> None:
    guest = DeviceConnection(Role.GUEST)
    list(guest.receive(pack(StartStop((1,)))))
    with pytest.raises(LocalProtocolError):
        guest.send(Format(-1, 0, 1))
    assert guest.state is State.READY


# The letters are the next state's first; "-" is forbidden.
_WALK = {
    #                       INITIAL IDLE READY STREAMING FAILED
    Signal.HOST_CAPABILITIES: "IDLE IDLE READY STREAMING -",
    Signal.START: "READY READY READY READY -",
    Signal.STOP: "IDLE IDLE IDLE IDLE -",
    Signal.ERROR: "FAILED FAILED FAILED FAILED -",
    Signal.ANSWER: "- IDLE READY STREAMING -",
    Signal.FORMAT: "- - STREAMING STREAMING -",
    Signal.FRAME: "- - - STREAMING -",
    Signal.DECORATION: "- - READY STREAMING -",
}
_SAYS: dict[Signal, Message] = {
    Signal.HOST_CAPABILITIES: Capabilities(),
    Signal.START: StartStop((1,)),
    Signal.STOP: StartStop(()),
    Signal.ERROR: NotifyError(0, "no"),
    Signal.ANSWER: Capabilities(),
    Signal.FORMAT: Format(1, 1, 1),
    Signal.FRAME: Data(b"x"),
    Signal.DECORATION: CursorMove(1, 1),
}
_FROM_HOST = {Signal.HOST_CAPABILITIES, Signal.START, Signal.STOP, Signal.ERROR}
WALK = [
    (state, signal, None if word == "-" else State[word])
    for signal, row in _WALK.items()
    for state, word in zip(State, row.split(), strict=True)
]


def connection_in(state: State, role: Role) -> DeviceConnection:
    connection = DeviceConnection(role)
    connection.state = state
    return connection


def test_walk_is_complete() -> None:
    assert len(WALK) == len(State) * len(Signal)
    assert {(a, b): c for a, b, c in WALK if c} == {
        (a, b): c for a, row in TRANSITIONS.items() for b, c in row.items()
    }


@pytest.mark.parametrize(("state", "signal", "after"), WALK)
def test_sender(state: State, signal: Signal, after: State | None) -> None:
    role = Role.HOST if signal in _FROM_HOST else Role.GUEST
    connection, message = connection_in(state, role), _SAYS[signal]
    if after is None:
        with pytest.raises(LocalProtocolError, match=f" in state {state.name}$"):
            connection.send(message)
        assert connection.state is state
    else:
        assert connection.send(message) == pack(message)
        assert connection.state is after


@pytest.mark.parametrize(("state", "signal", "after"), WALK)
def test_receiver(state: State, signal: Signal, after: State | None) -> None:
    role = Role.GUEST if signal in _FROM_HOST else Role.HOST
    connection, message = connection_in(state, role), _SAYS[signal]
    found = list(connection.receive(pack(message)))
    assert connection.state is (after or state)
    is_deaf = after is None and (role is Role.GUEST or signal is Signal.FRAME)
    assert found == ([] if is_deaf else [message])


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(
    "signal", [it for it in Signal if it not in {Signal.HOST_CAPABILITIES, Signal.ANSWER}]
)
def test_nobody_speaks_for_the_other(state: State, signal: Signal) -> None:
    role = Role.GUEST if signal in _FROM_HOST else Role.HOST
    connection = connection_in(state, role)
    with pytest.raises(LocalProtocolError, match=f" is not for a {role.name}$"):
        connection.send(_SAYS[signal])
    assert connection.state is state


def chunked(data: st.DataObject, stream: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        yield stream[at : at + size]
        at += size


@given(st.lists(FROM_HOST.filter(lambda m: not isinstance(m, NotifyError)), max_size=6), st.data())
def test_host_to_guest_in_any_chunks(messages: list[FromHost], data: st.DataObject) -> None:
    host, guest, found = DeviceConnection(Role.HOST), DeviceConnection(Role.GUEST), []
    stream = b"".join(host.send(message) for message in messages)
    for chunk in chunked(data, stream):
        found += list(guest.receive(chunk))
    assert found == messages
    assert guest.state is host.state


@given(st.lists(FROM_GUEST, max_size=6), st.data())
def test_guest_to_host_in_any_chunks(messages: list[FromGuest], data: st.DataObject) -> None:
    host, guest, found = streaming_host(), DeviceConnection(Role.GUEST), []
    list(guest.receive(pack(Capabilities(quality_indicator=True)) + pack(StartStop((1,)))))
    guest.send(Format(1, 1, 1))
    stream = b"".join(guest.send(message) for message in messages)
    for chunk in chunked(data, stream):
        found += list(host.receive(chunk))
    assert found == messages
    assert host.state is guest.state is State.STREAMING


_HEADERS = st.builds(
    lambda kind, size: Header(kind, size).pack(),
    st.integers(0, 12),
    st.one_of(st.integers(0, 40), st.sampled_from([4096, 4097, MAX_FRAME, 2**32 - 1])),
)


@given(
    st.sampled_from(Role),
    st.sampled_from(State),
    st.lists(st.one_of(_HEADERS, st.binary(max_size=80)), max_size=12),
)
def test_garbage(role: Role, state: State, chunks: list[bytes]) -> None:
    connection = connection_in(state, role)
    limit = MAX_FROM_HOST if role is Role.GUEST else MAX_FRAME
    for chunk in chunks:
        try:
            list(connection.receive(chunk))
        except ProtocolError as error:
            assert "\n" not in str(error)  # noqa: PT017 (garbage may also be good)
            with pytest.raises(ProtocolError):
                list(connection.receive(b""))
            return
        assert len(connection._buffer._rest) < max(HEADER_SIZE, limit)
