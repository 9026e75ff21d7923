"""qrexec's data channel: every message in every state, from both ends."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.exec import (
    HEADER_SIZE,
    MAX_CHUNK,
    Chunk,
    ExitCode,
    Hello,
    OnData,
    Stream,
    Type,
    pack,
    pack_header,
)
from sessiond.wire.exec_data import FIRST, TRANSITIONS, Data, DataRole, Signal, State, Stray
from tests.sessiond.wire.exec_messages import ANY_FROM_CLIENT, ANY_FROM_SERVICE, data, splits

MESSAGES: dict[Signal, OnData] = {
    Signal.STDIN: Chunk(Stream.STDIN, b"i"),
    Signal.STDIN_END: Chunk(Stream.STDIN, b""),
    Signal.STDOUT: Chunk(Stream.STDOUT, b"o"),
    Signal.STDOUT_END: Chunk(Stream.STDOUT, b""),
    Signal.STDERR: Chunk(Stream.STDERR, b"e"),
    Signal.STDERR_END: Chunk(Stream.STDERR, b""),
    Signal.EXIT: ExitCode(3),
}
STEPS: dict[State, list[Signal]] = {
    State.RUNNING: [],
    State.STDOUT_LEFT: [Signal.STDERR_END],
    State.STDERR_LEFT: [Signal.STDOUT_END],
    State.SILENT: [Signal.STDOUT_END, Signal.STDERR_END],
    State.EXITED: [Signal.EXIT],
    State.FEEDING: [],
    State.FED: [Signal.STDIN_END],
}
SENDERS = {
    state: DataRole.CLIENT if state in {State.FEEDING, State.FED} else DataRole.SERVICE
    for state in State
}
PEERS = {DataRole.CLIENT: DataRole.SERVICE, DataRole.SERVICE: DataRole.CLIENT}
# What a stream is taken for by who does not expect it.
MEANT = {
    (DataRole.SERVICE, Signal.STDOUT): Signal.STDIN,
    (DataRole.SERVICE, Signal.STDOUT_END): Signal.STDIN_END,
    (DataRole.CLIENT, Signal.STDIN): Signal.STDOUT,
    (DataRole.CLIENT, Signal.STDIN_END): Signal.STDOUT_END,
}


def packed(message: OnData) -> bytes:
    if isinstance(message, ExitCode):
        return pack(message)
    return pack_header(message.stream, len(message.data)) + bytes(message.data)


def meant(role: DataRole, signal: Signal) -> OnData:
    """Return the message of SIGNAL as ROLE understands it."""
    message = MESSAGES[MEANT.get((role, signal), signal)]
    content = MESSAGES[signal]
    if isinstance(message, Chunk) and isinstance(content, Chunk):
        return Chunk(message.stream, content.data)
    return message


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("signal", Signal)
def test_own_side_says_only_what_the_table_has(state: State, signal: Signal) -> None:
    channel = data(SENDERS[state])
    for step in STEPS[state]:
        channel.send(MESSAGES[step])
    assert channel.own is state
    if signal in TRANSITIONS[state]:
        assert channel.send(MESSAGES[signal]) == packed(MESSAGES[signal])
        assert channel.own is TRANSITIONS[state][signal]
    else:
        with pytest.raises(LocalProtocolError, match=f"{signal.name} in state {state.name}"):
            channel.send(MESSAGES[signal])
        assert channel.own is state


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("signal", Signal)
def test_peer_is_heard_only_as_the_table_says(state: State, signal: Signal) -> None:
    channel = data(PEERS[SENDERS[state]])
    for step in STEPS[state]:
        list(channel.receive(packed(MESSAGES[step])))
    assert channel.peer is state
    understood = MEANT.get((channel.role, signal), signal)
    found = [m for m in channel.receive(packed(MESSAGES[signal])) if not isinstance(m, Stray)]
    if understood in TRANSITIONS[state]:
        assert found == [meant(channel.role, signal)]
        assert channel.peer is TRANSITIONS[state][understood]
    else:  # dropped, and no fault
        assert found == []
        assert channel.peer is state


def test_table_says_what_the_protocol_does() -> None:
    """No stream goes on after its end, and nothing after the exit code; all else may be."""
    ends = {Signal.STDOUT_END: "STDOUT", Signal.STDERR_END: "STDERR", Signal.STDIN_END: "STDIN"}
    of_service = [s for s in Signal if s not in {Signal.STDIN, Signal.STDIN_END}]
    for role, words in ((DataRole.SERVICE, of_service), (DataRole.CLIENT, list(Signal)[:2])):
        for signals in itertools.product(words, repeat=4):
            state: State | None = FIRST[role]
            said: set[str] = set()
            for signal in signals:
                stream = signal.name.removesuffix("_END")
                is_allowed = not said & {stream, "EXIT"}
                state = TRANSITIONS[state].get(signal) if state else None
                assert (state is not None) is is_allowed, signals
                if not is_allowed:
                    break
                said.add("EXIT" if signal is Signal.EXIT else ends.get(signal, ""))


def test_states_are_reached_from_the_first_ones() -> None:
    reached = set(FIRST.values())
    for _ in State:
        reached |= {after for state in reached for after in TRANSITIONS[state].values()}
    assert reached == set(State)


@pytest.mark.parametrize(
    ("role", "signal", "kind", "is_taken"),
    [
        (DataRole.SERVICE, Signal.STDOUT, Type.DATA_STDOUT, True),
        (DataRole.SERVICE, Signal.STDERR, Type.DATA_STDERR, False),
        (DataRole.SERVICE, Signal.EXIT, Type.DATA_EXIT_CODE, False),
        (DataRole.CLIENT, Signal.STDIN, Type.DATA_STDIN, True),
    ],
)
def test_stray_is_told_once(role: DataRole, signal: Signal, kind: Type, is_taken: bool) -> None:
    channel = data(role)
    taken = [meant(role, signal)] if is_taken else []
    assert next(channel.receive(packed(MESSAGES[signal]))) == Stray(kind)
    assert list(channel.receive(b"")) == taken
    assert list(channel.receive(packed(MESSAGES[signal]))) == taken


@pytest.mark.parametrize("role", DataRole)
@pytest.mark.parametrize("kind", [k for k in Type if k not in {*Stream, Type.DATA_EXIT_CODE}])
def test_messages_of_control_end_the_channel(role: DataRole, kind: Type) -> None:
    size = {Type.SERVICE_REFUSED: 32, Type.TRIGGER_SERVICE: 128, Type.CONNECTION_TERMINATED: 8}
    channel = data(role)
    for _ in range(2):
        with pytest.raises(ProtocolError, match=kind.name):
            list(channel.receive(pack_header(kind, size.get(kind, 40 if kind < 0x210 else 200))))


@pytest.mark.parametrize(("version", "most"), [(2, 4096), (3, 65536), (4, 65536)])
@pytest.mark.parametrize("kind", [*Stream, Type.DATA_EXIT_CODE])
def test_longest_message_of_each_version(version: int, most: int, kind: int) -> None:
    role = DataRole.SERVICE if kind == Stream.STDIN else DataRole.CLIENT
    channel = data(role, version)
    assert channel.max_chunk == most
    [message] = channel.receive(pack_header(kind, most) + bytes(most))
    assert message == (ExitCode(0) if kind == 0x193 else Chunk(Stream(kind), bytes(most)))
    channel = data(role, version)
    with pytest.raises(ProtocolError, match=f"{Type(kind).name} with {most + 1} bytes"):
        list(channel.receive(pack_header(kind, most + 1)))  # before any of the body


@pytest.mark.parametrize(("version", "most"), [(2, 4096), (3, 65536), (4, 65536)])
def test_no_longer_chunk_is_sent(version: int, most: int) -> None:
    for role, stream in ((DataRole.CLIENT, Stream.STDIN), (DataRole.SERVICE, Stream.STDERR)):
        channel = data(role, version)
        assert len(channel.send(Chunk(stream, bytes(most)))) == HEADER_SIZE + most
        with pytest.raises(LocalProtocolError, match=f"{stream.name} with {most + 1} bytes"):
            channel.begin_chunk(stream, most + 1)


def test_chunk_limit_holds_for_what_comes_with_the_hello() -> None:
    channel = Data(DataRole.SERVICE)
    channel.send_hello()
    messages = channel.receive(pack(Hello(2)) + pack_header(Type.DATA_STDIN, 4097))
    assert next(messages) == Hello(2)
    with pytest.raises(ProtocolError, match="DATA_STDIN with 4097 bytes, over 4096"):
        next(messages)


def test_chunk_whose_body_the_caller_sends() -> None:
    channel = data(DataRole.SERVICE)
    assert channel.begin_chunk(Stream.STDOUT, 5) == bytes.fromhex("9101000005000000")
    assert channel.begin_chunk(Stream.STDOUT, 0) == bytes.fromhex("9101000000000000")
    assert channel.own is State.STDERR_LEFT


def test_one_chunk_is_taken_at_a_time() -> None:
    channel = data(DataRole.SERVICE)
    stream = b"".join(packed(Chunk(Stream.STDIN, b"%d" % n)) for n in range(3))
    found = [next(channel.receive(stream))]
    found += [next(channel.receive(b"")) for _ in range(2)]
    assert found == [Chunk(Stream.STDIN, b"%d" % n) for n in range(3)]
    assert channel.is_between_messages


def legal(messages: list[OnData], role: DataRole) -> list[OnData]:
    """Return those that the state lets ROLE say, one after the other."""
    probe, said = data(role), []
    for message in messages:
        try:
            probe.send(message)
        except LocalProtocolError:
            continue
        said.append(message)
    return said


@given(st.lists(ANY_FROM_SERVICE, max_size=6), st.lists(ANY_FROM_CLIENT, max_size=6), st.data())
def test_whatever_both_sides_say_arrives(
    outputs: list[OnData], inputs: list[OnData], draw: st.DataObject
) -> None:
    for words, role in ((outputs, DataRole.SERVICE), (inputs, DataRole.CLIENT)):
        sender, receiver = data(role), data(PEERS[role])
        said = legal(words, role)
        stream = b"".join(map(sender.send, said))
        assert [m for piece in splits(draw, stream) for m in receiver.receive(piece)] == said
        assert receiver.peer is sender.own
        assert receiver.is_between_messages


NOISE = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from([packed(message) for message in MESSAGES.values()]),
        st.builds(pack_header, st.sampled_from(Type), st.integers(0, MAX_CHUNK + 1)),
    ),
    max_size=10,
)


@given(NOISE, st.sampled_from(DataRole), st.sampled_from([0, 2, 3, 4]))
def test_any_bytes_are_messages_or_the_channels_end(
    pieces: list[bytes], role: DataRole, version: int
) -> None:
    channel = data(role, version) if version else Data(role)
    told: list[object] = []
    for piece in pieces:
        try:
            told += list(channel.receive(piece))
        except ProtocolError:
            assert channel.is_between_messages
            break
        assert len(channel._reader._held) < HEADER_SIZE + MAX_CHUNK
    check_order(role, [m for m in told if isinstance(m, Chunk | ExitCode)])


def check_order(role: DataRole, told: list[OnData]) -> None:
    """Nothing of a stream after its end, nothing after the exit code, and only the right streams.

    This is the protocol's word again, without the table.
    """
    ended: set[Stream] = set()
    for at, message in enumerate(told):
        if isinstance(message, ExitCode):
            assert role is DataRole.CLIENT
            assert at == len(told) - 1
            return
        is_input = message.stream is Stream.STDIN
        assert is_input is (role is DataRole.SERVICE)
        assert message.stream not in ended
        if message.is_end:
            ended.add(message.stream)
