"""A picture with a sentence, for when there is no screen to show."""

import re
import select
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from agent.capture.base import MAX_SIDE, Capture, Changes, Frame
from sessiond.errors import UsageError

MAX_TEXT: Final = 500  # characters; more would be too small to read
_FONT: Final = "DejaVuSans.ttf"  # Pillow looks for it in the system's font folders
_BACKGROUND: Final = (32, 34, 38)
_INK: Final = (225, 228, 232)
_SMALLEST: Final = 8  # pixels
_ROOM: Final = 0.8  # of the picture's width and of its height, for the text
_SIZE: Final = re.compile(r"(\d{1,5})x(\d{1,5})", re.ASCII)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def parse_size(untrusted: str) -> tuple[int, int]:
    """Return width and height of ``WxH``. Raises UsageError."""
    match = _SIZE.fullmatch(untrusted)
    width, height = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise UsageError(f"size {untrusted!r} is not WxH, from 1x1 to {MAX_SIDE}x{MAX_SIDE}")
    return width, height


def draw_placeholder(size: tuple[int, int], text: str) -> Image.Image:
    """Return ``text`` in the middle of a dark picture, as large as its wrapped lines allow."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text[:MAX_TEXT]).split())
    room = (round(size[0] * _ROOM), round(size[1] * _ROOM))
    height = max(_SMALLEST, min(size[1] // 11, size[0] // 16))
    block = _block(text, height, room[0])
    while height > _SMALLEST and (block.width > room[0] or block.height > room[1]):
        height = max(_SMALLEST, height * 9 // 10)
        block = _block(text, height, room[0])
    image = Image.new("RGB", size, _BACKGROUND)
    place = ((size[0] - block.width) // 2, (size[1] - block.height) // 2)
    image.paste(_INK, place, block)
    return image


class PlaceholderCapture(Capture):
    """A screen that shows one picture and never changes."""

    def __init__(self, size: tuple[int, int], text: str) -> None:
        self._size = size
        pixels = draw_placeholder(size, text).tobytes("raw", "BGRX")
        self._pixels = memoryview(pixels)

    def describe(self) -> str:
        return f"a placeholder, {self._size[0]}x{self._size[1]}"

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @property
    def unavailable(self) -> str:
        return ""

    def begin(self) -> None:
        """Nothing changes, so there is nothing to watch."""

    def end(self) -> None:
        """As little as there is to stop."""

    def wait(self, wake_fd: int) -> Changes:
        select.select([wake_fd], [], [])
        return Changes.NONE

    def grab(self, slot: int) -> Frame:
        width, height = self._size
        return Frame(width, height, 4 * width, self._pixels, slot)

    def cursor(self) -> None:
        return None

    def pointer(self) -> tuple[int, int]:
        return (0, 0)

    def outputs(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        self._pixels = memoryview(b"")


def _block(text: str, height: int, width: int) -> Image.Image:
    """Return the wrapped text, cropped, as a mask; letters are about ``height`` pixels high."""
    font = _font(height)
    if not isinstance(font, ImageFont.FreeTypeFont):
        text = text.encode("latin-1", "replace").decode("latin-1")  # all that one can draw
    lines = _wrap(text, font, width)
    line_height = round(font.getbbox("\u00c1gy")[3] * 1.3)
    longest = max(font.getlength(line) for line in lines)
    mask = Image.new("L", (round(longest) + 2 * height, (len(lines) + 1) * line_height))
    draw = ImageDraw.Draw(mask)
    for number, line in enumerate(lines):
        left = height + (longest - font.getlength(line)) / 2
        draw.text((left, number * line_height), line, fill=255, font=font)
    return mask.crop(mask.getbbox() or (0, 0, 1, 1))


def _font(height: int) -> Font:
    try:
        return ImageFont.truetype(_FONT, height)
    except OSError:  # not installed: the one that Pillow brings, which before 10.1 has one size
        try:
            return ImageFont.load_default(height)
        except TypeError:
            return ImageFont.load_default()


def _wrap(text: str, font: Font, width: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
