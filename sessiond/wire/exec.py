"""qrexec's messages, protocol versions 2 to 4, as values and as bytes.

Each has a header of 8 bytes, the type and the number of bytes that follow, and all numbers are
little-endian. What is a name or a command is bytes here: nothing says how it is encoded. The order
in which messages may come is in ``exec_state``, what a command line means in ``exec_command``.
"""

import enum
import struct
from dataclasses import dataclass, field
from typing import Final, assert_never

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.buffer import Bytes

# qubes-core-qrexec, libqrexec/qrexec.h, protocol 4.
VERSION: Final = 4
OLDEST_VERSION: Final = 2  # before it there was no HELLO
CONTROL_PORT: Final = 512  # of the vchan that daemon and agent talk over; the agent is its server
MAX_COMMAND: Final = 65535  # bytes, with the NUL at its end
MAX_SERVICE: Final = 65000  # likewise
MAX_NAME: Final = 64  # of a domain, likewise
MAX_IDENT: Final = 32  # of a call from inside, likewise
MAX_CHUNKS: Final = {2: 4096, 3: 65536, 4: 65536}  # bytes of a stream in one message, by version
MAX_CHUNK: Final = max(MAX_CHUNKS.values())
UNKNOWN_EXIT: Final = 255  # what a peer has that did not say how its command ended

LOCAL_IDENT: Final = b"SOCKET"  # what a client in the guest calls itself to its agent

_HEADER: Final = struct.Struct("<II")
_VERSION: Final = struct.Struct("<I")
_EXIT_CODE: Final = struct.Struct("<i")
_PLACE: Final = struct.Struct("<II")
HEADER_SIZE: Final = _HEADER.size
PLACE_SIZE: Final = _PLACE.size


class Type(enum.IntEnum):
    """What a message is; those of 0x19x belong to a data channel, those of 0x2xx to control."""

    DATA_STDIN = 0x190
    DATA_STDOUT = 0x191
    DATA_STDERR = 0x192
    DATA_EXIT_CODE = 0x193
    EXEC_CMDLINE = 0x200
    JUST_EXEC = 0x201
    SERVICE_CONNECT = 0x202
    SERVICE_REFUSED = 0x203
    TRIGGER_SERVICE = 0x210
    CONNECTION_TERMINATED = 0x211
    TRIGGER_SERVICE3 = 0x212
    TRIGGER_SERVICE4 = 0x213
    HELLO = 0x300


class Stream(enum.IntEnum):
    """A stream of the command, as it sees it; the value is the message's type."""

    STDIN = Type.DATA_STDIN
    STDOUT = Type.DATA_STDOUT
    STDERR = Type.DATA_STDERR


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of both sides, on every channel: the newest version that it speaks."""

    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command's data channel is: the other domain, and the port."""

    domain: int
    port: int


@dataclass(frozen=True, slots=True)
class Exec:
    """Start this and carry its streams (to the agent)."""

    place: Place
    command_line: bytes


@dataclass(frozen=True, slots=True)
class JustExec:
    """Start this without any stream, and only say whether it could be (to the agent)."""

    place: Place
    command_line: bytes


@dataclass(frozen=True, slots=True)
class Connect:
    """The call ``ident`` is granted: its caller serves the data channel there (to the agent)."""

    place: Place
    ident: bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """The call ``ident`` is refused (to the agent)."""

    ident: bytes


@dataclass(frozen=True, slots=True)
class Trigger:
    """Somebody in the guest calls a service of ``target`` (to the daemon).

    ``service`` is the name, with ``+`` and an argument where there is one. ``source`` is in whose
    name it is called, empty for the guest's own; it needs version 4.
    """

    service: bytes
    target: bytes
    ident: bytes
    source: bytes = b""


@dataclass(frozen=True, slots=True)
class Terminated:
    """The command or call of this place has ended; its port is free (to the daemon)."""

    place: Place


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a stream, in order. An empty one is the stream's end."""

    stream: Stream
    data: Bytes = field(repr=False)

    @property
    def is_end(self) -> bool:
        """Whether nothing more of this stream comes."""
        return not self.data


@dataclass(frozen=True, slots=True)
class ExitCode:
    """How the command ended, as a shell counts; the service's last message."""

    code: int


ToAgent = Exec | JustExec | Connect | Refuse
ToDaemon = Trigger | Terminated
OnControl = ToAgent | ToDaemon
OnData = Chunk | ExitCode

