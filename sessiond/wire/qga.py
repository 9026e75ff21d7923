"""The host channel: requests and answers in the QEMU guest agent's format. Pure.

The host asks, a user's agent may ask the host, and both are answered::

    {"execute": "guest-ping", "id": 7}                        a Request
    {"return": {}, "id": 7}                                   its answer, a line
    {"error": {"class": "GenericError", "desc": "..."}}       likewise

Beside ``execute``, ``arguments`` and ``id`` a request may name a user, in USERNAME: it is that
user's agent that is asked then, and the answer has the same member. Tools that can write no other
members do the same with the command CALL, and its answer is a plain one. What is no JSON, or has
any other member, is refused in QEMU's words.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sessiond.errors import CommandError
from sessiond.wire import arguments, qga_json, qga_splitter, strictjson
from sessiond.wire.arguments import Argument, Kind

MAX_TEXT: Final = qga_splitter.MAX_TEXT
MAX_NESTING: Final = strictjson.MAX_NESTING
USERNAME: Final = "x-virtagent-username"
CALL: Final = "virtagent-call"
MAX_USERNAME: Final = 255  # bytes
SENTINEL: Final = b"\xff"
"""Precedes the answer to guest-sync-delimited; in what the host sends, drops what is half read."""

_CALL_ARGUMENTS: Final = {
    "username": Argument(Kind.STR),
    "execute": Argument(Kind.STR),
    "arguments": Argument(Kind.OBJECT, is_optional=True),
}
_WHITESPACE: Final = " \t\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """A command of the host's. ``id`` is any value of JSON; ``user`` is None if none is named."""

    command: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: object = None
    has_id: bool = False
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """What is no request; to be answered with ``error``."""

    error: CommandError
    id: object = None
    has_id: bool = False
    user: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The host's answer to a request of ours: ``value``, or ``error``. It is not to be answered."""

    id: object
    value: object = None
    error: CommandError | None = None
    user: str | None = None


Message = Request | Refused | Answer


class Reader:
    """Reads what the host sends, in whatever pieces.

    After an error it goes on with what follows, as the QEMU guest agent does. One text holds at
    most ``limit`` bytes and nests at most MAX_NESTING deep; one that is over is refused, with all
    that follows up to a line feed.
    """

    def __init__(self, limit: int = MAX_TEXT) -> None:
        self._limit = limit
        self._splitter = qga_splitter.Splitter(limit)

    def reset(self) -> None:
        """Forget what is half read: the host has gone."""
        self._splitter.reset()

    def feed(self, data: bytes) -> list[Message]:
        """Add ``data`` and return what it completes, in order. Never raises."""
        found: list[Message] = []
        if self._splitter.is_idle and len(data) <= self._limit:
            data = _read_plain(data, found)
        if data:
            found += [_refused_or_read(text) for text in self._splitter.feed(data)]
        return found


def unwrap(request: Request) -> Request:
    """Return the request that a CALL wraps, with its user; any other as it is.

    To be answered is the one that came: its answer is a plain one. Raises CommandError.
    """
    if request.command != CALL:
        return request
    if request.user is not None:
        raise CommandError(f"the user is named by '{USERNAME}' and by {CALL}: one is enough")
    checked = arguments.check(request.arguments, _CALL_ARGUMENTS)
    if checked["execute"] == CALL:
        raise CommandError(f"{CALL} cannot call itself")
    return Request(
        checked["execute"],
        checked.get("arguments", {}),
        request.id,
        request.has_id,
        check_username(checked["username"], "Parameter 'username'"),
    )


def check_username(untrusted: object, name: str) -> str:
    """Return it if it can be a user's name. Raises CommandError, which says that NAME must be."""
    if (
        not isinstance(untrusted, str)
        or not 0 < len(untrusted.encode()) <= MAX_USERNAME
        or any(unicodedata.category(char) == "Cc" for char in untrusted)
    ):
        raise CommandError(
            f"{name} must be a string of 1 to {MAX_USERNAME} bytes without control characters"
        )
    return untrusted


def encode_return(value: object, *, request: Request, delimited: bool = False) -> bytes:
    """Return the answer's line. ``value`` is one of JSON; half surrogate pairs become U+FFFD.

    ``delimited``: SENTINEL stands before it.
    """
    line = _line(f'"return": {strictjson.encode(value)}', request)
    return SENTINEL + line if delimited else line


def encode_error(error: CommandError, *, to: Request | Refused) -> bytes:
    """Return the line of an answer that is an error."""
    described = strictjson.encode({"class": error.cls, "desc": str(error)})
    return _line(f'"error": {described}', to)


