"""What is said around the KMS helper: with the daemon in JSON, with the agent in packed structs.

Both are sockets of type SOCK_SEQPACKET, a message a packet. The daemon says who is served, once,
and from then on whether that agent may see the screen; the helper says READY, or FAILED and ends.
The agent asks, and each ASK has one answer: planes, with the descriptors of their buffers, or a
refusal.

The helper loads this at its start, so its values are plain tuples: dataclasses would bring half
of the standard library along.
"""

import enum
import json
import re
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sessiond.errors import ProtocolError

MAX_CONTROL: Final = 4096  # bytes of a packet between daemon and helper
MAX_TEXT: Final = 1024  # bytes of a sentence
MAX_SIDE: Final = 8192  # pixels, of the whole picture and of a buffer
MAX_OUTPUTS: Final = 16
MAX_PLANES: Final = 2 * MAX_OUTPUTS  # each output may have a cursor
MAX_VT: Final = 63
_CARD: Final = re.compile(r"card[0-9]+")  # beside render nodes, which show nothing (drm(7))


def is_card(name: str) -> bool:
    """Whether this is the name of a graphics card, as in /dev/dri and /sys/class/drm."""
    return _CARD.fullmatch(name) is not None


# The daemon's end.


class Serve(NamedTuple):
    """Serve the agent whose socket comes along, on this VT alone (to the helper; once, first)."""

    vt: int


class Grant(NamedTuple):
    """Whether the agent may see the screen, from now on; before the first it may not."""

    is_given: bool


class Ready(NamedTuple):
    """The card is open; its name in /dev/dri, and its driver (to the daemon)."""

    card: str
    driver: str


class Failed(NamedTuple):
    """Why the helper ends now (to the daemon)."""

    text: str


def pack_control(message: Serve | Grant | Ready | Failed) -> bytes:
    """Return the packet."""
    return json.dumps(_value(message)).encode()


def parse_from_daemon(untrusted: bytes) -> Serve | Grant:
    """Return what the daemon says. Raises ProtocolError."""
    match _decode(untrusted):
        case {"serve": {"vt": int(vt), **more}, **others} if not more and not others:
            if isinstance(vt, bool) or not 1 <= vt <= MAX_VT:
                raise ProtocolError(f"there is no VT {vt}")
            return Serve(vt)
        case {"grant": bool(is_given), **others} if not others:
            return Grant(is_given)
    raise ProtocolError("neither serve nor grant")


def parse_from_helper(untrusted: bytes) -> Ready | Failed:
    """Return what the helper says. Raises ProtocolError."""
    match _decode(untrusted):
        case {"ready": {"card": str(card), "driver": str(driver), **more}, **others} if (
            not more and not others
        ):
            return Ready(_clean(card), _clean(driver))
        case {"error": str(text), **others} if not others:
            return Failed(_clean(text))
    raise ProtocolError("neither ready nor error")


def _value(message: Serve | Grant | Ready | Failed) -> dict[str, object]:
    match message:
        case Serve(vt):
            return {"serve": {"vt": vt}}
        case Grant(is_given):
            return {"grant": is_given}
        case Ready(card, driver):
            return {"ready": {"card": card, "driver": driver}}
        case Failed(text):
            return {"error": _shortened(text)}


def _decode(untrusted: bytes) -> object:
    if len(untrusted) > MAX_CONTROL:
        raise ProtocolError(f"a packet of {len(untrusted)} bytes")
    try:
        return json.loads(untrusted)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"no JSON: {error}") from None


# The agent's end.


class Ask(enum.IntEnum):
    """What the agent wants to have."""

    LOOK = 1  # what there is, without its pixels; needs no grant
    PIXELS = 2


class Code(enum.IntEnum):
    """Why there is nothing; a sentence comes with it."""

    NOT_GRANTED = 1
    OTHER_VT = 2
    OFF = 3  # no output shows anything
    UNREADABLE = 4  # its layout, its format, its size, or the card's driver
    RESTLESS = 5  # it changes while it is looked at; ask again


class Refused(NamedTuple):
    """An answer without a picture."""

    code: Code
    text: str


class Kind(enum.IntEnum):
    """What a plane shows."""

    PRIMARY = 1
    CURSOR = 2


class Plane(NamedTuple):
    """A part of a buffer, and where in the picture it is shown. All numbers are pixels or bytes.

    The picture is the rectangle from 0, 0 that holds all PRIMARY planes.

    ``buffer`` is the place of its descriptor among those that came along (0 for LOOK). ``x`` and
    ``y`` are those of its upper left corner; ``left`` and ``top`` of where it begins in the
    buffer, which has rows of ``pitch`` bytes from ``offset`` on, of ``fourcc``. ``output`` is a
    connector's name. A cursor points at ``hot_x``, ``hot_y``, counted from its own corner.
    """

    kind: Kind
    buffer: int
    x: int
    y: int
    width: int
    height: int
    left: int
    top: int
    fourcc: int
    pitch: int
    offset: int
    hot_x: int = 0
    hot_y: int = 0
    output: str = ""