TRIGGERS: Final = {
    2: Type.TRIGGER_SERVICE,
    3: Type.TRIGGER_SERVICE3,
    4: Type.TRIGGER_SERVICE4,
}
# The names before the service's, by type; version 2 has fields of its own.
_TRIGGER_SIZES: Final = {
    Type.TRIGGER_SERVICE3: MAX_NAME + MAX_IDENT,
    Type.TRIGGER_SERVICE4: 2 * MAX_NAME + MAX_IDENT,
}
_OLD_TRIGGER: Final = (64, 32, MAX_IDENT)  # service, target, ident
_KINDS: Final[dict[type, Type]] = {
    Hello: Type.HELLO,
    Exec: Type.EXEC_CMDLINE,
    JustExec: Type.JUST_EXEC,
    Connect: Type.SERVICE_CONNECT,
    Refuse: Type.SERVICE_REFUSED,
    Terminated: Type.CONNECTION_TERMINATED,
    ExitCode: Type.DATA_EXIT_CODE,
}
_REQUESTS: Final[dict[Type, type[Exec | JustExec | Connect]]] = {
    Type.EXEC_CMDLINE: Exec,
    Type.JUST_EXEC: JustExec,
    Type.SERVICE_CONNECT: Connect,
}

# The fewest and the most bytes of a body.
_SIZES: Final = {
    Type.HELLO: (_VERSION.size, _VERSION.size),
    Type.EXEC_CMDLINE: (_PLACE.size + 1, _PLACE.size + MAX_COMMAND),
    Type.JUST_EXEC: (_PLACE.size + 1, _PLACE.size + MAX_COMMAND),
    Type.SERVICE_CONNECT: (_PLACE.size + 1, _PLACE.size + MAX_IDENT),
    Type.SERVICE_REFUSED: (MAX_IDENT, MAX_IDENT),
    Type.TRIGGER_SERVICE: (sum(_OLD_TRIGGER), sum(_OLD_TRIGGER)),
    Type.CONNECTION_TERMINATED: (_PLACE.size, _PLACE.size),
    **{kind: (size + 2, size + MAX_SERVICE) for kind, size in _TRIGGER_SIZES.items()},
    Type.DATA_STDIN: (0, MAX_CHUNK),
    Type.DATA_STDOUT: (0, MAX_CHUNK),
    Type.DATA_STDERR: (0, MAX_CHUNK),
    Type.DATA_EXIT_CODE: (0, MAX_CHUNK),
}


def known_type(untrusted_type: int) -> Type:
    """Return the type of a header. Raises ProtocolError for one that does not exist."""
    try:
        return Type(untrusted_type)
    except ValueError:
        raise ProtocolError(f"a message of the unknown type {untrusted_type:#x}") from None


def check_size(kind: Type, size: int) -> None:
    """Raise ProtocolError for a body that no version of the protocol allows."""
    least, most = _SIZES[kind]
    if not least <= size <= most:
        raise ProtocolError(f"{kind.name} with {size} bytes")


# For those that follow, the size has passed ``check_size``.


def parse_hello(body: bytes) -> Hello:
    """Return the HELLO with this body."""
    return Hello(_VERSION.unpack(body)[0])


def parse_data(kind: Type, body: bytes) -> OnData:
    """Return the message of a data channel, whose type is ``kind``."""
    if kind is not Type.DATA_EXIT_CODE:
        return Chunk(Stream(kind), body)
    is_whole = len(body) >= _EXIT_CODE.size
    return ExitCode(_EXIT_CODE.unpack_from(body)[0] if is_whole else UNKNOWN_EXIT)


def parse_for_agent(kind: Type, body: bytes) -> ToAgent:
    """Return the message of a daemon."""
    if kind is Type.SERVICE_REFUSED:
        return Refuse(_until_nul(body[:-1]))
    place, text = parse_place(body), _until_nul(body[_PLACE.size : -1])
    return _REQUESTS[kind](place, text)


def parse_for_daemon(kind: Type, body: bytes) -> ToDaemon:
    """Return the message of an agent. Raises ProtocolError."""
    if kind is Type.CONNECTION_TERMINATED:
        return Terminated(parse_place(body))
    return parse_trigger(kind, body)


def parse_trigger(kind: Type, body: bytes) -> Trigger:
    """Return the call of a service, in one of its three forms. Raises ProtocolError."""
    if kind is Type.TRIGGER_SERVICE:
        service, target, ident = _cut(body, _OLD_TRIGGER)
        source = b""
    else:
        source_size = MAX_NAME if kind is Type.TRIGGER_SERVICE4 else 0
        source, target, ident = _cut(body, (source_size, MAX_NAME, MAX_IDENT))
        untrusted_service = body[_TRIGGER_SIZES[kind] :]
        service = untrusted_service[:-1]
        if untrusted_service[-1] or b"\0" in service:
            raise ProtocolError(f"{kind.name} with a name that does not end where it should")
    if not service:
        raise ProtocolError(f"{kind.name} without a service")
    return Trigger(service, target, ident, source)


