"""A graphics card: what its screen shows at a moment. It is looked at, and never changed."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from sessiond.errors import SessiondError
from sessiond.kms.drm import Capability, Crtc, Device, Framebuffer
from sessiond.wire.kms import is_card

FOLDER: Final = "/dev/dri"
UDEV: Final = "/run/udev/data"
_VT_SEAT: Final = "seat0"
_CURSOR: Final = 2  # of a plane's property "type" (drm_mode.h: enum drm_plane_type)


class Cursor(NamedTuple):
    """A cursor plane that shows something, placed in the picture of its CRTC."""

    crtc: int
    framebuffer: int
    x: int
    y: int
    hot_x: int
    hot_y: int


class Screen(NamedTuple):
    """What a card shows: the CRTCs and cursors that have a framebuffer."""

    crtcs: tuple[Crtc, ...]
    cursors: tuple[Cursor, ...]

    @property
    def framebuffers(self) -> tuple[int, ...]:
        """The numbers of the framebuffers, the CRTCs' first, each once."""
        shown = [crtc.framebuffer for crtc in self.crtcs]
        return tuple(dict.fromkeys([*shown, *(cursor.framebuffer for cursor in self.cursors)]))

    def is_alike(self, other: "Screen") -> bool:
        """Return whether the same is shown; a cursor may have moved."""
        return self.crtcs == other.crtcs and self.framebuffers == other.framebuffers


class Output(NamedTuple):
    """The connector that a CRTC feeds: its place among the card's connectors, and its name."""

    place: int
    name: str


class Card:
    """An open card, until ``close``. Every call may raise OSError.

    Opened while nobody else has it, a card is ours to change (drm-uapi, "Primary Nodes, DRM Master
    and Authentication"), and no compositor could have it: that is given up at once.
    """

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._device = Device(fd)
        with contextlib.suppress(OSError):  # somebody else has it
            self._device.drop_master()
        self._fd = fd
        self.name = os.path.basename(path)
        try:
            self.driver = self._device.driver()
            for capability in (
                Capability.UNIVERSAL_PLANES,
                Capability.ATOMIC,
                Capability.CURSOR_PLANE_HOTSPOT,
            ):
                with contextlib.suppress(OSError):  # an old driver, an old kernel: no cursor then
                    self._device.set_capability(capability)
            self._crtcs, self._connectors = self._device.resources()
            self._names: dict[int, str] = {}  # of properties
            self._cursors = tuple(filter(self._is_cursor, self._device.planes()))
        except OSError:
            self.close()
            raise
        self._outputs: Mapping[int, Output] = {}
        self._outputs_of: object = None

    def close(self) -> None:
        """Close it; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def screen(self) -> Screen:
        """Return what is shown now."""
        crtcs = tuple(crtc for crtc in map(self._device.crtc, self._crtcs) if crtc.framebuffer)
        cursors = (self._cursor(plane) for plane in self._cursors)
        return Screen(crtcs, tuple(cursor for cursor in cursors if cursor.framebuffer))

    def outputs(self, screen: Screen) -> Mapping[int, Output]:
        """Return which connector each CRTC feeds, the first one if there are more."""
        of = tuple(crtc._replace(framebuffer=0) for crtc in screen.crtcs)
        if of != self._outputs_of:  # many questions for what changes with the modes alone
            self._outputs, self._outputs_of = self._read_outputs(), of
        return self._outputs

    @contextlib.contextmanager
    def opened(self, numbers: Iterable[int]) -> Iterator[dict[int, Framebuffer]]:
        """Open framebuffers until the end of the context; one that is no more is left out.

        Raises SessiondError without CAP_SYS_ADMIN.
        """
        found: dict[int, Framebuffer] = {}
        try:
            for number in numbers:
                with contextlib.suppress(FileNotFoundError):
                    found[number] = self._device.framebuffer(number)
            if not all(buffer.handle for buffer in found.values()):
                raise SessiondError("CAP_SYS_ADMIN is needed to look at the screen's buffers")
            yield found
        finally:
            # Each of them counts against the card's memory, for as long as we have it open.
            for buffer in found.values():
                for handle in buffer.handles:
                    self._device.close_handle(handle)

    def export(self, handle: int) -> int:
        """Return a descriptor of a buffer, which is the caller's."""
        return self._device.export(handle)

    def _is_cursor(self, plane: int) -> bool:
        return self._properties(plane).get("type") == _CURSOR

    def _cursor(self, plane: int) -> Cursor:
        values = self._properties(plane)
        crtc, framebuffer = values.get("CRTC_ID", 0), values.get("FB_ID", 0)
        names = ("CRTC_X", "CRTC_Y", "HOTSPOT_X", "HOTSPOT_Y")
        x, y, hot_x, hot_y = (values.get(name, 0) for name in names)
        return Cursor(crtc, framebuffer if crtc else 0, x, y, hot_x, hot_y)

    def _properties(self, plane: int) -> dict[str, int]:
        values = self._device.plane_properties(plane)
        return {self._property_name(number): value for number, value in values.items()}

    def _property_name(self, number: int) -> str:
        if number not in self._names:
            self._names[number] = self._device.property_name(number)
        return self._names[number]

    def _read_outputs(self) -> dict[int, Output]:
        found: dict[int, Output] = {}
        # Asked again: connectors come and go, with a dock.
        _, self._connectors = self._device.resources()
        for place, number in enumerate(self._connectors):
            with contextlib.suppress(OSError):  # it has just gone
                name, encoder = self._device.connector(number)
                if encoder:
                    found.setdefault(self._device.crtc_of_encoder(encoder), Output(place, name))
        return found


def open_cards(
    folder: str = FOLDER, open_card: Callable[[str], Card] = Card, udev: str = UDEV
) -> tuple[list[Card], str]:
    """Open all cards of the seat with the VTs; return them and, if none, what is wrong with each.

    Who is served sits there, and at another seat somebody else. ``udev`` is where that daemon keeps
    what it knows of devices.
    """
    faults = []
    cards = []
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if is_card(entry.name))
    except OSError:
        names = []
    for name in names:
        try:
            if (seat := _seat(f"{folder}/{name}", udev)) != _VT_SEAT:
                faults.append(f"{name} is of {seat}")
            else:
                cards.append(open_card(f"{folder}/{name}"))
        except OSError as error:
            faults.append(f"{name}: {error.strerror}")
    if cards:
        return cards, ""
    return [], "; ".join(faults) or f"there is no card in {folder}"


def _seat(path: str, udev: str) -> str:
    """Return whose a card is; the first seat's if nobody says so (sd-login(3), loginctl(1))."""
    device = os.stat(path).st_rdev
    try:
        name = f"{udev}/c{os.major(device)}:{os.minor(device)}"
        with open(name, encoding="utf-8", errors="replace") as known:
            text = known.read()
    except FileNotFoundError:
        return _VT_SEAT
    match = re.search(r"^E:ID_SEAT=(.+)$", text, re.MULTILINE)
    return match[1] if match else _VT_SEAT
