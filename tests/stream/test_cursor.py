"""The cursor's shape and place at the client are the X server's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from PIL import Image

from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.fixtures.xcursor import premultiplied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.agent import Agent
    from tests.fixtures.drawing import Canvas

pytestmark = pytest.mark.e2e

STOP: Final = bytes.fromhex("010004000100000000")
START: Final = bytes.fromhex("01000400020000000101")


def shape_of(width: int, height: int) -> Image.Image:
    """Return a shape with every alpha, and colours that tell red from blue and top from bottom."""
    ramp = Image.linear_gradient("L").resize((width, height))
    turned = ramp.rotate(180)
    band = Image.new("L", (width, height), 40)
    alpha = Image.linear_gradient("L").rotate(90).resize((width, height))
    return premultiplied(Image.merge("RGBA", (ramp, band, turned, alpha)))


def wait_shape(probe: SpiceProbe, image: Image.Image, hot: tuple[int, int]) -> None:
    """Wait until the client has this shape, pixel by pixel."""
    width, height = image.size
    probe.wait_for("cursor-set", after=-1, w=width, h=height, hot_x=hot[0], hot_y=hot[1])
    assert probe.cursor().tobytes() == image.tobytes()


def wait_hidden(probe: SpiceProbe) -> None:
    probe.wait_for("cursor-set", after=-1, w=1, h=1, hex="00000000")


def wait_place(probe: SpiceProbe, place: tuple[int, int], after: int = -1) -> None:
    probe.wait_for("cursor-move", after=after, x=place[0], y=place[1])


@pytest.fixture
def probe(agent: Agent, host: SpiceHost) -> Iterator[SpiceProbe]:
    """Return a client whose stream and cursor channel are there."""
    with SpiceProbe(host.uri) as client:
        client.wait_for("channel", type="cursor", state="opened")
        client.wait_for("primary-create")
        assert agent.process.poll() is None
        yield client


def test_the_shape_at_the_start(canvas: Canvas, agent: Agent, host: SpiceHost) -> None:
    shape = shape_of(24, 17)
    canvas.set_cursor(shape, (3, 5))
    with SpiceProbe(host.uri) as client:
        wait_shape(client, shape, (3, 5))
        assert agent.process.poll() is None


@pytest.mark.parametrize("size", [(1, 1), (24, 24), (63, 31), (256, 200)], ids=str)
def test_a_new_shape(canvas: Canvas, probe: SpiceProbe, size: tuple[int, int]) -> None:
    shape = shape_of(*size)
    if size == (1, 1):
        shape.putpixel((0, 0), (1, 2, 3, 4))
    canvas.set_cursor(shape, (size[0] - 1, size[1] // 2))
    wait_shape(probe, shape, (size[0] - 1, size[1] // 2))


def test_a_transparent_shape_hides_the_cursor(canvas: Canvas, probe: SpiceProbe) -> None:
    canvas.set_cursor(shape_of(24, 24), (0, 0))
    probe.wait_for("cursor-set", w=24, h=24)
    canvas.set_cursor(Image.new("RGBA", (16, 16)), (0, 0))
    wait_hidden(probe)
    canvas.set_cursor(shape_of(32, 32), (0, 0))
    wait_shape(probe, shape_of(32, 32), (0, 0))


def test_a_hidden_cursor_at_the_start(canvas: Canvas, agent: Agent, host: SpiceHost) -> None:
    canvas.set_cursor(Image.new("RGBA", (16, 16)), (0, 0))
    with SpiceProbe(host.uri) as client:
        wait_hidden(client)
        assert agent.process.poll() is None


def test_the_place(canvas: Canvas, probe: SpiceProbe) -> None:
    for x, y in ((-20, -30), (7, 9), (1, 0), (0, -1)):
        mark = probe.now()
        wait_place(probe, canvas.move_pointer(x, y), mark)


def test_the_place_at_the_start(
    canvas: Canvas, probe: SpiceProbe, agent: Agent, host: SpiceHost
) -> None:
    # A client that is there already: to a new one the server may tell it without a move.
    host.inject(STOP)
    agent.wait_line("stopped")
    place = canvas.move_pointer(-11, 13)
    host.inject(START)
    wait_place(probe, place)
