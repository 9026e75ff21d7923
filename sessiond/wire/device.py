"""The messages of the SPICE stream device protocol, version 1, as values and as bytes.

Source: spice-protocol 0.14.3, ``spice/stream-device.h``; the limits marked "host" are those that
spice-server 0.15.1 enforces. The order in which messages may be sent is in ``device_state``.
"""

import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.buffer import HEADER_SIZE, Bytes, Header

MAX_FRAME: Final = 32 << 20  # host: "STREAM_DATA too large" beyond it
MAX_CAPABILITIES: Final = 1024  # host
MAX_CURSOR_SIDE: Final = 1024  # pixels; host
MAX_CURSOR_BODY: Final = 12 + (MAX_CURSOR_SIDE**2 * 33 + 7) // 8  # COLOR32 is the largest
MAX_DISPLAY_INFO: Final = 268  # host
MAX_ADDRESS: Final = 255  # bytes before the NUL; host
MAX_FROM_HOST: Final = 4096  # the upstream agent's limit for every message of a host
MAX_ERROR_TEXT: Final = 1024  # the upstream agent's limit

_FORMAT = struct.Struct("<IIB3x")
_CURSOR_SET = struct.Struct("<HHHHB3x")
_CURSOR_MOVE = struct.Struct("<ii")
_DISPLAY_INFO = struct.Struct("<III")
_ERROR = struct.Struct("<I")


class Type(enum.IntEnum):
    """Message types of the header."""

    INVALID = 0
    CAPABILITIES = 1
    FORMAT = 2
    DATA = 3
    START_STOP = 4
    NOTIFY_ERROR = 5
    CURSOR_SET = 6
    CURSOR_MOVE = 7
    DEVICE_DISPLAY_INFO = 8
    QUALITY_INDICATOR = 9


class Codec(enum.IntEnum):
    """SpiceVideoCodecType; a peer may name numbers that are not here, to be ignored."""

    MJPEG = 1
    VP8 = 2
    H264 = 3
    VP9 = 4
    H265 = 5


def codec_name(number: int) -> str:
    """Return a codec's name, "" for 0; one that we do not know is named by its number."""
    if not number:
        return ""
    return Codec(number).name.lower() if number in set(Codec) else f"codec-{number}"


class CursorType(enum.IntEnum):
    """SpiceCursorType, as far as a stream device may use it."""

    ALPHA = 0
    COLOR24 = 5
    COLOR32 = 6

    def pixel_bytes(self, width: int, height: int) -> int:
        """Return how many bytes the host wants for a cursor: colours, and a mask bit if any."""
        bits = {CursorType.ALPHA: 32, CursorType.COLOR24: 25, CursorType.COLOR32: 33}[self]
        return (width * height * bits + 7) // 8


def _pack(layout: struct.Struct, *values: int) -> bytes:
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise LocalProtocolError(f"{values}: {error}") from error


class Role(enum.Enum):
    """Who we are on the connection."""

    GUEST = enum.auto()
    HOST = enum.auto()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a side can do beyond the basic protocol (both ways)."""

    TYPE: ClassVar = Type.CAPABILITIES
    quality_indicator: bool = False

    def body(self) -> bytes:
        """Return the bit set, as many bytes as the bits that we know need."""
        return bytes([self.quality_indicator])


@dataclass(frozen=True, slots=True)
class Format:
    """The frames that follow are ``width`` x ``height`` pixels in this codec (to the host)."""

    TYPE: ClassVar = Type.FORMAT
    width: int
    height: int
    codec: int

    def body(self) -> bytes:
        """Return the 12 bytes."""
        return _pack(_FORMAT, self.width, self.height, self.codec)


@dataclass(frozen=True, slots=True)
class Data:
    """One whole encoded frame (to the host)."""

    TYPE: ClassVar = Type.DATA
    frame: bytes

    def body(self) -> bytes:
        """Return the frame as it is."""
        return self.frame


@dataclass(frozen=True, slots=True)
class StartStop:
    """The codecs that every client decodes; none of them means stop (to the guest)."""

    TYPE: ClassVar = Type.START_STOP
    codecs: tuple[int, ...]

    def body(self) -> bytes:
        """Return the counted list."""
        return _pack(struct.Struct(f"<B{len(self.codecs)}B"), len(self.codecs), *self.codecs)


@dataclass(frozen=True, slots=True)
class NotifyError:
    """The host refuses to go on: the port must be closed and opened again (to the guest)."""

    TYPE: ClassVar = Type.NOTIFY_ERROR
    code: int
    text: str

    def body(self) -> bytes:
        """Return code and text, with the NUL that spice-server 0.15.1 sends too."""
        return _pack(_ERROR, self.code) + self.text.encode() + b"\0"


@dataclass(frozen=True, slots=True)
class CursorSet:
    """The cursor's shape: for ALPHA, rows of B, G, R, A bytes, premultiplied (to the host)."""

    TYPE: ClassVar = Type.CURSOR_SET
    width: int
    height: int
    hot_x: int
    hot_y: int
    pixels: bytes
    type: CursorType = CursorType.ALPHA

    def body(self) -> bytes:
        """Return shape and pixels; LocalProtocolError for what a host would refuse."""
        if max(self.width, self.height) > MAX_CURSOR_SIDE:
            raise LocalProtocolError(f"a cursor of {self.width}x{self.height} pixels")
        wanted = self.type.pixel_bytes(self.width, self.height)
        if len(self.pixels) < wanted:
            raise LocalProtocolError(f"{len(self.pixels)} bytes for a cursor of {wanted}")
        shape = (self.width, self.height, self.hot_x, self.hot_y, self.type)
        return _pack(_CURSOR_SET, *shape) + self.pixels


