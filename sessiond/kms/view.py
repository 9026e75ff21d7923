"""What a card shows, as the planes of one picture, or why it cannot be read. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final

from sessiond.kms.card import Cursor, Output, Screen
from sessiond.kms.drm import Crtc, Framebuffer
from sessiond.wire.kms import FORMATS, MAX_OUTPUTS, MAX_SIDE, Code, Kind, Plane, Refused, fourcc

_LINEAR: Final = 0  # drm_fourcc.h, DRM_FORMAT_MOD_LINEAR
_CURSOR_FORMAT: Final = fourcc("AR24")

# Drivers whose buffers are rows of pixels, one after the other, even where they do not say so.
# Others without modifiers may tile theirs, which looks like noise.
_PLAIN: Final = frozenset({
    "ast", "bochs-drm", "cirrus", "cirrus-qemu", "efidrm", "hyperv_drm", "mgag200", "ofdrm",
    "qxl", "simpledrm", "udl", "vboxvideo", "vesadrm", "vgem", "virtio_gpu", "vkms", "vmwgfx",
})  # fmt: skip


class RefusalError(Exception):
    """There is no picture; ``refused`` is what the agent is told."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.refused = Refused(code, text)


def planes(
    screen: Screen,
    framebuffers: Mapping[int, Framebuffer],
    outputs: Mapping[int, Output],
    driver: str,
) -> list[Plane]:
    """Return what is shown, and at most one cursor. Raises RefusalError.

    ``framebuffers`` are those of the screen; a plane's ``buffer`` is one's number here.
    """
    if len(screen.crtcs) > MAX_OUTPUTS:
        raise _unreadable(f"{len(screen.crtcs)} outputs; at most {MAX_OUTPUTS} can be shown")
    at = _places(screen.crtcs, outputs)
    found = []
    for crtc in screen.crtcs:
        buffer = framebuffers[crtc.framebuffer]
        if fault := _fault(buffer, driver):
            raise _unreadable(fault)
        x, y = at[crtc.number]
        # Where a plane is scaled, all of its buffer is less than the mode.
        width = min(crtc.width, buffer.width - crtc.left)
        height = min(crtc.height, buffer.height - crtc.top)
        if min(width, height) <= 0:
            raise _unreadable(f"an output shows nothing of its {buffer.width}x{buffer.height}")
        if max(x + width, y + height) > MAX_SIDE:
            raise _unreadable(
                f"the screens together have {x + width}x{y + height} pixels or more; at most "
                f"{MAX_SIDE}x{MAX_SIDE} can be shown"
            )
        name = outputs[crtc.number].name if crtc.number in outputs else ""
        found.append(
            Plane(
                Kind.PRIMARY, crtc.framebuffer, x, y, width, height, crtc.left, crtc.top,
                buffer.fourcc, buffer.pitch, buffer.offset, output=name,
            )
        )  # fmt: skip
    cursor = _pick(screen, framebuffers, driver)
    if cursor:
        x, y = at[cursor.crtc]
        buffer = framebuffers[cursor.framebuffer]
        found.append(
            Plane(
                Kind.CURSOR, cursor.framebuffer, x + cursor.x, y + cursor.y,
                buffer.width, buffer.height, 0, 0, buffer.fourcc, buffer.pitch, buffer.offset,
                cursor.hot_x, cursor.hot_y,
            )
        )  # fmt: skip
    return found


def _places(crtcs: Sequence[Crtc], outputs: Mapping[int, Output]) -> dict[int, tuple[int, int]]:
    """Return where in the picture each CRTC is."""
    if len({crtc.framebuffer for crtc in crtcs}) == 1:  # Xorg's and the console's: its parts
        left, top = min(crtc.left for crtc in crtcs), min(crtc.top for crtc in crtcs)
        return {crtc.number: (crtc.left - left, crtc.top - top) for crtc in crtcs}
    # How a compositor has placed them nobody tells: side by side, by their connectors.
    last = Output(len(outputs), "")
    found, x = {}, 0
    for crtc in sorted(crtcs, key=lambda crtc: outputs.get(crtc.number, last)):
        found[crtc.number] = (x, 0)
        x += crtc.width
    return found


def _fault(buffer: Framebuffer, driver: str) -> str:
    """Return why a buffer cannot be read, "" if it can."""
    if buffer.modifier is None and driver not in _PLAIN:
        return f"the driver {driver} does not say how its buffers are laid out"
    if buffer.modifier:
        return f"the screen's buffer is not laid out in rows (modifier {buffer.modifier:#018x})"
    if buffer.fourcc not in FORMATS:
        name = buffer.fourcc.to_bytes(4, "little").decode("ascii", "replace")
        return f"the screen's buffer has the format {name}, which is not supported"
    if max(buffer.width, buffer.height) > MAX_SIDE:
        return (
            f"the screen's buffer has {buffer.width}x{buffer.height} pixels; at most "
            f"{MAX_SIDE}x{MAX_SIDE} can be shown"
        )
    return ""


def _pick(screen: Screen, framebuffers: Mapping[int, Framebuffer], driver: str) -> Cursor | None:
    """Return the cursor to show: where it touches two outputs, that of the one it points into."""
    crtcs = {crtc.number: crtc for crtc in screen.crtcs}

    def is_good(cursor: Cursor) -> bool:
        buffer = framebuffers[cursor.framebuffer]
        return (
            cursor.crtc in crtcs
            and buffer.fourcc == _CURSOR_FORMAT
            and not _fault(buffer, driver)
            and max(map(abs, (cursor.x, cursor.y, cursor.hot_x, cursor.hot_y))) <= MAX_SIDE
        )

    def points_into(cursor: Cursor) -> bool:
        crtc = crtcs[cursor.crtc]
        x, y = cursor.x + cursor.hot_x, cursor.y + cursor.hot_y
        return 0 <= x < crtc.width and 0 <= y < crtc.height

    good = [cursor for cursor in screen.cursors if is_good(cursor)]
    return max(good, key=points_into, default=None)


def _unreadable(text: str) -> RefusalError:
    return RefusalError(Code.UNREADABLE, text)
