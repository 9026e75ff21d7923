"""qrexec's messages on the wire: worked examples both ways, and the limits of each."""

import pytest

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.exec import (
    PLACE_SIZE,
    Chunk,
    Connect,
    Exec,
    ExitCode,
    Hello,
    JustExec,
    OnControl,
    Place,
    Refuse,
    Stream,
    Terminated,
    Trigger,
    Type,
    pack,
    pack_header,
    pack_place,
    parse_place,
)
from sessiond.wire.exec_control import ControlRole
from sessiond.wire.exec_data import DataRole
from tests.sessiond.wire.exec_messages import (
    FEEDS,
    FROM_CLIENT,
    FROM_SERVICE,
    HELLOS,
    PLACE,
    TERMINATED,
    TO_AGENT,
    TRIGGERS,
    Feed,
    control,
    data,
)

feeds = pytest.mark.parametrize("feed", FEEDS, ids=lambda feed: feed.__name__)
FROM_DAEMON = [*TO_AGENT.values()]
OF_SERVICE = [*FROM_SERVICE.values()]


def body(message: OnControl) -> bytes:
    return pack(message)[8:]


def told_to_agent(kind: Type, payload: bytes) -> list[object]:
    return list(control(ControlRole.AGENT).receive(pack_header(kind, len(payload)) + payload))


def told_to_daemon(kind: Type, payload: bytes, version: int = 4) -> list[object]:
    message = pack_header(kind, len(payload)) + payload
    return list(control(ControlRole.DAEMON, version).receive(message))


def told_to_client(kind: Type, payload: bytes) -> list[object]:
    return list(data(DataRole.CLIENT).receive(pack_header(kind, len(payload)) + payload))


@pytest.mark.parametrize("version", HELLOS)
def test_hello(version: int) -> None:
    assert pack(Hello(version)).hex() == HELLOS[version]
    assert control(ControlRole.AGENT, version).version == version
    assert data(DataRole.SERVICE, version).version == version


@feeds
@pytest.mark.parametrize(("bytes_of_it", "message"), FROM_DAEMON, ids=TO_AGENT)
def test_daemon_to_agent(bytes_of_it: str, message: OnControl, feed: Feed) -> None:
    packed = bytes.fromhex(bytes_of_it)
    assert control(ControlRole.DAEMON).send(message) == packed
    agent = control(ControlRole.AGENT)
    assert [m for piece in feed(packed) for m in agent.receive(piece)] == [message]


@feeds
@pytest.mark.parametrize("version", TRIGGERS)
def test_call_to_daemon(version: int, feed: Feed) -> None:
    bytes_of_it, message = TRIGGERS[version]
    packed = bytes.fromhex(bytes_of_it)
    assert control(ControlRole.AGENT, version).send(message) == packed
    daemon = control(ControlRole.DAEMON, version)
    assert [m for piece in feed(packed) for m in daemon.receive(piece)] == [message]


@feeds
def test_end_to_daemon(feed: Feed) -> None:
    bytes_of_it, message = TERMINATED
    packed = bytes.fromhex(bytes_of_it)
    assert control(ControlRole.AGENT).send(message) == packed
    daemon = control(ControlRole.DAEMON)
    assert [m for piece in feed(packed) for m in daemon.receive(piece)] == [message]


@feeds
@pytest.mark.parametrize(("bytes_of_it", "message"), OF_SERVICE, ids=FROM_SERVICE)
def test_service_to_client(bytes_of_it: str, message: Chunk | ExitCode, feed: Feed) -> None:
    packed = bytes.fromhex(bytes_of_it)
    assert data(DataRole.SERVICE).send(message) == packed
    client = data(DataRole.CLIENT)
    assert [m for piece in feed(packed) for m in client.receive(piece)] == [message]


@feeds
@pytest.mark.parametrize(("bytes_of_it", "message"), FROM_CLIENT.values(), ids=FROM_CLIENT)
def test_client_to_service(bytes_of_it: str, message: Chunk, feed: Feed) -> None:
    packed = bytes.fromhex(bytes_of_it)
    assert data(DataRole.CLIENT).send(message) == packed
    service = data(DataRole.SERVICE)
    assert [m for piece in feed(packed) for m in service.receive(piece)] == [message]


def test_place_for_a_caller_in_the_guest() -> None:
    packed = bytes.fromhex("2b00000001040000")
    assert pack_place(Place(43, 1025)) == packed
    assert len(packed) == PLACE_SIZE
    assert parse_place(packed) == Place(43, 1025)


def test_whole_session_of_a_command() -> None:
    service = data(DataRole.SERVICE)
    said = b"".join(service.send(message) for _, message in list(FROM_SERVICE.values())[:5])
    assert said.hex() == "".join(packed for packed, _ in list(FROM_SERVICE.values())[:5])


