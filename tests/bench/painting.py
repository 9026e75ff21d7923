"""The same load on any screen: whole pictures, or a small part of one, so many times a second.

    python -m tests.bench.painting SCREEN DISPLAY {whole,small,static} --fps N --record FILE

What is drawn lies ready beforehand (two pixmaps of an X server's, two buffers of a Wayland
client's, three parts of a card's), so that drawing costs the client nothing and the server at
most one copy.  Prints "ready" when the first is shown; the first word of FILE is the number drawn,
as with load.c.  Runs until SIGTERM or its parent's death.
"""

import argparse
import ctypes
import itertools
import mmap
import random
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw
from Xlib import X
from Xlib.display import Display

from tests.bench.card import PICTURES
from tests.fixtures.painter import Painter

SMALL: Final = (800, 500, 256, 48)  # x, y, width, height: a few words
LOADS: Final = ("whole", "small", "static")
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PATIENCE: Final = 60.0  # seconds; a compositor may draw by software, beside other jobs
_BAND: Final = 60  # rows of one PutImage; a request has at most 256 KiB


def pictures(width: int, height: int, load: str, count: int = 2) -> list[Image.Image]:
    """Return pictures of a desktop's kind that differ where the LOAD says."""
    if load == "whole":
        return [_desktop(width, height, seed) for seed in range(1, count + 1)]
    found = [_desktop(width, height, seed=1)]
    x, y, wide, high = SMALL
    for seed in range(3, count + 2):
        found.append(found[0].copy())
        found[-1].paste(_desktop(wide, high, seed), (x, y))
    return found


def _desktop(width: int, height: int, seed: int) -> Image.Image:
    """Return smooth ground with many small boxes on it, as windows and letters are."""
    chance = random.Random(seed)
    picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for _ in range(width * height // 400):
        x, y = chance.randrange(width), chance.randrange(height)
        colour = (chance.randrange(256), chance.randrange(256), chance.randrange(256))
        draw.rectangle((x, y, x + chance.randrange(9), y + 3), fill=colour)
    return picture


def box_of(load: str, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return what of a picture changes."""
    return (0, 0, *size) if load == "whole" else SMALL


def on_wayland(path: str, load: str) -> Callable[[int], None]:
    """Return what shows picture 0 or 1 on a compositor's screen."""
    painter = Painter(path)
    buffers = [painter.make_buffer(picture) for picture in pictures(*painter.size, load)]
    box, shown = box_of(load, painter.size), 0
    painter.wait_frame(painter.put(buffers[0], (0, 0, *painter.size)))

    def show(which: int) -> None:
        nonlocal shown
        # What the compositor has not shown yet would never be seen.
        painter.wait_frame(shown, _PATIENCE)
        shown = painter.put(buffers[which], box)

    return show


def on_x11(name: str, load: str) -> Callable[[int], None]:
    """Return what shows picture 0 or 1 on an X server's screen."""
    display = Display(name)
    root = display.screen().root
    geometry = root.get_geometry()
    context = root.create_gc(subwindow_mode=X.IncludeInferiors, graphics_exposures=False)
    pixmaps = []
    for picture in pictures(geometry.width, geometry.height, load):
        pixmap = root.create_pixmap(geometry.width, geometry.height, 24)
        for top in range(0, geometry.height, _BAND // 2):
            band = picture.crop((0, top, picture.width, min(picture.height, top + _BAND // 2)))
            data = band.tobytes("raw", "BGRX")
            pixmap.put_image(context, 0, top, *band.size, X.ZPixmap, 24, 0, data)
        pixmaps.append(pixmap)
    x, y, width, height = box_of(load, (geometry.width, geometry.height))
    root.copy_area(context, pixmaps[0], 0, 0, geometry.width, geometry.height, 0, 0)
    display.sync()

    def show(which: int) -> None:
        root.copy_area(context, pixmaps[which], x, y, width, height, x, y)
        display.sync()

    return show


def on_card(name: str, load: str) -> Callable[[int], None]:
    """Put all into a card's memory (``SIZE:PATH``), where the record says which one it shows."""
    size, _, path = name.partition(":")
    width, height = map(int, size.split("x"))
    with Path(path).open("r+b") as memory:
        found = pictures(width, height, load, PICTURES)
        memory.writelines(picture.tobytes("raw", "BGRX") for picture in found)
    return lambda _which: None


_SCREENS: Final = {"x11": on_x11, "wayland": on_wayland, "card": on_card}


def main() -> None:
    """Draw as the command line says."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    parser = argparse.ArgumentParser(prog="python -m tests.bench.painting")
    parser.add_argument("screen", choices=tuple(_SCREENS))
    parser.add_argument("display")
    parser.add_argument("load", choices=LOADS)
    parser.add_argument("--fps", type=float, required=True)
    parser.add_argument("--record", type=Path, required=True)
    options = parser.parse_args()
    show = _SCREENS[options.screen](options.display, options.load)
    options.record.write_bytes(bytes(8))
    with options.record.open("r+b") as file:
        record = mmap.mmap(file.fileno(), 8)
    print("ready", flush=True)
    if options.load == "static":
        signal.pause()
    begun = time.monotonic()
    for count in itertools.count(1):
        show(count % 2)
        struct.pack_into("<Q", record, 0, count)
        time.sleep(max(0.0, begun + count / options.fps - time.monotonic()))


if __name__ == "__main__":
    main()
