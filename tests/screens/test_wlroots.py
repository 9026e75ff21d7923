"""What is peculiar to wlroots' compositors: real outputs of sway that turn, come and grow."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from agent.capture.base import Changes
from agent.capture.wlroots.backend import open_wlroots
from sessiond.errors import DisplayError
from tests.agent.capture.conformance import DEADLINE, DrawnDriver, Viewer, differing, picture
from tests.fixtures.painter import Painter
from tests.screens.sway import Sway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.capture.base import Capture
    from tests.agent.capture.conformance import Box, Colour

SIZE = (642, 363)
RED, BLUE = (255, 0, 0), (0, 0, 255)
TURNS = ("90", "180", "270", "flipped", "flipped-90", "flipped-180", "flipped-270")


class Display(DrawnDriver):
    """Sway, and a window that fills its first output."""

    def __init__(self, sway: Sway, painter: Painter) -> None:
        super().__init__()
        self.sway, self.painter = sway, painter
        self.name, self.size = sway.wayland, SIZE

    def open(self) -> Capture:
        with self.sway.as_its_user():
            return open_wlroots(self.sway.wayland)

    def draw(self, box: Box, colour: Colour) -> None:
        self.painter.change(box, colour)


@contextmanager
def shown(*sizes: tuple[int, int]) -> Iterator[Display]:
    with Sway(*(sizes or (SIZE,))) as sway, Painter(sway.wayland) as painter:
        yield Display(sway, painter)


def until_as_painted(viewer: Viewer, painter: Painter) -> None:
    """Take frames until they show what the window does."""
    while (
        viewer.picture.size != painter.picture.size
        or differing(viewer.picture, painter.picture)
    ):  # fmt: skip
        viewer.until(Changes.PICTURE)
        frame = viewer.capture.grab(0)
        assert frame, viewer.capture.unavailable
        viewer.slot, viewer.picture = 0, picture(frame)


def test_turned_outputs() -> None:
    with shown() as display, Viewer(display) as viewer:
        viewer.settle()
        for turn in TURNS:
            display.sway.command(f"output HEADLESS-1 transform {turn}")
            display.painter.wait_size(SIZE[::-1] if "90" in turn or "270" in turn else SIZE)
            display.painter.show_number(3)
            until_as_painted(viewer, display.painter)
            viewer.settle()
            display.draw((40, 50, 60, 70), RED)
            until_as_painted(viewer, display.painter)


def test_a_scale_leaves_pixels_as_they_are() -> None:
    with shown() as display, Viewer(display) as viewer:
        viewer.settle()
        display.sway.command("output HEADLESS-1 scale 1.5")
        viewer.until(Changes.PICTURE)
        viewer.grab()
        assert viewer.capture.size == SIZE


def test_an_output_comes_and_is_placed() -> None:
    with shown() as display, Viewer(display) as viewer:
        viewer.settle()
        display.sway.command("create_output")
        display.sway.command("output HEADLESS-2 mode 300x200 position 100 363")
        while viewer.capture.size != (642, 563):
            viewer.until(Changes.AVAILABLE)
        assert viewer.capture.outputs() == ("HEADLESS-1", "HEADLESS-2")
        viewer.capture.grab(0)
        with Viewer(display) as other:  # as one that opens it now sees it
            other.settle()
            display.draw((600, 300, 40, 60), BLUE)
            other.until_shown((600, 300, 40, 60), BLUE)
            # Where no output is, the picture is black.
            assert other.picture.getpixel((50, 500)) == (0, 0, 0)


def test_outputs_side_by_side() -> None:
    sizes = ((400, 300), (200, 500))
    with shown(*sizes) as display, Viewer(display) as viewer:
        assert viewer.capture.size == (600, 500)
        viewer.settle()
        (left,) = (
            output["rect"]["x"]
            for output in display.sway.outputs()
            if (output["rect"]["width"], output["rect"]["height"]) == display.painter.size
        )
        display.draw((10, 20, 30, 40), RED)
        viewer.until_shown((10 + left, 20, 30, 40), RED)
        changed = viewer.frame.changed if viewer.frame else None
        assert changed == frozenset({1, 2, 3})


def test_the_cursor_is_in_the_picture_or_apart() -> None:
    with shown() as display, Viewer(display) as viewer:
        viewer.settle()
        before = viewer.picture
        display.painter.move_pointer(5, 5)
        assert viewer.wait(DEADLINE)
        viewer.settle()
        cursor = viewer.capture.cursor()
        assert bool(cursor) != bool(differing(before, viewer.picture))


def test_a_compositor_that_is_killed_and_comes_back() -> None:
    with shown() as display:
        with Viewer(display) as viewer:
            viewer.settle()
            display.sway.kill()
            with pytest.raises(DisplayError, match="has gone away"):
                viewer.until(Changes.CURSOR)  # which does not come
        display.sway.start()
        with Viewer(display) as viewer:
            assert viewer.grab() is None
