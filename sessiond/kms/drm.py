"""The kernel's mode setting, by its ioctls: structs in, plain values out.

Source: linux, include/uapi/drm/drm.h and drm_mode.h. Every call raises OSError.
"""

import array
import enum
import fcntl
import os
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

_S: Final = struct.Struct


class Call(enum.Enum):
    """An ioctl: its number, and its argument's struct."""

    VERSION = (0x00, _S("@iiiNPNPNP"))
    GEM_CLOSE = (0x09, _S("=II"))
    SET_CLIENT_CAP = (0x0D, _S("=QQ"))
    DROP_MASTER = (0x1F, _S(""))
    PRIME_HANDLE_TO_FD = (0x2D, _S("=IIi"))
    MODE_GETRESOURCES = (0xA0, _S("=4Q8I"))
    MODE_GETCRTC = (0xA1, _S("=Q7I I10H3I32s"))
    MODE_GETENCODER = (0xA6, _S("=5I"))
    MODE_GETCONNECTOR = (0xA7, _S("=4Q12I"))
    MODE_GETPROPERTY = (0xAA, _S("=QQII32sII"))
    MODE_GETPLANERESOURCES = (0xB5, _S("=QI4x"))
    MODE_OBJ_GETPROPERTIES = (0xB9, _S("=QQIII4x"))
    MODE_GETFB2 = (0xCE, _S("=5I4I4I4I4x4Q"))

    def __init__(self, number: int, form: struct.Struct) -> None:
        self.form = form
        # asm-generic/ioctl.h, which x86, Arm and RISC-V go by; drm.h: 'd', and which way.
        way = {"DROP_MASTER": 0, "GEM_CLOSE": 1, "SET_CLIENT_CAP": 1}.get(self.name, 3)
        self.request = way << 30 | form.size << 16 | ord("d") << 8 | number


class Capability(enum.IntEnum):
    """What a client asks to be shown; drm.h, DRM_CLIENT_CAP_*."""

    UNIVERSAL_PLANES = 2
    ATOMIC = 3
    CURSOR_PLANE_HOTSPOT = 6


MODE_FB_MODIFIERS: Final = 1 << 1
OBJECT_PLANE: Final = 0xEEEEEEEE
_CLOEXEC: Final = os.O_CLOEXEC  # which is what DRM_CLOEXEC is

# DRM_MODE_CONNECTOR_*; the kernel's names (drm_connector.c), which are sysfs's.
CONNECTORS: Final = (
    "Unknown", "VGA", "DVI-I", "DVI-D", "DVI-A", "Composite", "SVIDEO", "LVDS", "Component",
    "DIN", "DP", "HDMI-A", "HDMI-B", "TV", "eDP", "Virtual", "DSI", "DPI", "Writeback", "SPI",
    "USB",
)  # fmt: skip


class Crtc(NamedTuple):
    """What a CRTC shows: a part of a framebuffer (0: none), from ``left`` and ``top`` on."""

    number: int
    framebuffer: int
    left: int
    top: int
    width: int
    height: int


class Framebuffer(NamedTuple):
    """A framebuffer and the handles that asking for it has opened, each to be closed once.

    ``modifier`` is None where the driver has none. ``handle`` is 0 for who may not look.
    """

    width: int
    height: int
    fourcc: int
    pitch: int
    offset: int
    modifier: int | None
    handle: int
    handles: tuple[int, ...]


