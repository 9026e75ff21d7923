"""The picture of cost against the share of the screen that changes, drawn by Pillow.

Both axes are logarithmic, so that cost in proportion to what changed is a straight line.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from tests.bench.share import Share

SIZE: Final = (960, 620)
LEFT, TOP, RIGHT, BOTTOM = 70, 100, 920, 550
FINE: Final = 2  # drawn that much larger, then made smaller: Pillow's lines have hard edges
INK: Final = "#24292f"
GRID: Final = "#d8dee4"
# Name, colour, and which number of a Share.
CURVES: Final = (
    ("agent + X server", "#0969da", "agent_ms"),
    ("floor of a whole frame", "#9a6700", "whole_ms"),
    ("floor of what changed", "#1a7f37", "part_ms"),
)
STEPS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)  # ms
LEAST: Final = STEPS[0]  # less is noise, and what is below nothing has no logarithm


@dataclasses.dataclass(frozen=True, slots=True)
class _Scale:
    """Maps values to pixels, logarithmically."""

    low: float
    high: float
    start: int
    end: int

    def at(self, value: float) -> float:
        """Return where VALUE lies."""
        part = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + part * (self.end - self.start)


class _Pen:
    """Draws in the picture's pixels on one that is FINE times as large."""

    def __init__(self) -> None:
        self._image = Image.new("RGB", (FINE * SIZE[0], FINE * SIZE[1]), "white")
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: int) -> None:
        """Join the points."""
        scaled = [(FINE * x, FINE * y) for x, y in points]
        self._draw.line(scaled, fill=colour, width=FINE * width, joint="curve")

    def dot(self, x: float, y: float, colour: str) -> None:
        """Mark a point."""
        box = (FINE * (x - 4), FINE * (y - 4), FINE * (x + 4), FINE * (y + 4))
        self._draw.ellipse(box, fill=colour)

    def text(self, x: float, y: float, text: str, *, size: int, anchor: str) -> None:
        """Write; ANCHOR is Pillow's."""
        font = ImageFont.load_default(FINE * size)
        self._draw.text((FINE * x, FINE * y), text, fill=INK, font=font, anchor=anchor)

    def save(self, path: Path) -> None:
        """Write the picture."""
        self._image.reduce(FINE).save(path)


def draw(shares: Sequence[Share], caption: str, path: Path) -> None:
    """Write a PNG of two or more shares."""
    shown = sorted(shares, key=lambda one: one.share)
    values = [max(LEAST, getattr(one, field)) for one in shown for *_, field in CURVES]
    low = max(step for step in STEPS if step <= min(values))
    high = min((step for step in STEPS if step > max(values)), default=2 * max(values))
    across = _Scale(shown[0].share, shown[-1].share, LEFT, RIGHT)
    up = _Scale(low, high, BOTTOM, TOP)
    pen = _Pen()
    _axes(pen, shown, across, up)
    for number, (name, colour, field) in enumerate(CURVES):
        points = [(across.at(one.share), up.at(max(low, getattr(one, field)))) for one in shown]
        pen.line(points, colour, 3)
        for x, y in points:
            pen.dot(x, y, colour)
        x = LEFT + 250 * number
        pen.line([(x, 76), (x + 32, 76)], colour, 3)
        pen.text(x + 42, 76, name, size=15, anchor="lm")
    pen.text(LEFT, 20, "CPU milliseconds a frame", size=20, anchor="lm")
    pen.text(LEFT, 46, caption, size=13, anchor="lm")
    pen.save(path)


def _axes(pen: _Pen, shown: Sequence[Share], across: _Scale, up: _Scale) -> None:
    for step in STEPS:
        if up.low <= step <= up.high:
            y = up.at(step)
            pen.line([(LEFT, y), (RIGHT, y)], GRID, 1)
            pen.text(LEFT - 10, y, f"{step:g}", size=14, anchor="rm")
    for one in shown:
        x = across.at(one.share)
        pen.line([(x, TOP), (x, BOTTOM)], GRID, 1)
        pen.text(x, BOTTOM + 16, f"{100 * one.share:g} %", size=14, anchor="mm")
    title = "share of the screen that changes with each frame"
    pen.text((LEFT + RIGHT) / 2, BOTTOM + 46, title, size=16, anchor="mm")
