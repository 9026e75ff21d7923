"""What the daemon and a user's agent say to each other: lines of JSON, both ways. Pure.

Both may call. A line is an object of one of four kinds, told apart by its members; others that it
has are ignored, so that a newer peer may say more::

    {"execute": "guest-ping", "arguments": {}, "id": 7}              a Call
    {"return": {}, "id": 7}    {"error": {"class": C, "desc": D}, "id": 7}   its Result
    {"event": "DISPLAYS_CHANGED", "data": {}}                        a Notice
    {"error": {"class": C, "desc": D}}                               a Farewell, before a hang-up

Ids are the caller's own whole numbers. No line says who the agent is: the kernel does.

The daemon may send descriptors with a call, at its line's first byte; the line says how many, as
``"fds": 3``. An agent may not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sessiond.errors import CommandError, ProtocolError
from sessiond.wire import strictjson

MAX_LINE: Final = 12 << 20
"""Bytes. A command's two outputs, in base64, fit (``agent.user.commands``)."""

MAX_NAME: Final = 255  # characters of a command's or an event's name
MAX_ID: Final = (1 << 63) - 1
MAX_FDS: Final = 8  # descriptors that come with one line

_GENERIC: Final = "GenericError"


@dataclass(frozen=True, slots=True)
class Call:
    """A command to be done, and answered by a Result of the same ``id``.

    ``fds`` is how many descriptors come with it.
    """

    command: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0
    fds: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to a call: ``value``, any JSON value, or ``error``."""

    id: int
    value: object = None
    error: CommandError | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something has happened; there is no answer."""

    event: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Farewell:
    """Why the daemon does not serve this connection, which it closes now."""

    text: str


Message = Call | Result | Notice | Farewell


class LineReader:
    """Cuts what arrives into messages; holds at most ``limit`` bytes of an unfinished line.

    ``limit`` may be changed between two calls. ``length`` is that of the line that was yielded
    last, in bytes. A line may have at most ``max_values``, if given: each takes time and memory
    to be parsed, far beyond its length.
    """

    def __init__(self, limit: int = MAX_LINE, max_values: int | None = None) -> None:
        self.limit = limit
        self.length = 0
        self._max_values = max_values
        self._rest = bytearray()
        self._seen = 0  # bytes of the rest that have no line feed

    def feed(self, data: bytes) -> Iterator[Message]:
        """Add ``data`` and yield the messages that it completes.

        Raises ProtocolError at the line that is wrong, after those before it; nothing is to be
        fed after that.
        """
        self._rest += data
        while (end := self._rest.find(b"\n", self._seen)) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            self._seen = 0
            self.length = len(line)
            self._check_length(self.length)
            if line.strip():
                self._check_values(line)
                yield parse(line)
        self._seen = len(self._rest)
        self._check_length(self._seen)

    def _check_length(self, length: int) -> None:
        if length > self.limit:
            raise ProtocolError(f"a line is over {self.limit} bytes")

    def _check_values(self, line: bytes) -> None:
        # Each but the first follows one of these, which may be in texts as well.
        marks = (line.count(mark) for mark in (b",", b"[", b"{"))
        if self._max_values is not None and sum(marks) > self._max_values:
            raise ProtocolError(f"a line may have over {self._max_values} values")


def parse(line: bytes) -> Message:
    """Return the message that a line is. Raises ProtocolError."""
    try:
        untrusted = strictjson.decode(line.decode())
    except ValueError:  # of UnicodeDecodeError the base, too
        raise ProtocolError("a line is no JSON") from None
    if not isinstance(untrusted, dict):
        raise ProtocolError("a line is no JSON object")
    if "execute" in untrusted:
        return Call(
            _name(untrusted["execute"]),
            _object(untrusted, "arguments"),
            _id(untrusted.get("id")),
            _fds(untrusted.get("fds", 0)),
        )
    if "event" in untrusted:
        return Notice(_name(untrusted["event"]), _object(untrusted, "data"))
    if "return" in untrusted:
        return Result(_id(untrusted.get("id")), untrusted["return"])
    if "error" in untrusted:
        error = _error(untrusted["error"])
        if "id" in untrusted:
            return Result(_id(untrusted["id"]), error=error)
        return Farewell(str(error))
    raise ProtocolError("a line is neither a call nor an answer nor an event")


def encode(message: Message) -> bytes:
    """Return the line; every value has to be one of JSON's. Half surrogate pairs become U+FFFD."""
    return strictjson.encode(_members(message)).encode() + b"\n"


def _members(message: Message) -> dict[str, object]:
    match message:
        case Call():
            return {
                "execute": message.command,
                "arguments": dict(message.arguments),
                "id": message.id,
                **({"fds": message.fds} if message.fds else {}),
            }
        case Result(error=None):
            return {"return": message.value, "id": message.id}
        case Result(error=CommandError() as error):
            return {"error": {"class": error.cls, "desc": str(error)}, "id": message.id}
        case Notice():
            return {"event": message.event, "data": dict(message.data)}
        case Farewell():
            return {"error": {"class": _GENERIC, "desc": message.text}}
    raise AssertionError(message)


def _name(untrusted: object) -> str:
    if not isinstance(untrusted, str) or not 0 < len(untrusted) <= MAX_NAME:
        raise ProtocolError("a name is no text of a sensible length")
    return untrusted


def _object(untrusted: Mapping[str, Any], member: str) -> Mapping[str, Any]:
    value = untrusted.get(member, {})
    if not isinstance(value, dict):
        raise ProtocolError(f"{member} is no object")
    return value


def _id(untrusted: object) -> int:
    if type(untrusted) is not int or not 0 <= untrusted <= MAX_ID:
        raise ProtocolError("an id is no whole number, or out of range")
    return untrusted


def _fds(untrusted: object) -> int:
    if type(untrusted) is not int or not 0 <= untrusted <= MAX_FDS:
        raise ProtocolError("a number of descriptors is no whole number, or out of range")
    return untrusted


def _error(untrusted: object) -> CommandError:
    match untrusted:
        case {"class": str(cls), "desc": str(text)}:
            return CommandError(text, cls)
    raise ProtocolError("an error has no class or no text")