def parse_place(body: Bytes) -> Place:
    """Return the place that ``body`` begins with, in at least ``PLACE_SIZE`` bytes."""
    return Place(*_PLACE.unpack_from(body))


def pack(message: Hello | OnControl | ExitCode, version: int = VERSION) -> bytes:
    """Return the whole message as it is in that version.

    Raises LocalProtocolError for what does not fit into it.
    """
    if isinstance(message, Trigger):
        kind, body = TRIGGERS[version], _trigger_body(message, version)
    else:
        kind, body = _KINDS[type(message)], _body(message)
    least, most = _SIZES[kind]
    if not least <= len(body) <= most:
        raise LocalProtocolError(f"{kind.name} with {len(body)} bytes")
    return pack_header(kind, len(body)) + body


def pack_header(kind: int, size: int) -> bytes:
    """Return the header of a message with that many bytes behind it."""
    return _HEADER.pack(kind, size)


def pack_place(place: Place) -> bytes:
    """Return the ``PLACE_SIZE`` bytes that tell a client in the guest where to serve its data."""
    return _numbers(_PLACE, place.domain, place.port)


def _body(
    message: Hello | Exec | JustExec | Connect | Refuse | Terminated | ExitCode,
) -> bytes:
    match message:
        case Exec() | JustExec():
            body = pack_place(message.place) + _ended(message.command_line)
        case Connect():
            body = pack_place(message.place) + _padded(message.ident)
        case Refuse():
            body = _padded(message.ident)
        case Terminated():
            body = pack_place(message.place)
        case ExitCode():
            body = _numbers(_EXIT_CODE, message.code)
        case Hello():
            body = _numbers(_VERSION, message.version)
        case unreachable:
            assert_never(unreachable)
    return body


def _trigger_body(message: Trigger, version: int) -> bytes:
    if not message.service:
        raise LocalProtocolError("a call without a service")
    if version == OLDEST_VERSION:
        names = (message.service, message.target, message.ident)
        return b"".join(map(_padded, names, _OLD_TRIGGER))
    body = _padded(message.target, MAX_NAME) + _padded(message.ident) + _ended(message.service)
    if TRIGGERS[version] is Type.TRIGGER_SERVICE4:
        body = _padded(message.source, MAX_NAME) + body
    return body


def _cut(body: bytes, sizes: tuple[int, ...]) -> list[bytes]:
    """Return the names in fields of these sizes. Raises ProtocolError for one without an end."""
    names = []
    for size in sizes:
        untrusted, body = body[:size], body[size:]
        if untrusted and untrusted[-1]:
            raise ProtocolError(f"a name that fills its {size} bytes")
        names.append(_until_nul(untrusted))
    return names


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _ended(text: bytes) -> bytes:
    if b"\0" in text:
        raise LocalProtocolError("a NUL inside a text")
    return text + b"\0"


def _padded(text: bytes, size: int = MAX_IDENT) -> bytes:
    ended = _ended(text)
    if len(ended) > size:
        raise LocalProtocolError(f"a name of {len(text)} bytes, over {size - 1}")
    return ended.ljust(size, b"\0")


def _numbers(form: struct.Struct, *values: int) -> bytes:
    try:
        return form.pack(*values)
    except struct.error as error:
        raise LocalProtocolError(f"{values}: {error}") from None


class MessageReader:
    """Collects bytes and gives out one message after the other; what is not taken stays."""

    def __init__(self) -> None:
        self._held = bytearray()

    @property
    def is_between_messages(self) -> bool:
        """Whether nothing is held."""
        return not self._held

    def feed(self, data: Bytes) -> None:
        """Add ``data``, which is not kept."""
        self._held += data

    def next_header(self) -> tuple[int, int] | None:
        """Return the type and the size of the message that comes next, None if not known yet."""
        if len(self._held) < HEADER_SIZE:
            return None
        kind, size = _HEADER.unpack_from(self._held)
        return kind, size

    def take_body(self, size: int) -> bytes | None:
        """Return the body behind the header and forget both, None if it is not whole yet."""
        end = HEADER_SIZE + size
        if len(self._held) < end:
            return None
        with memoryview(self._held) as view:
            body = bytes(view[HEADER_SIZE:end])
        del self._held[:end]
        return body

    def clear(self) -> None:
        """Forget what is held."""
        self._held.clear()
