"""The picture shows each curve where its numbers are."""

from pathlib import Path

from PIL import Image, ImageColor

from tests.bench import plot
from tests.bench.share import SHARES, Share


def test_a_curve_lies_where_its_numbers_are(tmp_path: Path) -> None:
    # Powers of ten, so that where they lie is plain: 1 ms is in the middle of 0.1 to 10.
    shares = [Share(share, agent_ms=1, part_ms=0.1, whole_ms=9.99, bytes=1) for share in SHARES]
    plot.draw(shares, "a machine", tmp_path / "cost.png")
    with Image.open(tmp_path / "cost.png") as picture:
        assert picture.size == plot.SIZE
        pixels = picture.convert("RGB")
    middle = (plot.TOP + plot.BOTTOM) // 2
    found = [pixels.getpixel((plot.LEFT + 60, y)) for y in (middle, plot.BOTTOM, plot.TOP)]
    agent, whole, part = (ImageColor.getrgb(colour) for _, colour, _ in plot.CURVES)
    assert found == [agent, part, whole]


def test_noise_below_nothing_is_drawn_at_the_bottom(tmp_path: Path) -> None:
    shares = [Share(share, agent_ms=5, part_ms=-0.2, whole_ms=500, bytes=1) for share in SHARES]
    plot.draw(shares, "", tmp_path / "cost.png")
    with Image.open(tmp_path / "cost.png") as picture:
        part = ImageColor.getrgb(plot.CURVES[2][1])
        assert picture.convert("RGB").getpixel((plot.LEFT + 60, plot.BOTTOM)) == part