@dataclass(frozen=True, slots=True)
class CursorMove:
    """The cursor's hot spot, in pixels of the screen; may be negative (to the host)."""

    TYPE: ClassVar = Type.CURSOR_MOVE
    x: int
    y: int

    def body(self) -> bytes:
        """Return the 8 bytes."""
        return _pack(_CURSOR_MOVE, self.x, self.y)


@dataclass(frozen=True, slots=True)
class DeviceDisplayInfo:
    """Which output of which graphics card the stream shows (to the host).

    ``address`` is like ``pci/0000/02.0``, at most 255 ASCII characters.
    """

    TYPE: ClassVar = Type.DEVICE_DISPLAY_INFO
    stream_id: int
    device_display_id: int
    address: str

    def body(self) -> bytes:
        """Return ids and address; the length on the wire counts the NUL, as the host wants it."""
        address = self.address.encode("ascii", "replace")[:MAX_ADDRESS] + b"\0"
        ids = (self.stream_id, self.device_display_id, len(address))
        return _pack(_DISPLAY_INFO, *ids) + address


@dataclass(frozen=True, slots=True)
class QualityIndicator:
    """A free text about the quality; only to a host with that capability (to the host)."""

    TYPE: ClassVar = Type.QUALITY_INDICATOR
    text: str

    def body(self) -> bytes:
        """Return the text with its NUL."""
        return self.text.encode() + b"\0"


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message that the receiver skipped, because its type means nothing to it."""

    type: int
    size: int


HIDDEN_CURSOR: Final = CursorSet(1, 1, 0, 0, bytes(4))  # 0x0 makes a client log a critical error

FromHost = Capabilities | StartStop | NotifyError
FromGuest = (
    Capabilities | Format | Data | CursorSet | CursorMove | DeviceDisplayInfo | QualityIndicator
)
Message = FromHost | FromGuest

_GUEST_SIZES: Final = {
    Type.CAPABILITIES: (0, MAX_CAPABILITIES, "Wrong size for StreamMsgCapabilities"),
    Type.FORMAT: (_FORMAT.size, _FORMAT.size, "Wrong size for StreamMsgFormat"),
    Type.DATA: (0, MAX_FRAME, "STREAM_DATA too large"),
    Type.CURSOR_SET: (_CURSOR_SET.size, MAX_CURSOR_BODY, "Cursor size is invalid"),
    Type.CURSOR_MOVE: (_CURSOR_MOVE.size, _CURSOR_MOVE.size, "Wrong size for StreamMsgCursorMove"),
    Type.DEVICE_DISPLAY_INFO: (
        _DISPLAY_INFO.size,
        MAX_DISPLAY_INFO,
        "StreamMsgDeviceDisplayInfo too large",
    ),
    Type.QUALITY_INDICATOR: (1, MAX_FROM_HOST, "Wrong size for StreamMsgQualityIndicator"),
}


def check_from_guest(header: Header) -> None:
    """Raise ProtocolError, with the host's own words, for a header that no guest may send."""
    if header.type not in _GUEST_SIZES:
        raise ProtocolError("Invalid message type")
    least, most, complaint = _GUEST_SIZES[Type(header.type)]
    if not least <= header.size <= most:
        raise ProtocolError(complaint)


