"""qrexec's control channel in both roles and every version, and a call from inside the guest."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.exec import (
    HEADER_SIZE,
    LOCAL_IDENT,
    MAX_COMMAND,
    PLACE_SIZE,
    OnControl,
    Trigger,
    Type,
    pack,
    pack_header,
)
from sessiond.wire.exec_control import CallReader, Control, ControlRole
from tests.sessiond.wire.exec_messages import (
    ANY_TO_AGENT,
    FEEDS,
    HELLOS,
    TERMINATED,
    TO_AGENT,
    TRIGGERS,
    Feed,
    any_to_daemon,
    control,
    splits,
)

feeds = pytest.mark.parametrize("feed", FEEDS, ids=lambda feed: feed.__name__)
CALL = bytes.fromhex(TRIGGERS[4][0])


def packed_of(kind: Type) -> bytes:
    """Return a message of this type, of the wire's shape."""
    for hexadecimal, _ in (*TO_AGENT.values(), *TRIGGERS.values(), TERMINATED):
        packed = bytes.fromhex(hexadecimal)
        if packed.startswith(pack_header(kind, 0)[:4]):
            return packed
    return pack_header(kind, 4) + bytes(4)


def heard_by(role: ControlRole, version: int) -> set[Type]:
    if role is ControlRole.AGENT:
        return {Type.EXEC_CMDLINE, Type.JUST_EXEC, Type.SERVICE_CONNECT, Type.SERVICE_REFUSED}
    trigger = {2: Type.TRIGGER_SERVICE, 3: Type.TRIGGER_SERVICE3, 4: Type.TRIGGER_SERVICE4}
    return {trigger[version], Type.CONNECTION_TERMINATED}


@pytest.mark.parametrize("version", HELLOS)
@pytest.mark.parametrize("role", ControlRole)
@pytest.mark.parametrize("kind", Type)
def test_each_type_in_each_role_and_version(kind: Type, role: ControlRole, version: int) -> None:
    channel = control(role, version)
    if kind in heard_by(role, version):
        assert len(list(channel.receive(packed_of(kind)))) == 1
        return
    for _ in range(2):
        with pytest.raises(ProtocolError, match=kind.name):
            list(channel.receive(packed_of(kind)))


@pytest.mark.parametrize("role", ControlRole)
@pytest.mark.parametrize("message", [*(m for _, m in TO_AGENT.values()), TRIGGERS[4][1], TERMINATED[1]], ids=lambda m: type(m).__name__)  # fmt: skip  # noqa: E501
def test_each_role_says_only_its_own(role: ControlRole, message: OnControl) -> None:
    is_daemons = message in [m for _, m in TO_AGENT.values()]
    channel = control(role)
    if is_daemons is (role is ControlRole.DAEMON):
        assert channel.send(message) == pack(message)
    else:
        with pytest.raises(LocalProtocolError, match=f"not for the role {role.name}"):
            channel.send(message)


@pytest.mark.parametrize("version", HELLOS)
@given(draw=st.data())
@settings(max_examples=40)
def test_whatever_agent_and_daemon_say_arrives(version: int, draw: st.DataObject) -> None:
    for role, peer, words in (
        (ControlRole.DAEMON, ControlRole.AGENT, ANY_TO_AGENT),
        (ControlRole.AGENT, ControlRole.DAEMON, any_to_daemon(version)),
    ):
        messages: list[OnControl] = draw.draw(st.lists(words, max_size=5))
        sender, receiver = control(role, version), control(peer, version)
        stream = b"".join(map(sender.send, messages))
        found = [m for piece in splits(draw, stream) for m in receiver.receive(piece)]
        assert found == messages
        assert receiver.is_between_messages


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([packed_of(kind) for kind in Type]),
            st.sampled_from(sorted(Type)).map(lambda kind: pack_header(kind, 33)),
        ),
        max_size=8,
    ),
    st.sampled_from(ControlRole),
    st.booleans(),
)
def test_any_bytes_are_messages_or_the_channels_end(
    pieces: list[bytes], role: ControlRole, is_open: bool
) -> None:
    channel = control(role) if is_open else Control(role)
    for piece in pieces:
        try:
            list(channel.receive(piece))
        except ProtocolError:
            assert channel.is_between_messages
            return
        assert len(channel._reader._held) < HEADER_SIZE + PLACE_SIZE + MAX_COMMAND


@feeds
def test_call_from_inside(feed: Feed) -> None:
    reader = CallReader()
    if feed.__name__ == "with_a_tail":
        for _ in range(2):
            with pytest.raises(ProtocolError, match="bytes after a call"):
                [reader.receive(piece) for piece in feed(CALL)]
        return
    *before, call = [reader.receive(piece) for piece in feed(CALL)]
    assert not any(before)
    assert call == Trigger(b"qubes.Test+x", b"target_domain", LOCAL_IDENT)
    assert reader.receive(b"") is None
    with pytest.raises(ProtocolError, match="bytes after a call"):
        reader.receive(b"\0")


@pytest.mark.parametrize("kind", sorted(set(Type) - {Type.TRIGGER_SERVICE4}))
def test_only_a_call_comes_from_inside(kind: Type) -> None:
    reader = CallReader()
    for _ in range(2):
        with pytest.raises(ProtocolError, match=f"{kind.name} instead of a call"):
            reader.receive(packed_of(kind)[:HEADER_SIZE])


def test_call_from_inside_is_bounded() -> None:
    with pytest.raises(ProtocolError, match="TRIGGER_SERVICE4 with 65161 bytes"):
        CallReader().receive(pack_header(Type.TRIGGER_SERVICE4, 160 + 65001))
    with pytest.raises(ProtocolError, match="unknown type 0x214"):
        CallReader().receive(pack_header(0x214, 0))


@given(st.binary(max_size=400), st.booleans(), st.data())
def test_any_bytes_from_inside_are_a_call_or_refused(
    noise: bytes, is_framed: bool, draw: st.DataObject
) -> None:
    stream = pack_header(Type.TRIGGER_SERVICE4, len(noise)) + noise if is_framed else noise
    reader = CallReader()
    calls = []
    try:
        calls = [call for piece in splits(draw, stream) if (call := reader.receive(piece))]
    except ProtocolError:
        with pytest.raises(ProtocolError):
            reader.receive(b"")
        return
    for call in calls:
        assert list(control(ControlRole.DAEMON).receive(control(ControlRole.AGENT).send(call))) == [
            call
        ]


@pytest.mark.parametrize("cut", [False, True])
def test_what_is_wrong_with_a_call_is_said_however_it_is_cut(cut: bool) -> None:
    """Not that there is more, which is only seen when it comes along."""
    wrong = pack_header(Type.TRIGGER_SERVICE4, 200) + b"+" * 200
    with pytest.raises(ProtocolError, match="a name that fills its 64 bytes"):
        CallReader().receive(wrong if cut else wrong + b"x")
