"""The greeting of qrexec's channels, in every state, and what ends a channel."""

from collections.abc import Callable

import pytest

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.exec import (
    VERSION,
    Chunk,
    ExitCode,
    Hello,
    JustExec,
    Stream,
    Terminated,
    Type,
    pack,
    pack_header,
)
from sessiond.wire.exec_channel import GREETINGS, Greeting, Word
from sessiond.wire.exec_control import Control, ControlRole
from sessiond.wire.exec_data import Data, DataRole
from tests.sessiond.wire.exec_messages import PLACE

AnyChannel = Control | Data

PEER_HELLO = pack(Hello())
STEPS: dict[Greeting, list[Word]] = {
    Greeting.NEW: [],
    Greeting.GREETED: [Word.OWN_HELLO],
    Greeting.MET: [Word.PEER_HELLO],
    Greeting.OPEN: [Word.OWN_HELLO, Word.PEER_HELLO],
}
MAKERS: dict[str, Callable[[], AnyChannel]] = {
    "agent": lambda: Control(ControlRole.AGENT),
    "daemon": lambda: Control(ControlRole.DAEMON),
    "service": lambda: Data(DataRole.SERVICE),
    "client": lambda: Data(DataRole.CLIENT),
}


def own_message(channel: AnyChannel) -> bytes:
    if isinstance(channel, Control):
        is_agent = channel.role is ControlRole.AGENT
        return channel.send(Terminated(PLACE) if is_agent else JustExec(PLACE, b"u:a"))
    is_service = channel.role is DataRole.SERVICE
    return channel.send(Chunk(Stream.STDERR if is_service else Stream.STDIN, b"x"))


def peer_message(channel: AnyChannel) -> bytes:
    if isinstance(channel, Control):
        is_agent = channel.role is ControlRole.AGENT
        return pack(JustExec(PLACE, b"u:a") if is_agent else Terminated(PLACE))
    is_service = channel.role is DataRole.SERVICE
    return pack_header(Type.DATA_STDIN, 0) if is_service else pack(ExitCode(0))


def do(channel: AnyChannel, word: Word) -> None:
    match word:
        case Word.OWN_HELLO:
            assert channel.send_hello() == PEER_HELLO
        case Word.PEER_HELLO:
            assert list(channel.receive(PEER_HELLO)) == [Hello()]
        case Word.OWN_MESSAGE:
            assert own_message(channel)
        case Word.PEER_MESSAGE:
            assert len(list(channel.receive(peer_message(channel)))) == 1


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("greeting", Greeting)
@pytest.mark.parametrize("word", Word)
def test_greeting_is_as_the_table_says(maker: str, greeting: Greeting, word: Word) -> None:
    channel = MAKERS[maker]()
    for step in STEPS[greeting]:
        do(channel, step)
    assert channel.greeting is greeting
    assert channel.is_open is (greeting is Greeting.OPEN)
    if word in GREETINGS[greeting]:
        do(channel, word)
        assert channel.greeting is GREETINGS[greeting][word]
        return
    is_ours = word in {Word.OWN_HELLO, Word.OWN_MESSAGE}
    for _ in range(2):  # and stays so
        expected = LocalProtocolError if is_ours else ProtocolError
        with pytest.raises(expected, match=f"while the greeting is {greeting.name}"):
            do(channel, word)
        assert channel.greeting is greeting


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize(("own", "peers", "both"), [
    (4, 4, 4), (4, 3, 3), (4, 2, 2), (2, 4, 2), (3, 2, 2), (4, 5, 4), (5, 5, 4), (4, 2**32 - 1, 4),
])  # fmt: skip
def test_older_version_holds(maker: str, own: int, peers: int, both: int) -> None:
    for is_ours_first in (True, False):
        channel = MAKERS[maker]()
        if is_ours_first:
            channel.send_hello(Hello(own))
        [hello] = channel.receive(pack(Hello(peers)))
        assert hello == Hello(peers)
        if not is_ours_first:
            channel.send_hello(Hello(own))
        assert channel.version == both


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("version", [0, 1])
def test_too_old_is_refused(maker: str, version: int) -> None:
    channel = MAKERS[maker]()
    with pytest.raises(LocalProtocolError, match=f"version {version}"):
        channel.send_hello(Hello(version))
    channel.send_hello()
    with pytest.raises(ProtocolError, match=f"version {version} is older than 2"):
        list(channel.receive(pack(Hello(version))))
    assert not channel.is_open


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("size", [0, 3, 5])
def test_hello_of_another_size(maker: str, size: int) -> None:
    channel = MAKERS[maker]()
    with pytest.raises(ProtocolError, match=f"HELLO with {size} bytes"):
        list(channel.receive(pack_header(Type.HELLO, size)))


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("kind", [0, 0x18F, 0x194, 0x204, 0x214, 0x301, 2**32 - 1])
def test_unknown_type(maker: str, kind: int) -> None:
    channel = MAKERS[maker]()
    do(channel, Word.OWN_HELLO)
    with pytest.raises(ProtocolError, match=f"unknown type {kind:#x}"):
        list(channel.receive(PEER_HELLO + pack_header(kind, 0)))


@pytest.mark.parametrize("maker", MAKERS)
def test_messages_before_the_error_are_not_lost_and_after_it_none_comes(maker: str) -> None:
    channel = MAKERS[maker]()
    channel.send_hello()
    messages = channel.receive(PEER_HELLO + peer_message(channel) + PEER_HELLO)
    assert next(messages) == Hello(VERSION)
    next(messages)
    with pytest.raises(ProtocolError) as first:
        next(messages)
    with pytest.raises(ProtocolError) as second:
        channel.receive(peer_message(channel))
    assert second.value is first.value
    assert channel.is_between_messages  # nothing is kept


@pytest.mark.parametrize("maker", MAKERS)
def test_what_is_not_taken_stays(maker: str) -> None:
    channel = MAKERS[maker]()
    channel.send_hello()
    messages = channel.receive(PEER_HELLO + peer_message(channel) + b"\0")
    assert next(messages) == Hello()
    assert len(list(channel.receive(b""))) == 1
    assert list(messages) == []
    assert not channel.is_between_messages


@pytest.mark.parametrize("maker", MAKERS)
def test_fed_bytes_may_change_afterwards(maker: str) -> None:
    channel = MAKERS[maker]()
    memory = bytearray(PEER_HELLO)
    messages = channel.receive(memory)
    memory[:] = bytes(len(memory))
    assert list(messages) == [Hello()]