def check_from_host(header: Header) -> None:
    """Raise ProtocolError for a message of a host that is too large to be skipped."""
    if header.size > MAX_FROM_HOST:
        raise ProtocolError(
            f"a message of type {header.type} with {header.size} bytes, over {MAX_FROM_HOST}"
        )


def parse_from_host(header: Header, body: bytes) -> FromHost | Unknown:
    """Return the message of a host; Unknown for a type that hosts do not send.

    Raises ProtocolError for a body that does not hold what its type says.
    """
    match header.type:
        case Type.CAPABILITIES:
            return _parse_capabilities(body)
        case Type.START_STOP:
            if not body or body[0] > len(body) - 1:
                raise ProtocolError("START_STOP without the codecs that it announces")
            return StartStop(tuple(body[1 : 1 + body[0]]))
        case Type.NOTIFY_ERROR:
            if len(body) < _ERROR.size:
                raise ProtocolError("NOTIFY_ERROR without an error code")
            text = body[_ERROR.size :][:MAX_ERROR_TEXT].split(b"\0", 1)[0]
            return NotifyError(_ERROR.unpack_from(body)[0], printable(text))
        case _:
            return Unknown(header.type, header.size)


def parse_from_guest(header: Header, body: bytes) -> FromGuest:
    """Return the message of a guest whose header passed ``check_from_guest``.

    Raises ProtocolError, with the host's own words, for a body that a host would refuse.
    """
    return _GUEST_PARSERS[Type(header.type)](body)


def parse_format(message: Bytes) -> Format:
    """Return a whole FORMAT message whose header was checked."""
    return Format(*_FORMAT.unpack_from(message, HEADER_SIZE))


def _parse_capabilities(body: bytes) -> Capabilities:
    return Capabilities(quality_indicator=bool(body and body[0] & 1))


def _parse_cursor(body: bytes) -> CursorSet:
    width, height, hot_x, hot_y, untrusted_type = _CURSOR_SET.unpack_from(body)
    if untrusted_type not in set(CursorType) or max(width, height) > MAX_CURSOR_SIDE:
        raise ProtocolError("Protocol error")
    cursor_type = CursorType(untrusted_type)
    wanted = cursor_type.pixel_bytes(width, height)
    pixels = body[_CURSOR_SET.size :]
    if len(pixels) < wanted:
        raise ProtocolError("Protocol error")
    return CursorSet(width, height, hot_x, hot_y, pixels[:wanted], cursor_type)


def _parse_display_info(body: bytes) -> DeviceDisplayInfo:
    stream_id, display_id, length = _DISPLAY_INFO.unpack_from(body)
    # A host ignores a wrong length with a warning and cuts a long address; so does this one.
    address = body[_DISPLAY_INFO.size :][: min(length, MAX_ADDRESS + 1)]
    return DeviceDisplayInfo(stream_id, display_id, printable(address[:-1]))


def printable(text: bytes) -> str:
    """Return a peer's text fit for a log line: control characters become question marks."""
    return "".join(c if c.isprintable() else "?" for c in text.decode("utf-8", "replace"))


_GUEST_PARSERS: Final[dict[Type, Callable[[bytes], FromGuest]]] = {
    Type.CAPABILITIES: _parse_capabilities,
    Type.FORMAT: lambda body: Format(*_FORMAT.unpack(body)),
    Type.DATA: Data,
    Type.CURSOR_SET: _parse_cursor,
    Type.CURSOR_MOVE: lambda body: CursorMove(*_CURSOR_MOVE.unpack(body)),
    Type.DEVICE_DISPLAY_INFO: _parse_display_info,
    Type.QUALITY_INDICATOR: lambda body: QualityIndicator(printable(body.split(b"\0", 1)[0])),
}


def pack(message: Message) -> bytes:
    """Return the whole message, header included.

    Raises LocalProtocolError for values that do not fit the protocol.
    """
    body = message.body()
    least, most, complaint = _GUEST_SIZES.get(message.TYPE, (0, MAX_FROM_HOST, "too large"))
    if not least <= len(body) <= most:
        raise LocalProtocolError(complaint)
    return Header(message.TYPE, len(body)).pack() + body
