"""The link between the daemon and a stream agent: its own messages, as values and as bytes.

Both directions use the stream device's header. Types below 0x100 are messages of the stream
device, of which an agent may send only some; the link's own types have a UTF-8 JSON body. The
order in which messages may come is in ``link_state``.
"""

import enum
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.buffer import HEADER_SIZE, Bytes, Header
from sessiond.wire.device import Type, check_from_guest

MAX_BODY: Final = 64 << 10  # of a link message
MAX_FRAME: Final = 8 << 20  # of DATA: four times the largest desktop frame that was seen
MAX_TEXT: Final = 1024  # characters of a text that ends in a log or a status
MAX_CANDIDATES: Final = 64
MAX_CODECS: Final = 16  # in a list of wishes
MAX_BACKENDS: Final = 16  # of a handful that there are
MAX_PIDS: Final = 4096


class LinkType(enum.IntEnum):
    """Message types of the link's own."""

    CONFIG = 0x8000
    ACTIVATE = 0x8001
    CREDIT = 0x8002
    PAUSE = 0x8003
    READY = 0x8004
    STATS = 0x8005
    FAILED = 0x8006
    SERIAL = 0x8007
    LINE = 0x8008
    UNAVAILABLE = 0x8009


@dataclass(frozen=True, slots=True)
class Candidate:
    """A display that may be the session's; ``cookie`` is hexadecimal, from a file of root's.

    ``rule`` names where it comes from, for the status.
    """

    rule: str
    display: str
    xauthority: str = ""
    cookie: str = ""


@dataclass(frozen=True, slots=True)
class Config:
    """What an agent needs to know of its session; once, first (to the agent).

    ``needs_proof``: only a display whose server says that it is on ``vt`` may be shown.
    ``codecs``: encoders by name, the best first; or only "auto".
    ``capture``: the back-ends that may be tried, in this order.
    """

    TYPE: ClassVar = LinkType.CONFIG
    session: str
    uid: int
    vt: int = 0
    seat: str = "seat0"
    candidates: tuple[Candidate, ...] = ()
    pids: tuple[int, ...] = ()
    codec_options: tuple[str, ...] = ()
    needs_proof: bool = False
    codecs: tuple[str, ...] = ("auto",)
    capture: tuple[str, ...] = ("x11",)


@dataclass(frozen=True, slots=True)
class Activate:
    """You are shown: send FORMAT, the cursor, a full frame (to the agent)."""

    TYPE: ClassVar = LinkType.ACTIVATE
    serial: int
    codecs: tuple[int, ...]
    quality: bool = False  # QUALITY_INDICATOR is allowed


@dataclass(frozen=True, slots=True)
class Credit:
    """One more frame may come (to the agent)."""

    TYPE: ClassVar = LinkType.CREDIT


@dataclass(frozen=True, slots=True)
class Line:
    """What the way to the host takes, in bytes/s; 0 while that is not known (to the agent).

    It holds until the next one, whatever comes between; before the first, it is not known.
    """

    TYPE: ClassVar = LinkType.LINE
    rate: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Stop capturing, keep the display open (to the agent)."""

    TYPE: ClassVar = LinkType.PAUSE


@dataclass(frozen=True, slots=True)
class Ready:
    """The display is open (to the daemon).

    ``vt`` is the one that it is known to be on, 0 if that is not known. ``backend`` is what
    captures it, "" for x11.
    """

    TYPE: ClassVar = LinkType.READY
    rule: str
    display: str
    width: int
    height: int
    vt: int = 0
    backend: str = ""


@dataclass(frozen=True, slots=True)
class Stats:
    """What the stream has done since the last of these (to the daemon).

    ``codec`` is the encoder by its name, ``encoder`` what does its work, such as "libvpx".
    ``why``: a clause that says why it is this one, "" where the configuration does.
    """

    TYPE: ClassVar = LinkType.STATS
    frames: int
    size: int
    skipped: int
    encode_ms: float
    codec: str = ""
    quality: int = 0  # of the last frame, as its codec counts it
    encoder: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """Why this agent ends now: a reason code and words (to the daemon)."""

    TYPE: ClassVar = LinkType.FAILED
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Serial:
    """What follows belongs to this serial (to the daemon)."""

    TYPE: ClassVar = LinkType.SERIAL
    serial: int


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Why nothing can be captured, as a clause; "" when it can (to the daemon).

    It is the newest serial's: a stream begins as one that can be captured.
    """

    TYPE: ClassVar = LinkType.UNAVAILABLE
    text: str


@dataclass(frozen=True, slots=True)
class DeviceMessage:
    """A message of the stream device, whole, as it goes to the port (to the daemon).

    ``data`` can be a part of what was just received: it only lives as long as that.
    """

    type: Type
    data: Bytes = field(repr=False)


ToAgent = Config | Activate | Credit | Line | Pause
ToDaemon = Ready | Stats | Failed | Serial | Unavailable

_DEVICE_TYPES: Final = frozenset({
    Type.FORMAT, Type.DATA, Type.CURSOR_SET, Type.CURSOR_MOVE, Type.DEVICE_DISPLAY_INFO,
    Type.QUALITY_INDICATOR,
})  # fmt: skip
_TO_AGENT: Final = {kind.TYPE: kind for kind in (Config, Activate, Credit, Line, Pause)}
_TO_DAEMON: Final = {kind.TYPE: kind for kind in (Ready, Stats, Failed, Serial, Unavailable)}


