"""Is a frame the picture that it should be?  A benchmark of wrong pictures would prove nothing."""

import statistics
from pathlib import Path
from typing import Final

from PIL import Image, ImageChops, ImageStat
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

QUALITY: Final = 80  # the agent's default


def fault_of(path: Path, screen: Image.Image, directory: Path) -> str:
    """How the JPEG at `path` differs from one of `screen` at the same quality; empty if not."""
    reference_path = directory / "reference.jpeg"
    screen.save(reference_path, quality=QUALITY, subsampling="4:2:0")
    with JpegImageFile(path) as sent, JpegImageFile(reference_path) as reference:
        if sent.size != reference.size:
            return f"size {sent.size}"
        if sent.quantization != reference.quantization:
            return f"not quality {QUALITY}"
        if get_sampling(sent) != get_sampling(reference):
            return "not 4:2:0"
        off, due = (distance(picture.convert("RGB"), screen) for picture in (sent, reference))
    return f"off by {off:.2f} where encoding costs {due:.2f}" if off > due * 1.05 + 0.02 else ""


def distance(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two pictures, 0 to 255."""
    return statistics.mean(ImageStat.Stat(ImageChops.difference(one, other)).mean)
