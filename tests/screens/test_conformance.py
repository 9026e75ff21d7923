"""The conformance of the back-ends whose pictures come from a compositor, each on a real one."""

from __future__ import annotations

import abc
import contextlib
from typing import TYPE_CHECKING

import pytest

from agent.capture.mutter.backend import open_mutter
from agent.capture.wlroots.backend import open_wlroots
from tests.agent.capture.conformance import (
    Box,
    Colour,
    DrawnConformance,
    DrawnDriver,
    EndedConformance,
    HiddenConformance,
    ResizedConformance,
)
from tests.fixtures.painter import Painter
from tests.screens.mutter import Mutter
from tests.screens.sway import Sway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.capture.base import Capture

SIZE = (642, 363)


class CompositorDriver(DrawnDriver, abc.ABC):
    """A compositor without a screen, and a window that fills its output."""

    size = SIZE

    def __init__(self, wayland: str) -> None:
        super().__init__()
        self.painter = Painter(wayland)

    def draw(self, box: Box, colour: Colour) -> None:
        self.painter.change(box, colour)


class SwayDriver(CompositorDriver):
    """Sway."""

    def __init__(self, compositor: Sway) -> None:
        super().__init__(compositor.wayland)
        self._compositor = compositor
        self.name = compositor.wayland

    def open(self) -> Capture:
        with self._compositor.as_its_user():
            return open_wlroots(self._compositor.wayland)

    def resize(self, size: tuple[int, int]) -> None:
        self._compositor.command(f"output HEADLESS-1 mode {size[0]}x{size[1]}")
        self.painter.wait_size(size)
        self.painter.show_number(1)

    def hide(self) -> None:
        self._compositor.command("output HEADLESS-1 disable")
        if any(output["active"] for output in self._compositor.outputs()):
            pytest.skip("sway's headless outputs cannot be switched off before wlroots 0.16")

    def show(self) -> None:
        self._compositor.command("output HEADLESS-1 enable")
        self.painter.show_number(2)

    def kill(self) -> None:
        self._compositor.kill()


class TestWlroots(DrawnConformance, ResizedConformance, HiddenConformance, EndedConformance):
    """Sway's outputs, by what protocol it has."""

    @pytest.fixture
    def driver(self) -> Iterator[SwayDriver]:
        with Sway(SIZE) as compositor:
            made = SwayDriver(compositor)
            with contextlib.closing(made.painter):
                yield made


class MutterDriver(CompositorDriver):
    """Mutter."""

    def __init__(self, compositor: Mutter) -> None:
        super().__init__(compositor.wayland)
        self._compositor = compositor
        self.name = "GNOME"

    def open(self) -> Capture:
        with self._compositor.as_its_user():
            return open_mutter(self._compositor.runtime)

    def kill(self) -> None:
        self._compositor.kill_mutter()


class TestMutter(DrawnConformance, EndedConformance):
    """Mutter's monitors, whose sizes do not change."""

    @pytest.fixture
    def driver(self) -> Iterator[MutterDriver]:
        with Mutter(SIZE) as compositor:
            made = MutterDriver(compositor)
            with contextlib.closing(made.painter):
                yield made