def encode_event(name: str, data: Mapping[str, Any], timestamp: float, user: str | None) -> bytes:
    """Return the line of an event, as QMP has them; ``timestamp`` in seconds since 1970."""
    seconds, microseconds = divmod(round(timestamp * 1_000_000), 1_000_000)
    event: dict[str, object] = {
        "event": name,
        "data": dict(data),
        "timestamp": {"seconds": seconds, "microseconds": microseconds},
    }
    return _message_line(event, user)


def encode_request(
    command: str,
    arguments: Mapping[str, Any],
    *,
    id: object,  # noqa: A002 (the member's name)
    user: str | None,
) -> bytes:
    """Return the line of a request of USER's agent to the host."""
    return _message_line({"execute": command, "arguments": dict(arguments), "id": id}, user)


def _message_line(members: dict[str, object], user: str | None) -> bytes:
    if user is not None:
        members[USERNAME] = user
    return strictjson.encode(members).encode() + b"\n"


def _line(answer: str, to: Request | Refused) -> bytes:
    if to.has_id:
        answer += f', "id": {strictjson.encode(to.id)}'
    if to.user is not None:
        answer += f', "{USERNAME}": {strictjson.encode(to.user)}'
    return f"{{{answer}}}\n".encode()


def _read_plain(data: bytes, found: list[Message]) -> bytes:
    """Read what Python's own JSON reads as QEMU's would; return the rest, from a text's begin.

    It is several times as fast.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    begin = _skip_whitespace(text, 0)
    if qga_json.is_odd(text):
        return data
    try:
        while text.startswith("{", begin):  # what is no object may not end where it ends here
            value, end = qga_json.DECODER.raw_decode(text, begin)
            if strictjson.is_deep(value, text, begin, end):
                break
            found.append(_message(value))
            begin = _skip_whitespace(text, end)
    except (ValueError, RecursionError):
        pass
    return text[begin:].encode()


def _skip_whitespace(text: str, begin: int) -> int:
    while text[begin : begin + 1] and text[begin] in _WHITESPACE:
        begin += 1
    return begin


def _refused_or_read(text: bytes | CommandError) -> Message:
    if isinstance(text, CommandError):
        return Refused(text)
    try:
        return _message(qga_json.parse(text))
    except CommandError as error:
        return Refused(error)


def _message(untrusted: object) -> Message:
    if not isinstance(untrusted, dict):
        return Refused(CommandError("QMP input must be a JSON object"))
    if "execute" not in untrusted and ("return" in untrusted or "error" in untrusted):
        return _answer(untrusted)
    return _request(untrusted)


def _request(untrusted: Mapping[str, Any]) -> Request | Refused:
    id_, has_id = untrusted.get("id"), "id" in untrusted
    user = None
    try:
        if USERNAME in untrusted:
            user = check_username(untrusted[USERNAME], f"QMP input member '{USERNAME}'")
        _check_members(untrusted)
    except CommandError as error:
        return Refused(error, id_, has_id, user)
    return Request(untrusted["execute"], untrusted.get("arguments", {}), id_, has_id, user)


def _check_members(untrusted: Mapping[str, Any]) -> None:
    for name, value in untrusted.items():
        match name:
            case "id" | "x-virtagent-username":
                pass
            case "execute":
                _check_type(name, value, str, "a string")
            case "arguments":
                _check_type(name, value, dict, "an object")
            case _:
                shown = name[: qga_json.MAX_SHOWN]
                raise CommandError(f"QMP input member '{shown}' is unexpected")
    if "execute" not in untrusted:
        raise CommandError("QMP input lacks member 'execute'")


def _check_type(name: str, untrusted: object, kind: type, text: str) -> None:
    if not isinstance(untrusted, kind):
        raise CommandError(f"QMP input member '{name}' must be {text}")


def _answer(untrusted: Mapping[str, Any]) -> Answer:
    """Return the answer; a wrong one is an error to who has asked: the host is not answered."""
    id_ = untrusted.get("id")
    user = None
    try:
        if USERNAME in untrusted:
            user = check_username(untrusted[USERNAME], f"the answer's member '{USERNAME}'")
    except CommandError as error:
        return Answer(id_, error=error)
    match untrusted:
        case {"error": {"class": str(cls), "desc": str(text)}}:
            return Answer(id_, error=CommandError(text, cls), user=user)
        case {"error": _}:
            return Answer(id_, error=CommandError("an error without class or text"), user=user)
    return Answer(id_, untrusted["return"], user=user)