class Device:
    """An open card, which stays its owner's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._names = array.array("I", bytes(4 * 64))
        self._values = array.array("q", bytes(8 * 64))  # signed, as coordinates are

    def drop_master(self) -> None:
        """Be nobody who could change what is shown."""
        self._call(Call.DROP_MASTER)

    def driver(self) -> str:
        """Return the driver's name."""
        name = array.array("B", bytes(64))
        values = self._call(Call.VERSION, 0, 0, 0, len(name), name.buffer_info()[0], 0, 0, 0, 0)
        return name.tobytes()[: values[3]].decode(errors="replace")

    def set_capability(self, capability: Capability) -> None:
        """Ask to be shown more."""
        self._call(Call.SET_CLIENT_CAP, capability, 1)

    def resources(self) -> tuple[Sequence[int], Sequence[int]]:
        """Return the numbers of all CRTCs and of all connectors, in the card's order."""
        counts = self._call(Call.MODE_GETRESOURCES, *bytes(12))[4:8]
        # What is plugged in meanwhile waits until we are asked again.
        crtcs, connectors = (array.array("I", bytes(4 * counts[which])) for which in (1, 2))
        values = self._call(
            Call.MODE_GETRESOURCES,
            *(0, crtcs.buffer_info()[0], connectors.buffer_info()[0], 0),
            *(0, len(crtcs), len(connectors), 0),
            *bytes(4),
        )
        return crtcs[: values[5]], connectors[: values[6]]

    def crtc(self, number: int) -> Crtc:
        """Return what a CRTC shows now."""
        values = self._call(Call.MODE_GETCRTC, 0, 0, number, *bytes(5), *bytes(14), b"")
        _, _, _, framebuffer, left, top, _, is_valid, *mode = values
        if not is_valid:
            return Crtc(number, 0, 0, 0, 0, 0)
        return Crtc(number, framebuffer, left, top, mode[1], mode[6])

    def connector(self, number: int) -> tuple[str, int]:
        """Return a connector's name, and its encoder's number; 0 for none."""
        # Asked for no mode, a kernel may probe the cable; here it has room for one, which it does
        # not use if there are more.
        mode = array.array("B", bytes(68))
        values = self._call(
            Call.MODE_GETCONNECTOR,
            *(0, mode.buffer_info()[0], 0, 0),
            *(1, 0, 0, 0, number),
            *bytes(7),
        )
        kind, of_kind = values[9:11]
        name = CONNECTORS[kind] if kind < len(CONNECTORS) else CONNECTORS[0]
        return f"{name}-{of_kind}", values[7]

    def crtc_of_encoder(self, number: int) -> int:
        """Return which CRTC feeds an encoder; 0 for none."""
        crtc: int = self._call(Call.MODE_GETENCODER, number, *bytes(4))[2]
        return crtc

    def planes(self) -> Sequence[int]:
        """Return the numbers of all planes that we are shown."""
        count = self._call(Call.MODE_GETPLANERESOURCES, 0, 0)[1]
        planes = array.array("I", bytes(4 * count))
        values = self._call(Call.MODE_GETPLANERESOURCES, planes.buffer_info()[0], count)
        return planes[: values[1]]

    def plane_properties(self, number: int) -> dict[int, int]:
        """Return the values of a plane's properties by the properties' numbers."""
        # Made once: this is asked again and again, and 64 are twice what any driver has.
        names, values = self._names, self._values
        answer = self._call(
            Call.MODE_OBJ_GETPROPERTIES,
            *(names.buffer_info()[0], values.buffer_info()[0], len(names)),
            *(number, OBJECT_PLANE),
        )
        return dict(zip(names[: answer[2]], values, strict=False))

    def property_name(self, number: int) -> str:
        """Return a property's name."""
        values = self._call(Call.MODE_GETPROPERTY, 0, 0, number, 0, b"", 0, 0)
        return str(values[4].partition(b"\0")[0], "ascii", "replace")

    def framebuffer(self, number: int) -> Framebuffer:
        """Return a framebuffer, with handles opened for it: each call opens new ones."""
        values = self._call(Call.MODE_GETFB2, number, *bytes(20))
        _, width, height, fourcc, flags = values[:5]
        handles, pitches, offsets, modifiers = (values[at : at + 4] for at in (5, 9, 13, 17))
        return Framebuffer(
            width, height, fourcc, pitches[0], offsets[0],
            modifiers[0] if flags & MODE_FB_MODIFIERS else None,
            handles[0], tuple(sorted(set(handles) - {0})),
        )  # fmt: skip

    def export(self, handle: int) -> int:
        """Return a descriptor of a buffer, to be read only; it is the caller's."""
        fd: int = self._call(Call.PRIME_HANDLE_TO_FD, handle, _CLOEXEC, -1)[2]
        return fd

    def close_handle(self, handle: int) -> None:
        """Give a handle back."""
        self._call(Call.GEM_CLOSE, handle, 0)

    def _call(self, call: Call, *values: int | bytes) -> tuple[Any, ...]:
        argument = bytearray(call.form.pack(*values))
        fcntl.ioctl(self._fd, call.request, argument, True)
        return call.form.unpack(argument)
