"""The worked examples of the stream device protocol, and strategies for any message of it."""

from typing import Final

from hypothesis import strategies as st

from sessiond.wire.device import (
    Capabilities,
    CursorMove,
    CursorSet,
    CursorType,
    Data,
    DeviceDisplayInfo,
    Format,
    FromGuest,
    FromHost,
    NotifyError,
    QualityIndicator,
    StartStop,
)

# Those of the host, and the frames' and cursors' rules, were seen with spice-server 0.15.1.
HOST_EXAMPLES: Final[dict[str, tuple[str, FromHost]]] = {
    "capabilities": ("010001000100000000", Capabilities()),
    "start, MJPEG only": ("01000400020000000101", StartStop((1,))),
    "start, all codecs": ("0100040006000000050102030405", StartStop((1, 2, 3, 4, 5))),
    "stop": ("010004000100000000", StartStop(())),
    "error": (
        "010005001900000000000000496e76616c6964206d657373616765207479706500",
        NotifyError(0, "Invalid message type"),
    ),
}
GUEST_EXAMPLES: Final[dict[str, tuple[str, FromGuest]]] = {
    "capabilities": ("010001000100000000", Capabilities()),
    "display info": (
        "010008001a00000000000000000000000e0000007063692f303030302f30322e3000",
        DeviceDisplayInfo(0, 0, "pci/0000/02.0"),
    ),
    "display info behind bridges": (
        "01000800240000000100000002000000180000007063692f303030302f30332e302f30312e302f30332e3000",
        DeviceDisplayInfo(1, 2, "pci/0000/03.0/01.0/03.0"),
    ),
    "format": ("010002000c000000800700003804000001000000", Format(1920, 1080, 1)),
    "data": ("0100030006000000ffd8ffe0ffd9", Data(bytes.fromhex("ffd8ffe0ffd9"))),
    "cursor": (
        "01000600140000000200010001000000000000000000ffff00000000",
        CursorSet(2, 1, 1, 0, bytes.fromhex("0000ffff00000000")),
    ),
    "move": ("0100070008000000ffffffff2c010000", CursorMove(-1, 300)),
    "quality": ("0100090005000000713d383000", QualityIndicator("q=80")),
}

_U8, _U16, _U32 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32))
_I32 = st.integers(-(2**31), 2**31 - 1)
_WORDS = st.text("aZ 0=äß€😀?", max_size=64)  # what printable() leaves as it is


@st.composite
def _cursors(draw: st.DrawFn) -> CursorSet:
    width, height = draw(st.integers(0, 9)), draw(st.integers(0, 9))
    kind = draw(st.sampled_from(CursorType))
    size = kind.pixel_bytes(width, height)
    pixels = draw(st.binary(min_size=size, max_size=size))
    return CursorSet(width, height, draw(_U16), draw(_U16), pixels, kind)


CAPABILITIES: Final = st.builds(Capabilities, st.booleans())
FROM_HOST: Final[st.SearchStrategy[FromHost]] = st.one_of(
    CAPABILITIES,
    st.builds(StartStop, st.lists(_U8, max_size=255).map(tuple)),
    st.builds(NotifyError, _U32, _WORDS),
)
FROM_GUEST: Final[st.SearchStrategy[FromGuest]] = st.one_of(
    CAPABILITIES,
    st.builds(Format, _U32, _U32, _U8),
    st.builds(Data, st.binary(max_size=300)),
    _cursors(),
    st.builds(CursorMove, _I32, _I32),
    st.builds(DeviceDisplayInfo, _U32, _U32, st.text("pci/0.f", max_size=255)),
    st.builds(QualityIndicator, _WORDS),
)