def check_from_agent(header: Header) -> None:
    """Raise ProtocolError for a header that no agent may send."""
    if header.type in _TO_DAEMON:
        if header.size > MAX_BODY:
            raise ProtocolError(f"{LinkType(header.type).name} with {header.size} bytes")
    elif header.type not in _DEVICE_TYPES:
        raise ProtocolError(f"an agent does not send messages of type {header.type:#x}")
    elif header.type == Type.DATA and header.size > MAX_FRAME:
        raise ProtocolError(f"a frame of {header.size} bytes, over {MAX_FRAME}")
    else:
        check_from_guest(header)


def check_from_daemon(header: Header) -> None:
    """Raise ProtocolError for a header that the daemon does not send."""
    if header.type not in _TO_AGENT or header.size > MAX_BODY:
        raise ProtocolError(f"a message of type {header.type:#x} with {header.size} bytes")


def parse_from_agent(header: Header, whole: Bytes) -> ToDaemon | DeviceMessage:
    """Return the message whose header passed ``check_from_agent``. Raises ProtocolError.

    ``whole`` begins with the header: what is for the host is passed on as it came.
    """
    if header.type in _DEVICE_TYPES:
        return DeviceMessage(Type(header.type), whole)
    message: ToDaemon = _parse(_TO_DAEMON[LinkType(header.type)], bytes(whole[HEADER_SIZE:]))
    return message


def parse_from_daemon(header: Header, body: bytes) -> ToAgent:
    """Return the message whose header passed ``check_from_daemon``. Raises ProtocolError."""
    message: ToAgent = _parse(_TO_AGENT[LinkType(header.type)], body)
    return message


def pack(message: ToAgent | ToDaemon) -> bytes:
    """Return the whole message. Raises LocalProtocolError if it is over the limit."""
    if not _FIELDS[type(message)]:
        return _BARE[message.TYPE]  # one for each frame
    body = json.dumps(asdict(message), separators=(",", ":")).encode()
    if len(body) > MAX_BODY:
        raise LocalProtocolError(f"{message.TYPE.name} with {len(body)} bytes")
    return Header(message.TYPE, len(body)).pack() + body


def _parse(kind: Any, body: bytes) -> Any:  # noqa: ANN401 (a class in, one of its objects out)
    """Make a ``kind`` from JSON: every field there, of its type and within its limits."""
    try:
        untrusted = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{kind.TYPE.name} is not JSON: {error}") from None
    wanted = _FIELDS[kind]
    if not isinstance(untrusted, dict) or untrusted.keys() != wanted.keys():
        raise ProtocolError(f"{kind.TYPE.name} without exactly {', '.join(wanted) or 'nothing'}")
    values = {}
    for name, check in wanted.items():
        try:
            values[name] = check(untrusted[name])
        except (TypeError, ValueError, KeyError) as error:
            raise ProtocolError(f"{kind.TYPE.name}.{name}: {error}") from None
    return kind(**values)


Check = Callable[[Any], Any]


def _whole(low: int, high: int) -> Check:
    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"not a whole number from {low} to {high}")
        return value

    return check


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e9:
        raise ValueError("not a number from 0")
    return float(value)


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not true or false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"not a text of at most {MAX_TEXT} characters")
    return "".join(c if c.isprintable() else "?" for c in value)


def _list(check: Check, limit: int) -> Check:
    def check_all(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > limit:
            raise ValueError(f"not a list of at most {limit}")
        return tuple(check(item) for item in value)

    return check_all


def _candidate(value: object) -> Candidate:
    if not isinstance(value, dict) or value.keys() != {"rule", "display", "xauthority", "cookie"}:
        raise ValueError("not a candidate")
    return Candidate(**{name: _text(text) for name, text in value.items()})


_COUNT: Final = _whole(0, 2**63 - 1)
_FIELDS: Final[dict[type, dict[str, Check]]] = {
    Config: {
        "session": _text,
        "uid": _whole(0, 2**32 - 1),
        "vt": _whole(0, 63),
        "seat": _text,
        "candidates": _list(_candidate, MAX_CANDIDATES),
        "pids": _list(_whole(1, 2**31 - 1), MAX_PIDS),
        "codec_options": _list(_text, MAX_CANDIDATES),
        "needs_proof": _flag,
        "codecs": _list(_text, MAX_CODECS),
        "capture": _list(_text, MAX_BACKENDS),
    },
    Activate: {
        "serial": _COUNT,
        "codecs": _list(_whole(0, 255), 255),
        "quality": _flag,
    },
    Credit: {},
    Line: {"rate": _number},
    Pause: {},
    Ready: {
        "rule": _text,
        "display": _text,
        "width": _whole(0, 65535),
        "height": _whole(0, 65535),
        "vt": _whole(0, 63),
        "backend": _text,
    },
    Stats: {
        "frames": _COUNT,
        "size": _COUNT,
        "skipped": _COUNT,
        "encode_ms": _number,
        "codec": _text,
        "quality": _COUNT,
        "encoder": _text,
        "why": _text,
    },
    Failed: {"reason": _text, "text": _text},
    Serial: {"serial": _COUNT},
    Unavailable: {"text": _text},
}
_BARE: Final = {kind.TYPE: Header(kind.TYPE, 2).pack() + b"{}" for kind in (Credit, Pause)}
