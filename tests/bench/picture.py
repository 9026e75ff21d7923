"""Is a frame the picture that it should be?  A benchmark of wrong pictures would prove nothing."""

import statistics
from pathlib import Path
from typing import Final

from PIL import Image, ImageChops, ImageStat
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

QUALITY: Final = 80  # the agent's default, while something moves
SHARP: Final = 95  # and once nothing does, with all of its colours


def fault_of(path: Path, screen: Image.Image, directory: Path) -> str:
    """How the JPEG at `path` differs from a sharp one of `screen`; empty if it does not."""
    reference_path = directory / "reference.jpeg"
    screen.save(reference_path, quality=SHARP, subsampling="4:4:4")
    with JpegImageFile(path) as sent, JpegImageFile(reference_path) as reference:
        if sent.size != reference.size:
            return f"size {sent.size}"
        if sent.quantization != reference.quantization:
            return f"not quality {SHARP}"
        if get_sampling(sent) != get_sampling(reference):
            return "not 4:4:4"
        off, due = (distance(picture.convert("RGB"), screen) for picture in (sent, reference))
    return f"off by {off:.2f} where encoding costs {due:.2f}" if off > due * 1.05 + 0.02 else ""


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two pictures, 0 to 255."""
    return statistics.mean(ImageStat.Stat(ImageChops.difference(one, other)).mean)
