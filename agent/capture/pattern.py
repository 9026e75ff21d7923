"""A test pattern: colour bars and a running number, for trials without a display."""

import re
import select
import time
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from agent.capture.base import MAX_SIDE, Capture, Changes, Frame
from sessiond.errors import DisplayError

_DEFAULT: Final = "1280x720@30"
_NAME: Final = re.compile(
    r"(?P<width>\d{1,5})x(?P<height>\d{1,5})(?:@(?P<rate>\d{1,3}))?", re.ASCII
)
_BARS: Final = ((192, 192, 192), (192, 192, 0), (0, 192, 192), (0, 192, 0), (192, 0, 192),
                (192, 0, 0), (0, 0, 192))  # fmt: skip


def open_pattern(name: str) -> "PatternCapture":
    """Open a pattern named ``WIDTHxHEIGHT`` or ``WIDTHxHEIGHT@PICTURES_A_SECOND``.

    The empty name is 1280x720@30. Raises DisplayError for any other name.
    """
    match = _NAME.fullmatch(name or _DEFAULT)
    if not match:
        raise DisplayError(f"pattern {name!r} is not of the form WIDTHxHEIGHT[@RATE]")
    width, height, rate = int(match["width"]), int(match["height"]), int(match["rate"] or 30)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and rate):
        raise DisplayError(f"pattern {name!r} is empty or larger than {MAX_SIDE}x{MAX_SIDE}")
    return PatternCapture(width, height, rate)


class PatternCapture(Capture):
    """Shows picture 0, 1, 2, ...; ``picture(n)`` is what picture n looks like."""

    def __init__(self, width: int, height: int, rate: int) -> None:
        self._size = (width, height)
        self._interval = 1 / rate
        self._next = 0.0  # time.monotonic() of the next picture; 0 while nobody watches
        self._is_told = False  # that there is one, since the last grab
        self._number = 0
        bars = Image.new("RGB", (len(_BARS), 1))
        bars.putdata(_BARS)
        self._bars = bars.resize(self._size, Image.Resampling.NEAREST)
        self._font = ImageFont.load_default()

    def picture(self, number: int) -> Image.Image:
        """Return picture ``number`` as an RGB image."""
        image = self._bars.copy()
        label = Image.new("RGB", (64, 16))
        ImageDraw.Draw(label).text((2, 2), str(number), font=self._font, fill="white")
        scale = max(1, min(self._size[0] // 128, self._size[1] // 32))
        image.paste(label.resize((64 * scale, 16 * scale), Image.Resampling.NEAREST))
        return image

    def describe(self) -> str:
        return f"test pattern, {self._size[0]}x{self._size[1]}"

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    @property
    def unavailable(self) -> str:
        return ""

    def begin(self) -> None:
        self._next = time.monotonic() + self._interval
        self._is_told = False

    def end(self) -> None:
        self._next = 0.0

    def wait(self, wake_fd: int) -> Changes:
        is_due = self._next and not self._is_told
        timeout = max(0.0, self._next - time.monotonic()) if is_due else None
        if select.select([wake_fd], [], [], timeout)[0]:
            return Changes.NONE
        self._next = max(self._next + self._interval, time.monotonic())
        self._number += 1
        self._is_told = True
        return Changes.PICTURE

    def grab(self, slot: int) -> Frame:
        self._is_told = False
        width, height = self._size
        pixels = self.picture(self._number).tobytes("raw", "BGRX")
        return Frame(width, height, 4 * width, memoryview(pixels), slot)

    def cursor(self) -> None:
        return None

    def pointer(self) -> tuple[int, int]:
        return (0, 0)

    def outputs(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        self._next = 0.0
