"""The conformance of the back-ends that need no compositor."""

import contextlib
import subprocess
from collections.abc import Iterator

import pytest
from Xlib.error import ConnectionClosedError
from Xlib.protocol import event
from Xlib.protocol.display import Display as XlibDisplay

from agent.capture.pattern import PatternCapture, open_pattern
from agent.capture.x11.backend import X11Capture, open_x11
from tests.agent.capture.conformance import (
    Box,
    Colour,
    Conformance,
    DrawnConformance,
    DrawnDriver,
    Driver,
    EndedConformance,
    HiddenConformance,
    ResizedConformance,
)
from tests.agent.capture.x11.test_backend import Drawer, python_xlib_leaves_its_socket_open
from tests.fixtures.xserver import Xvfb

pytestmark = pytest.mark.parts


class PatternDriver(Driver):
    """Changes by itself."""

    name = "pattern"
    size = (70, 33)

    def open(self) -> PatternCapture:
        return open_pattern("70x33@200")

    def change(self) -> None:
        """As little as there is to do."""


class TestPattern(Conformance):
    """The test pattern."""

    @pytest.fixture
    def driver(self) -> PatternDriver:
        return PatternDriver()


class X11Driver(DrawnDriver):
    """Xvfb, and another client that draws."""

    quiet = 0.05

    def __init__(self, server: Xvfb) -> None:
        super().__init__()
        self._server = server
        self.name = f"display {server.display}"
        self.size = (322, 203)
        self.drawer = Drawer(server.display)

    def open(self) -> X11Capture:
        return open_x11(self._server.display)

    def draw(self, box: Box, colour: Colour) -> None:
        red, green, blue = colour
        self.drawer.fill(*box, red << 16 | green << 8 | blue)

    def resize(self, size: tuple[int, int]) -> None:
        width, height = size
        mode = f"{width}x{height}"
        if mode not in self._xrandr():
            timing = (1, width, width + 1, width + 2, width + 3, height, height + 1, height + 2)
            self._xrandr("--newmode", mode, *map(str, timing), str(height + 3))
            self._xrandr("--addmode", "screen", mode)
        self._xrandr("--output", "screen", "--mode", mode)

    def hide(self) -> None:
        self.drawer.has_vt(0)

    def show(self) -> None:
        self.drawer.has_vt(1)

    def kill(self) -> None:
        self._server.kill()

    def _xrandr(self, *arguments: str) -> str:
        command = ["xrandr", "-d", self._server.display, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@python_xlib_leaves_its_socket_open
class TestX11(DrawnConformance, ResizedConformance, HiddenConformance, EndedConformance):
    """An X display."""

    @pytest.fixture
    def driver(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[X11Driver]:
        # python-xlib keeps event codes in the class, and they differ from server to server.
        monkeypatch.setattr(XlibDisplay, "event_classes", event.event_class.copy())
        with Xvfb(322, 203) as server:
            made = X11Driver(server)
            yield made
            with contextlib.suppress(ConnectionClosedError):  # where the test has ended it
                made.drawer.display.close()
