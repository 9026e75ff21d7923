"""What holds for all that a peer over qrexec could send.

However it is cut, and however much of it is taken at a time, the same is read; then comes
``ProtocolError``, and the same one ever after, or nothing. What was read can be said by the other
side, and is the same when it is read there. No stream goes on after its end, and nothing follows an
exit code.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import StrEnum
from itertools import cycle

from sessiond.errors import LocalProtocolError, ProtocolError, StartError
from sessiond.wire.exec import (
    HEADER_SIZE,
    MAX_CHUNK,
    MAX_IDENT,
    PLACE_SIZE,
    Chunk,
    ExitCode,
    Hello,
    OnControl,
    OnData,
    Stream,
    Trigger,
    pack,
    pack_header,
)
from sessiond.wire.exec_command import ServiceCall, parse_command_line
from sessiond.wire.exec_control import CallReader, Control, ControlRole
from sessiond.wire.exec_data import Data, DataRole, Stray
from tests.fuzz.qrexec.seeds import CHOICES, FRAMED, GREETED, READERS, TYPES, VERSION_SHIFT


class Outcome(StrEnum):
    """What an input may come to."""

    NOTHING = "nothing"
    MESSAGES = "messages"
    COMMAND = "command"
    REFUSAL = "refusal"


def check(data: bytes) -> Outcome:
    """Return what the input is. Raises AssertionError, or what should not be."""
    choices, stream = data[:CHOICES].ljust(CHOICES, b"\0"), data[CHOICES:]
    way = choices[2]
    if way & FRAMED:
        stream = _framed(stream)
    reader = READERS[(way & 7) % len(READERS)]
    if reader == "command line":
        return _check_command_line(stream)
    chunks = list(_chunks(stream, choices[0] + 1, choices[1] + 1))
    if reader == "caller":
        return _check_caller(stream, chunks)
    _check_packing(stream)
    return _check_channel(reader, way, stream, chunks)


def _framed(lines: bytes) -> bytes:
    """Make messages whose lengths are right: otherwise few mutations get as far as the bodies."""
    return b"".join(
        pack_header(TYPES[line[0] % len(TYPES)], len(line) - 1) + line[1:]
        for line in lines.split(b"\n")
        if line
    )


def _chunks(stream: bytes, *sizes: int) -> Iterator[bytes]:
    begin = 0
    for size in cycle(sizes):
        if begin >= len(stream):
            return
        yield stream[begin : begin + size]
        begin += size


def _check_channel(reader: str, way: int, stream: bytes, chunks: list[bytes]) -> Outcome:
    def make() -> Control | Data:
        return _made(reader, way)

    found, error = _read(make(), [stream])
    assert _read(make(), chunks) == (found, error)
    assert _read_singly(make(), chunks) == (found, error)
    channel = make()
    if isinstance(channel, Control):
        _check_said(channel, found)
    else:
        _check_order(channel.role, found)
        _check_streams(channel.role, found)
    if error:
        return Outcome.REFUSAL
    return Outcome.MESSAGES if found else Outcome.NOTHING


def _made(reader: str, way: int) -> Control | Data:
    made: dict[str, Callable[[], Control | Data]] = {
        "agent": lambda: Control(ControlRole.AGENT),
        "daemon": lambda: Control(ControlRole.DAEMON),
        "service": lambda: Data(DataRole.SERVICE),
        "client": lambda: Data(DataRole.CLIENT),
    }
    channel = made[reader]()
    channel.send_hello()
    if way & GREETED:
        version = way >> VERSION_SHIFT & 3
        list(channel.receive(pack(Hello(version if version > 1 else 4))))
    return channel


Message = Hello | OnControl | OnData | Stray


def _read(channel: Control | Data, chunks: list[bytes]) -> tuple[list[Message], str]:
    """Return what comes, and why nothing more does."""
    found: list[Message] = []
    try:
        for chunk in chunks:
            for message in channel.receive(chunk):
                found.append(message)  # noqa: PERF402 (those before an error count)
    except ProtocolError as error:
        _check_dead(channel, str(error))
        return found, str(error)
    return found, ""


def _read_singly(channel: Control | Data, chunks: list[bytes]) -> tuple[list[Message], str]:
    """Do as ``_read``, with a new iterator for each message."""
    found: list[Message] = []
    try:
        for chunk in chunks:
            message: Message | None = next(channel.receive(chunk), None)
            while message:
                found.append(message)
                message = next(channel.receive(b""), None)
    except ProtocolError as error:
        return found, str(error)
    return found, ""


def _check_dead(channel: Control | Data | CallReader, text: str) -> None:
    assert isinstance(channel, CallReader) or channel.is_between_messages
    again = ""
    try:
        channel.receive(b"")
    except ProtocolError as error:
        again = str(error)
    assert again == text


def _check_said(channel: Control, found: list[Message]) -> None:
    """Let the other side say it again, in the version that came to hold."""
    is_agent = channel.role is ControlRole.AGENT
    peer = Control(ControlRole.DAEMON if is_agent else ControlRole.AGENT)
    again = Control(channel.role)
    version = channel.version
    for message in found:
        if isinstance(message, Hello):
            version = min(version, message.version)
    peer.send_hello()
    list(peer.receive(pack(Hello(version))))
    again.send_hello()
    list(again.receive(pack(Hello(version))))
    said = [m for m in found if not isinstance(m, Hello | Chunk | ExitCode | Stray)]
    assert list(again.receive(b"".join(map(peer.send, said)))) == said


def _check_order(role: DataRole, found: list[Message]) -> None:
    ended: set[Stream] = set()
    strays: set[int] = set()
    has_exited = False
    for message in found:
        if isinstance(message, Stray):
            assert message.type not in strays
            strays.add(message.type)
        elif isinstance(message, ExitCode):
            assert role is DataRole.CLIENT
            assert not has_exited
            has_exited = True
        elif isinstance(message, Chunk):
            assert not has_exited
            assert message.stream not in ended
            assert (message.stream is Stream.STDIN) is (role is DataRole.SERVICE)
            assert len(message.data) <= MAX_CHUNK
            if message.is_end:
                ended.add(message.stream)


def _check_streams(role: DataRole, found: list[Message]) -> None:
    """Let the other side say it again, as far as what was heard is its own to say."""
    is_service = role is DataRole.SERVICE
    peer, again = Data(DataRole.CLIENT if is_service else DataRole.SERVICE), Data(role)
    with suppress(LocalProtocolError):
        peer.send(ExitCode(0))
        raise AssertionError("a message before the greeting")
    list(again.receive(peer.send_hello()))
    list(peer.receive(again.send_hello()))
    said = [message for message in found if isinstance(message, Chunk | ExitCode)]
    assert list(again.receive(b"".join(map(peer.send, said)))) == said
    assert again.peer is peer.own
    for message in said[-1:]:
        if isinstance(message, ExitCode) or message.is_end:
            with suppress(LocalProtocolError):
                peer.send(message)
                raise AssertionError("more after the end")


def _check_caller(stream: bytes, chunks: list[bytes]) -> Outcome:
    whole, error = _call([stream])
    cut, again = _call(chunks)
    assert error == again
    # All at once, a byte too much is seen before the call is given out.
    assert cut == whole or error
    if error:
        return Outcome.REFUSAL
    for call in whole:
        _check_call(call)
    return Outcome.MESSAGES if whole else Outcome.NOTHING


def _call(chunks: list[bytes]) -> tuple[list[Trigger], str]:
    reader = CallReader()
    found: list[Trigger] = []
    try:
        for chunk in chunks:
            call = reader.receive(chunk)
            found += [call] if call else []
    except ProtocolError as error:
        _check_dead(reader, str(error))
        return found, str(error)
    assert len(found) <= 1
    return found, ""


def _check_call(call: Trigger) -> None:
    agent, daemon = Control(ControlRole.AGENT), Control(ControlRole.DAEMON)
    list(daemon.receive(agent.send_hello()))
    list(agent.receive(daemon.send_hello()))
    assert list(daemon.receive(agent.send(call))) == [call]


def _check_packing(values: bytes) -> None:
    """Pack any names at all: the first bytes say where each of them ends."""
    ends = [*values[:3], 0, 0, 0][:3]
    names = values[3:]
    service, names = names[: ends[0]], names[ends[0] :]
    target, names = names[: ends[1]], names[ends[1] :]
    ident, source = names[: ends[2] % (2 * MAX_IDENT)], names[ends[2] % (2 * MAX_IDENT) :]
    meant = Trigger(service, target, ident, source)
    for version in (2, 3, 4):
        with suppress(LocalProtocolError):
            packed = pack(meant, version)
            daemon = Control(ControlRole.DAEMON)
            daemon.send_hello()
            list(daemon.receive(pack(Hello(version))))
            kept = source if version == 4 else b""
            assert list(daemon.receive(packed)) == [Trigger(service, target, ident, kept)]
            assert len(packed) > HEADER_SIZE + PLACE_SIZE


def _check_command_line(line: bytes) -> Outcome:
    try:
        parsed = parse_command_line(line)
    except StartError:
        return Outcome.REFUSAL
    command = parsed.command
    assert b":" not in parsed.user
    if isinstance(command, ServiceCall):
        assert 0 < len(command.name) <= 255
        argument = command.argument
        with_argument = command.name + b"+" + (argument or b"")
        assert command.full_name == (command.name if argument is None else with_argument)
        assert command.descriptor == with_argument
        assert command.source
        words = [command.full_name, command.source, command.target_type, command.target]
        assert b" ".join(words).rstrip(b" ") == command.text
        assert not any(b" " in word for word in words)
        command = b"QUBESRPC " + command.text
    assert parsed.user + b":" + b"nogui:" * parsed.nogui + command == line
    return Outcome.COMMAND