def fourcc(name: str) -> int:
    """Return the number of a pixel format, such as ``XR24`` (linux, drm/drm_fourcc.h)."""
    return int.from_bytes(name.encode(), "little")


# Formats that an agent can read, with the bytes of a pixel; the cursor's is AR24 everywhere.
FORMATS: Final = {
    fourcc("XR24"): 4, fourcc("AR24"): 4, fourcc("XB24"): 4, fourcc("AB24"): 4,
    fourcc("RG24"): 3, fourcc("RG16"): 2,
}  # fmt: skip

_ASK: Final = struct.Struct("=I")
_HEAD: Final = struct.Struct("=II")  # 0 and how many planes, or a code and a text's length
_PLANE: Final = struct.Struct("=IIiiIIIIIIIii32s")
MAX_ASK: Final = _ASK.size
MAX_ANSWER: Final = _HEAD.size + max(MAX_TEXT, MAX_PLANES * _PLANE.size)


def pack_ask(ask: Ask) -> bytes:
    """Return the packet."""
    return _ASK.pack(ask)


def parse_ask(untrusted: bytes) -> Ask:
    """Return what the agent asks. Raises ProtocolError."""
    try:
        return Ask(*_ASK.unpack(untrusted))
    except (struct.error, ValueError):
        raise ProtocolError(f"no question of an agent's: {untrusted[:8].hex(' ')}") from None


def pack_answer(answer: Sequence[Plane] | Refused) -> bytes:
    """Return the packet."""
    if isinstance(answer, Refused):
        text = _shortened(answer.text).encode()
        return _HEAD.pack(answer.code, len(text)) + text
    planes = (_PLANE.pack(*plane[:-1], plane.output.encode()[:32]) for plane in answer)
    return _HEAD.pack(0, len(answer)) + b"".join(planes)


def parse_answer(untrusted: bytes, buffers: int) -> tuple[Plane, ...] | Refused:
    """Return the answer that came with so many descriptors. Raises ProtocolError.

    Whether a buffer is as large as its planes say is for who has it to find out.
    """
    if len(untrusted) < _HEAD.size:
        raise ProtocolError(f"an answer of {len(untrusted)} bytes")
    code, count = _HEAD.unpack_from(untrusted)
    body = untrusted[_HEAD.size :]
    if code:
        return _refusal(code, body)
    if not 1 <= count <= MAX_PLANES or len(body) != count * _PLANE.size:
        raise ProtocolError(f"{count} planes in {len(body)} bytes")
    planes = tuple(_plane(fields) for fields in _PLANE.iter_unpack(body))
    if not any(plane.kind is Kind.PRIMARY for plane in planes):
        raise ProtocolError("nothing but cursors")
    if buffers and {plane.buffer for plane in planes} != set(range(buffers)):
        raise ProtocolError("the planes are not those of the buffers")
    return planes


def _refusal(code: int, body: bytes) -> Refused:
    try:
        return Refused(Code(code), _clean(body.decode(errors="replace")))
    except ValueError:
        raise ProtocolError(f"a refusal of code {code}") from None


def _plane(untrusted: tuple[Any, ...]) -> Plane:
    kind, *numbers, name = untrusted
    try:
        kind = Kind(kind)
    except ValueError:
        raise ProtocolError(f"a plane of kind {kind}") from None
    output = _clean(name.rstrip(b"\0").decode(errors="replace"))
    plane = Plane._make((kind, *numbers, output))
    pixel = FORMATS.get(plane.fourcc, 0)
    sides = (plane.left + plane.width, plane.top + plane.height)
    if not (pixel and plane.width and plane.height and max(sides) <= MAX_SIDE):
        raise ProtocolError(f"a plane of {plane.width}x{plane.height}, format {plane.fourcc:#x}")
    if sides[0] * pixel > plane.pitch or plane.pitch > MAX_SIDE * 16:
        raise ProtocolError(f"rows of {plane.pitch} bytes for {sides[0]} pixels")
    if kind is Kind.PRIMARY:
        is_inside = min(plane.x, plane.y) >= 0
        is_inside &= max(plane.x + plane.width, plane.y + plane.height) <= MAX_SIDE
    else:
        is_inside = max(map(abs, (plane.x, plane.y, plane.hot_x, plane.hot_y))) <= 2 * MAX_SIDE
    if not is_inside:
        raise ProtocolError(f"a plane at {plane.x}, {plane.y}")
    return plane


def _shortened(text: str) -> str:
    return text.encode()[:MAX_TEXT].decode(errors="ignore")


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_TEXT])
