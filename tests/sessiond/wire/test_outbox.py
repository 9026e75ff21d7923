"""What is written to the port, in which order, and what is left out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import ProtocolError
from sessiond.wire.buffer import Header, MessageBuffer
from sessiond.wire.device import Type
from sessiond.wire.outbox import _LASTING, _ORDER, Kind, Outbox


def message(kind: Kind, text: bytes = b"") -> bytes:
    return Header(kind, len(text)).pack() + text


def taken(outbox: Outbox, size: int = 1 << 30) -> bytes:
    """Write at most SIZE bytes."""
    data = b""
    while (part := bytes(outbox.peek()[: size - len(data)])) and len(data) < size:
        outbox.advance(len(part))
        data += part
    return data


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


def test_empty(outbox: Outbox) -> None:
    assert not outbox.peek()
    assert not outbox.has_frame
    outbox.drop_waiting()
    assert not outbox.peek()


def test_order(outbox: Outbox) -> None:
    for kind in reversed(_ORDER):
        outbox.put(kind, message(kind))
    # DATA was put before FORMAT, and belongs to an older one.
    kinds = [kind for kind in _ORDER if kind is not Type.DATA]
    assert taken(outbox) == b"".join(message(kind) for kind in kinds)


def test_frame_comes_last(outbox: Outbox) -> None:
    outbox.put(Type.FORMAT, b"format")
    outbox.put(Type.DATA, b"data")
    outbox.put(Type.CURSOR_MOVE, b"move")
    assert taken(outbox) == b"formatmovedata"


@pytest.mark.parametrize("kind", _ORDER)
def test_only_the_newest_of_a_kind(outbox: Outbox, kind: Kind) -> None:
    for text in (b"old", b"older", b"newest"):
        outbox.put(kind, text)
    assert taken(outbox) == b"newest"


@pytest.mark.parametrize("kind", _ORDER)
@pytest.mark.parametrize("disturb", ["put", "format", "drop"])
def test_begun_is_finished(outbox: Outbox, kind: Kind, disturb: str) -> None:
    outbox.put(kind, b"begun")
    assert taken(outbox, 1) == b"b"
    match disturb:
        case "put":
            outbox.put(kind, b"next")
        case "format":
            outbox.put(Type.FORMAT, b"next")
        case _:
            outbox.put(Type.DATA, b"dropped")
            outbox.drop_waiting()
    assert taken(outbox) == b"egun" + (b"" if disturb == "drop" else b"next")


def test_shown_is_begun(outbox: Outbox) -> None:
    outbox.put(Type.DATA, b"old")
    assert bytes(outbox.peek()) == b"old"
    outbox.put(Type.FORMAT, b"format")
    assert taken(outbox) == b"oldformat"


def test_size_is_that_of_the_whole_message(outbox: Outbox) -> None:
    outbox.put(Type.FORMAT, b"format")
    outbox.put(Type.DATA, b"a frame")
    outbox.peek()
    outbox.advance(4)
    assert (bytes(outbox.peek()), outbox.size) == (b"at", 6)
    outbox.advance(2)
    assert (bytes(outbox.peek()), outbox.size) == (b"a frame", 7)
    outbox.resume(b"rest")
    assert outbox.size == 4


def test_has_frame(outbox: Outbox) -> None:
    steps = []
    outbox.put(Type.CURSOR_MOVE, b"m")
    steps.append(outbox.has_frame)
    outbox.put(Type.DATA, b"data")
    steps.append(outbox.has_frame)
    taken(outbox, 3)
    steps.append(outbox.has_frame)
    taken(outbox)
    steps.append(outbox.has_frame)
    assert steps == [False, True, True, False]


def test_dropped_frame_is_none(outbox: Outbox) -> None:
    outbox.put(Type.DATA, b"data")
    outbox.put(Type.FORMAT, b"format")
    assert not outbox.has_frame
    outbox.put(Type.DATA, b"data")
    outbox.drop_waiting()
    assert not outbox.has_frame


def test_what_was_lent_is_kept(outbox: Outbox) -> None:
    lent = bytearray(b"format frame")
    with memoryview(lent) as view:
        outbox.put(Type.FORMAT, view[:6])
        outbox.put(Type.DATA, view[6:])
        assert taken(outbox, 2) == b"fo"
        outbox.keep()
    lent.clear()  # BufferError if it still refers to it
    assert outbox.has_frame
    assert taken(outbox) == b"rmat frame"


def test_what_is_kept_already_is_not_copied(outbox: Outbox) -> None:
    frame = b"frame"
    outbox.put(Type.DATA, frame)
    outbox.keep()
    assert outbox.peek().obj is frame
    outbox.keep()
    assert outbox.peek().obj is frame


PUT = st.tuples(st.sampled_from(_ORDER), st.binary(max_size=40))
WRITE = st.integers(1, 60)


class Writer:
    """An outbox, a slow port and a peer; keeps what must still come."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.peer = MessageBuffer(self._refuse_unknown)
        self.put_so_far: list[tuple[int, bytes]] = []
        self.newest: dict[int, bytes] = {}
        self.got: list[tuple[int, bytes]] = []

    @staticmethod
    def _refuse_unknown(header: Header) -> None:
        if header.type not in _ORDER:
            raise ProtocolError(f"type {header.type}")

    def put(self, kind: Kind, body: bytes) -> None:
        self.outbox.put(kind, message(kind, body))
        self.put_so_far.append((kind, body))
        self.newest[kind] = body
        if kind is Type.FORMAT:
            self.newest.pop(Type.DATA, None)

    def drop(self) -> None:
        self.outbox.drop_waiting()
        self.newest = {k: v for k, v in self.newest.items() if k in _LASTING}

    def write(self, size: int) -> None:
        data = taken(self.outbox, size)
        self.got += [(header.type, body) for header, body in self.peer.feed(data)]


@given(st.lists(st.one_of(PUT, WRITE, st.none()), max_size=60))
def test_whole_messages_whatever_is_written(
    actions: list[tuple[Kind, bytes] | int | None],
) -> None:
    writer = Writer()
    for action in actions:
        match action:
            case None:
                writer.drop()
            case int():
                writer.write(action)
            case kind, body:
                writer.put(kind, body)
    writer.write(1 << 30)
    assert writer.peer.is_between_messages
    assert not writer.outbox.has_frame
    assert all(found in writer.put_so_far for found in writer.got)
    last = dict(writer.got)
    assert {kind: last.get(kind) for kind in writer.newest} == writer.newest


def test_answers_to_the_peer_are_not_dropped(outbox: Outbox) -> None:
    for kind in _ORDER:
        outbox.put(kind, message(kind))
    outbox.drop_waiting()
    assert taken(outbox) == b"".join(message(kind) for kind in _ORDER if kind in _LASTING)


def test_kind_that_no_guest_sends_is_refused(outbox: Outbox) -> None:
    with pytest.raises(ValueError, match="START_STOP"):
        outbox.put(Type.START_STOP, b"x")