def test_last_byte_of_a_command_line_is_its_end_whatever_it_is() -> None:
    place = pack_place(PLACE)
    assert told_to_agent(Type.EXEC_CMDLINE, place + b"u:true!") == [Exec(PLACE, b"u:true")]
    assert told_to_agent(Type.JUST_EXEC, place + b"u:a\0b\0") == [JustExec(PLACE, b"u:a")]
    assert told_to_agent(Type.JUST_EXEC, place + b"u") == [JustExec(PLACE, b"")]
    ident = bytes(range(65, 97))
    assert told_to_agent(Type.SERVICE_CONNECT, place + ident) == [Connect(PLACE, ident[:-1])]
    assert told_to_agent(Type.SERVICE_REFUSED, ident) == [Refuse(ident[:-1])]
    assert told_to_agent(Type.SERVICE_CONNECT, place + b"SOCKET1\0") == [Connect(PLACE, b"SOCKET1")]


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (Type.EXEC_CMDLINE, 8),
        (Type.EXEC_CMDLINE, 8 + 65536),
        (Type.JUST_EXEC, 7),
        (Type.JUST_EXEC, 8 + 65536),
        (Type.SERVICE_CONNECT, 8),
        (Type.SERVICE_CONNECT, 41),
        (Type.SERVICE_REFUSED, 31),
        (Type.SERVICE_REFUSED, 33),
        (Type.EXEC_CMDLINE, 2**32 - 1),
    ],
)
def test_size_that_no_daemon_sends(kind: Type, size: int) -> None:
    agent = control(ControlRole.AGENT)
    with pytest.raises(ProtocolError, match=f"^{kind.name} with {size} bytes$"):
        list(agent.receive(pack_header(kind, size)))  # before any of the body


@pytest.mark.parametrize(
    ("kind", "version", "size"),
    [
        (Type.TRIGGER_SERVICE, 2, 127),
        (Type.TRIGGER_SERVICE, 2, 129),
        (Type.TRIGGER_SERVICE3, 3, 97),
        (Type.TRIGGER_SERVICE3, 3, 96 + 65001),
        (Type.TRIGGER_SERVICE4, 4, 161),
        (Type.TRIGGER_SERVICE4, 4, 160 + 65001),
        (Type.CONNECTION_TERMINATED, 4, 7),
        (Type.CONNECTION_TERMINATED, 4, 9),
    ],
)
def test_size_that_no_agent_sends(kind: Type, version: int, size: int) -> None:
    daemon = control(ControlRole.DAEMON, version)
    with pytest.raises(ProtocolError, match=f"^{kind.name} with {size} bytes$"):
        list(daemon.receive(pack_header(kind, size)))


@pytest.mark.parametrize("command", [b"", b"x" * (65534)])
def test_longest_and_shortest_command(command: bytes) -> None:
    message = Exec(PLACE, command)
    assert list(control(ControlRole.AGENT).receive(pack(message))) == [message]


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("size", [1, 64999])
def test_longest_and_shortest_call(version: int, size: int) -> None:
    message = Trigger(b"s" * size, b"t" * 63, b"i" * 31)
    packed = control(ControlRole.AGENT, version).send(message)
    assert list(control(ControlRole.DAEMON, version).receive(packed)) == [message]


def test_source_needs_version_4() -> None:
    message = Trigger(b"s", b"t", b"i", b"x" * 63)
    for version, source in ((2, b""), (3, b""), (4, message.source)):
        packed = control(ControlRole.AGENT, version).send(message)
        [told] = control(ControlRole.DAEMON, version).receive(packed)
        assert told == Trigger(b"s", b"t", b"i", source)


@pytest.mark.parametrize(
    "payload",
    [
        bytes(160) + b"\0\0",  # no name
        bytes(160) + b"ab",  # no end
        bytes(160) + b"a\0b\0",  # two ends
        b"s" * 64 + bytes(96) + b"a\0",
        bytes(64) + b"t" * 64 + bytes(32) + b"a\0",
        bytes(128) + b"i" * 32 + b"a\0",
    ],
)
def test_call_with_a_wrong_name(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"name|service"):
        told_to_daemon(Type.TRIGGER_SERVICE4, payload)


@pytest.mark.parametrize("payload", [b"s" * 64 + bytes(64), bytes(128)])
def test_old_call_with_a_wrong_name(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"name|service"):
        told_to_daemon(Type.TRIGGER_SERVICE, payload, version=2)


@pytest.mark.parametrize(("payload", "code"), [
    (b"", 255), (b"\1\0\0", 255), (b"\1\0\0\0", 1), (b"\xff\xff\xff\xff", -1), (b"\2\0\0\0abc", 2),
])  # fmt: skip
def test_exit_code_that_is_too_short_is_255(payload: bytes, code: int) -> None:
    assert told_to_client(Type.DATA_EXIT_CODE, payload) == [ExitCode(code)]


@pytest.mark.parametrize(
    ("message", "version"),
    [
        (Exec(PLACE, b"u:" + b"x" * 65535), 4),
        (Exec(PLACE, b"u:a\0b"), 4),
        (JustExec(Place(-1, 0), b"u:a"), 4),
        (Connect(PLACE, b"i" * 32), 4),
        (Refuse(b"i" * 32), 4),
        (Terminated(Place(0, 2**32)), 4),
        (ExitCode(2**31), 4),
        (Trigger(b"s" * 65000, b"t", b"i"), 3),
        (Trigger(b"", b"t", b"i"), 3),
        (Trigger(b"", b"t", b"i"), 2),
        (Trigger(b"s" * 64, b"t", b"i"), 2),
        (Trigger(b"s", b"t" * 32, b"i"), 2),
        (Trigger(b"s", b"t" * 64, b"i"), 4),
        (Trigger(b"s", b"t", b"i" * 32), 4),
        (Trigger(b"s", b"t", b"i", b"x" * 64), 4),
        (Trigger(b"s\0", b"t", b"i"), 4),
    ],
)
def test_what_does_not_fit_is_not_packed(message: OnControl | ExitCode, version: int) -> None:
    with pytest.raises(LocalProtocolError):
        pack(message, version)


def test_content_is_not_shown() -> None:
    assert "secret" not in repr(Chunk(Stream.STDIN, b"secret"))
