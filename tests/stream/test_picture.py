"""The picture at the client is the X server's own, whatever its size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from sessiond.wire.device import Type
from tests.fixtures.agent import Agent, start_stream
from tests.fixtures.drawing import Canvas, picture_of, psnr
from tests.fixtures.processes import wait_process
from tests.fixtures.spice import SpiceHost, SpiceProbe, spicy_screenshot
from tests.fixtures.xserver import Xvfb

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

GOOD: Final = 35.0  # dB


@pytest.mark.parametrize("size", [(1024, 768), (1023, 767), (1920, 1080), (257, 65)], ids=str)
def test_spicy_screenshot_gives_the_x_servers_picture(
    host: SpiceHost, size: tuple[int, int]
) -> None:
    with Xvfb(*size) as xserver, Canvas(xserver.display) as canvas:
        canvas.show(picture_of(*size, "the quick brown fox"))
        with start_stream(host.socket_path, xserver.display):
            seen = spicy_screenshot(host.uri)
        assert psnr(seen, canvas.content()) >= GOOD


def test_a_higher_quality_is_a_better_picture(
    host: SpiceHost, port: Path, xserver: Xvfb, canvas: Canvas
) -> None:
    canvas.show(picture_of(640, 480, "the lazy dog"))
    quality = {}
    for value in (20, 95):
        with start_stream(port, xserver.display, "--codec-option", f"quality={value}"):
            quality[value] = psnr(spicy_screenshot(host.uri), canvas.content())
    assert quality[95] >= quality[20] + 3


def test_the_largest_screen(host: SpiceHost) -> None:
    with (
        Xvfb(8192, 8192) as xserver,
        start_stream(host.socket_path, xserver.display),
        SpiceProbe(host.uri) as probe,
    ):
        host.wait_for("from-guest", type=Type.DATA)
        probe.wait_for("primary-create", w=8192, h=8192)


def test_a_larger_screen_is_refused_in_words(host: SpiceHost) -> None:
    with Xvfb(8200, 16) as xserver:
        options = ("--port", host.socket_path, "--display", xserver.display)
        with Agent(["stream", *options]) as agent:
            agent.wait_line(
                f"display {xserver.display} has a screen of 8200x16 pixels; "
                "at most 8192x8192 can be shown"
            )
            assert wait_process(agent.process, 5.0)
            assert agent.process.wait() == 1


def test_the_pattern_needs_no_display(host: SpiceHost) -> None:
    options = ("--capture", "pattern")
    with (
        start_stream(host.socket_path, "320x200@10", *options),
        SpiceProbe(host.uri) as probe,
    ):
        probe.wait_for("primary-create", w=320, h=200)
        first = probe.wait_for("invalidate")
        probe.wait_for("invalidate", after=first["index"])  # and it runs
        bar = probe.shot().getpixel((310, 190))
        assert isinstance(bar, tuple)
        assert all(abs(a - b) < 12 for a, b in zip(bar, (0, 0, 192), strict=True))
