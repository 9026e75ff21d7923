"""The conformance of the capture of compositors, on one that plays their protocols (scripted)."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from PIL import Image

from agent.capture.wlroots.backend import WlrootsCapture
from sessiond.errors import DisplayError
from sessiond.transport.wayland import Connection
from tests.agent.capture.conformance import (
    Box,
    Colour,
    DrawnConformance,
    DrawnDriver,
    EndedConformance,
    HiddenConformance,
    ResizedConformance,
)
from tests.agent.capture.wlroots.scripted import IMAGE_COPY, SCREENCOPY, Compositor, Screen

pytestmark = pytest.mark.parts

SIZE = (172, 109)
BGRX, RGBX = 1, 0x34324258


class ScriptedDriver(DrawnDriver):
    """Outputs side by side, each in a compositor of its own for each capture."""

    name = "scripted"
    quiet = 0.03

    def __init__(self, protocol: tuple[tuple[str, int], ...], *screens: Screen) -> None:
        super().__init__()
        watched = (("zxdg_output_manager_v1", 3), ("zwlr_output_power_manager_v1", 1))
        self._protocol = (*watched, *protocol)
        self._screens = screens
        self._resources = ExitStack()
        self._compositors = list[Compositor]()
        self._is_dead = False
        self.size = self._measured()
        self._canvas = Image.new("RGB", self.size)

    def _measured(self) -> tuple[int, int]:
        ends = [
            (x + w, y + h)
            for x, y, w, h in ((*each.place, *upright(each)) for each in self._screens)
        ]
        return max(x for x, _ in ends), max(y for _, y in ends)

    def open(self) -> WlrootsCapture:
        if self._is_dead:
            raise DisplayError(f"no compositor {self.name}")
        screens = [
            Screen(s.name, s.size, s.place, s.transform, form=s.form, padding=s.padding,
                   is_flipped=s.is_flipped)
            for s in self._screens
        ]  # fmt: skip
        for old in self._compositors:
            if old.client.fileno() < 0:
                old.close()
        self._compositors = [each for each in self._compositors if each.client.fileno() >= 0]
        compositor = self._resources.enter_context(Compositor(self._protocol, *screens))
        self._compositors.append(compositor)
        self._show(compositor)
        return WlrootsCapture(Connection(compositor.client, self.name))

    def draw(self, box: Box, colour: Colour) -> None:
        x, y, width, height = box
        self._canvas.paste(colour, (x, y, x + width, y + height))
        for compositor in self._compositors:
            self._show(compositor)

    def _show(self, compositor: Compositor) -> None:
        for screen in compositor.screens:
            x, y = screen.place
            width, height = upright(screen)
            compositor.show(screen, self._canvas.crop((x, y, x + width, y + height)))

    def resize(self, size: tuple[int, int]) -> None:
        self._canvas = Image.new("RGB", size)
        for compositor in self._compositors:
            (screen,) = compositor.screens
            mode = size[:: -1 if screen.transform % 2 else 1]
            compositor.change(screen, size=mode)

    def hide(self) -> None:
        self._power(is_powered=False)

    def show(self) -> None:
        self._power(is_powered=True)

    def kill(self) -> None:
        self._is_dead = True
        self.close()

    def close(self) -> None:
        self._resources.close()

    def _power(self, *, is_powered: bool) -> None:
        for compositor in self._compositors:
            for screen in compositor.screens:
                compositor.change(screen, is_powered=is_powered)


def upright(screen: Screen) -> tuple[int, int]:
    width, height = screen.size
    return (height, width) if screen.transform % 2 else (width, height)


@pytest.fixture(params=[SCREENCOPY, IMAGE_COPY], ids=["screencopy", "image-copy"])
def protocol(request: pytest.FixtureRequest) -> tuple[tuple[str, int], ...]:
    found: tuple[tuple[str, int], ...] = request.param
    return found


def driven(protocol: tuple[tuple[str, int], ...], *screens: Screen) -> Iterator[ScriptedDriver]:
    made = ScriptedDriver(protocol, *screens)
    yield made
    made.close()


class ScriptedConformance(DrawnConformance):
    """Each capture has a compositor of its own, whose threads and memory are this process's."""

    test_everything_is_given_back = None  # type: ignore[assignment] # in tests/screens


class TestOne(ScriptedConformance, ResizedConformance, HiddenConformance, EndedConformance):
    """A single output that stands upright: shown without a copy."""

    @pytest.fixture
    def driver(self, protocol: tuple[tuple[str, int], ...]) -> Iterator[ScriptedDriver]:
        yield from driven(protocol, Screen("one", SIZE))


class TestTurned(ScriptedConformance, ResizedConformance, HiddenConformance):
    """A turned output; all the turns there are come in test_backend."""

    @pytest.fixture(params=[1, 6])
    def driver(
        self, request: pytest.FixtureRequest, protocol: tuple[tuple[str, int], ...]
    ) -> Iterator[ScriptedDriver]:
        yield from driven(protocol, Screen("one", SIZE, transform=request.param))


class TestForeign(ScriptedConformance):
    """Pixels in another order, rows with something behind them, the last row first."""

    @pytest.fixture(params=[(RGBX, 24, False), (BGRX, 0, True)])
    def driver(self, request: pytest.FixtureRequest) -> Iterator[ScriptedDriver]:
        form, padding, is_flipped = request.param
        screen = Screen("one", SIZE, form=form, padding=padding, is_flipped=is_flipped)
        yield from driven(SCREENCOPY, screen)


class TestSeveral(ScriptedConformance, HiddenConformance, EndedConformance):
    """Outputs in one picture, as they are placed; one of them is turned."""

    @pytest.fixture
    def driver(self, protocol: tuple[tuple[str, int], ...]) -> Iterator[ScriptedDriver]:
        yield from driven(
            protocol,
            Screen("left", (80, 60)),
            Screen("right", (60, 70), place=(80, 0), transform=1),
            Screen("below", (150, 50), place=(0, 60)),
        )
