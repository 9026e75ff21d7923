"""What is GNOME's own: several monitors, its cursor, and what recordings need beside it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest
from PIL import Image

from agent.capture.base import Capture, Changes, EndedError, UnsupportedError
from agent.capture.mutter import backend
from agent.capture.mutter.backend import open_mutter
from agent.capture.mutter.shell import Shell
from agent.stream.discover import open_session_display
from agent.stream.opened import NoDisplayError
from agent.stream.places import Places
from sessiond.errors import DisplayError
from sessiond.transport.bus import Call
from sessiond.wire.link import Config
from tests.agent.capture.conformance import (
    BLUE,
    GREEN,
    RED,
    Box,
    Colour,
    DrawnDriver,
    Viewer,
    differing,
)
from tests.fixtures.bus import PrivateBus
from tests.fixtures.drawing import numbered
from tests.fixtures.painter import Painter
from tests.screens.mutter import Mutter

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from Xlib.display import Display

SIZE: Final = (642, 363)


class MutterDriver(DrawnDriver):
    """Mutter, and a window of Xwayland's that covers all monitors."""

    name = "GNOME"

    def __init__(self, mutter: Mutter, display: Display) -> None:
        super().__init__()
        self.mutter = mutter
        self._display = display
        screen = display.screen()
        self.size = (screen.width_in_pixels, screen.height_in_pixels)
        self.window = screen.root.create_window(
            0, 0, 2048, 2048, 0, screen.root_depth, background_pixel=0, override_redirect=True
        )
        self.window.map()
        display.sync()

    def open(self) -> Capture:
        with self.mutter.as_its_user():
            return open_mutter(self.mutter.runtime)

    def draw(self, box: Box, colour: Colour) -> None:
        red, green, blue = colour
        gc = self.window.create_gc(foreground=red << 16 | green << 8 | blue)
        self.window.fill_rectangle(gc, *box)
        gc.free()
        self._display.sync()

    def hide(self) -> None:
        """Have no window."""
        self.window.destroy()
        self._display.sync()

    def show_cursor(self, size: tuple[int, int], hot: tuple[int, int]) -> None:
        """Give the window a red cursor."""
        shape = self.window.create_pixmap(*size, 1)
        gc = shape.create_gc(foreground=1)
        shape.fill_rectangle(gc, 0, 0, *size)
        cursor = shape.create_cursor(shape, (65535, 0, 0), (0, 0, 0), *hot)
        self.window.change_attributes(cursor=cursor)
        self._display.sync()


@contextlib.contextmanager
def driven(*monitors: tuple[int, int]) -> Iterator[MutterDriver]:
    with Mutter(*monitors) as mutter, mutter.x_display() as display:
        yield MutterDriver(mutter, display)


def test_monitors_of_different_heights() -> None:
    with driven((200, 100), (120, 140)) as driver:
        driver.mutter.arrange((0, 0, 0), (1, 200, 0))
        driver.draw((0, 0, 320, 140), BLUE)
        with Viewer(driver) as viewer:
            viewer.grab()
            while not viewer.shows((200, 0, 120, 140), BLUE):
                viewer.until(Changes.PICTURE)
                viewer.grab()
            assert viewer.capture.size == (320, 140)
            assert viewer.capture.outputs() == ("Meta-0", "Meta-1")
            assert viewer.shows((0, 0, 200, 100), BLUE)
            assert viewer.shows((0, 100, 200, 40), (0, 0, 0))


def test_monitor_is_turned() -> None:
    with driven((200, 100)) as driver, Viewer(driver) as viewer:
        for turns, size, colour in ((1, (100, 200), RED), (0, (200, 100), GREEN)):
            viewer.settle()
            driver.mutter.arrange((0, 0, turns))
            look_again(driver, viewer, size, colour)


def test_monitor_is_switched_on() -> None:
    with driven((200, 100), (120, 140)) as driver:
        driver.mutter.arrange((0, 0, 0))
        with Viewer(driver) as viewer:
            viewer.settle()
            assert viewer.capture.size == (200, 100)
            driver.mutter.arrange((0, 0, 0), (1, 200, 0))
            look_again(driver, viewer, (320, 140), RED)


def look_again(driver: MutterDriver, viewer: Viewer, size: tuple[int, int], colour: Colour) -> None:
    """See a picture of another size, and what is drawn on it."""
    viewer.until(Changes.PICTURE)
    frame = viewer.capture.grab(0)
    assert frame
    assert frame.changed is None
    assert (frame.width, frame.height) == viewer.capture.size == size
    assert f"{size[0]}x{size[1]}" in viewer.capture.describe()
    viewer.picture = Image.new("RGB", size)
    corner = (size[0] - 9, 0, 9, 9)
    driver.draw(corner, colour)
    while not viewer.shows(corner, colour):
        viewer.until(Changes.PICTURE)
        viewer.grab()


def test_cursor() -> None:
    with driven(SIZE) as driver, Viewer(driver) as viewer:
        viewer.settle()
        driver.show_cursor((16, 24), (3, 5))
        driver.mutter.move_pointer(100, 120)
        while viewer.capture.pointer() != (100, 120):
            viewer.until(Changes.POINTER)
        while not ((shape := viewer.capture.cursor()) and shape.width):
            viewer.until(Changes.CURSOR)
        assert (shape.width, shape.height, shape.hot_x, shape.hot_y) == (16, 24, 3, 5)
        assert shape.pixels == bytes((0, 0, 255, 255)) * (16 * 24)
        # It is not in the picture as well.
        assert viewer.shows((90, 110, 40, 40), (0, 0, 0))
        viewer.settle()
        driver.mutter.move_pointer(300, 20)
        while viewer.capture.pointer() != (300, 20):
            viewer.until(Changes.POINTER)
        assert not viewer.grab()
        assert viewer.capture.cursor() == shape


def test_cursor_after_a_pause() -> None:
    with driven(SIZE) as driver, Viewer(driver) as viewer:
        driver.show_cursor((16, 24), (3, 5))
        driver.mutter.move_pointer(100, 120)
        viewer.settle()
        viewer.capture.end()
        driver.mutter.move_pointer(44, 55)
        viewer.capture.begin()
        viewer.grab()
        while viewer.capture.pointer() != (44, 55):
            viewer.until(Changes.POINTER)
        cursor = viewer.capture.cursor()
        assert cursor
        assert cursor.width == 16


def test_the_last_of_many_pictures_comes() -> None:
    """Also where they came while nobody looked, and took all of the buffers."""
    with driven(SIZE) as driver:
        driver.hide()
        with Painter(driver.mutter.wayland) as painter, Viewer(driver) as viewer:
            viewer.settle()
            picture = painter.picture
            for number in range(1, 25):
                picture = numbered(number, *painter.size)
                frame = painter.put(painter.make_buffer(picture), (0, 0, *painter.size))
                painter.wait_frame(frame)
            while differing(viewer.picture, picture):
                viewer.until(Changes.PICTURE)
                viewer.grab()


def test_without_pipewire() -> None:
    with (
        Mutter(SIZE, pipewire=False, wireplumber=False) as mutter,
        mutter.as_its_user(),
        pytest.raises(DisplayError) as caught,
    ):
        open_mutter(mutter.runtime)
    assert str(caught.value).startswith("PipeWire does not run for this session (install")
    assert not isinstance(caught.value, UnsupportedError)


def test_without_wireplumber() -> None:
    with (
        Mutter(SIZE, wireplumber=False) as mutter,
        mutter.as_its_user(),
        pytest.raises(DisplayError, match=r"install the package wireplumber\)\?$"),
    ):
        open_mutter(mutter.runtime)


def test_end_of_pipewire() -> None:
    with driven(SIZE) as driver, Viewer(driver) as viewer:
        viewer.grab()
        driver.mutter.pipewire.kill()
        # Either says so first, Mutter by a recording that is closed.
        with pytest.raises(DisplayError, match=r"^GNOME.*(PipeWire is gone|pipewire)") as caught:
            viewer.until(Changes.CURSOR)  # which does not come
        assert not isinstance(caught.value, EndedError)


class EndedShell(Shell):
    """GNOME, whose recording ends at the next wait, by what its panel's Stop does as well.

    Mutter ends it by one function, called from the panel or by who records, and says Closed.
    """

    is_to_end = False
    is_deaf = False  # it does not hear PipeWire, only Mutter

    def wait(self, fds: Collection[int], timeout: float | None) -> frozenset[int]:
        if self.is_to_end:
            type(self).is_to_end = False
            name = "org.gnome.Mutter.ScreenCast"
            stop = Call(name, self._session, f"{name}.Session", "Stop")
            self._loop.run_until_complete(self._call(stop))
        return super().wait(list(fds)[1:] if self.is_deaf else fds, timeout)


@pytest.fixture
def ended_shell(monkeypatch: pytest.MonkeyPatch) -> type[EndedShell]:
    monkeypatch.setattr(EndedShell, "is_to_end", False)
    monkeypatch.setattr(EndedShell, "is_deaf", False)
    monkeypatch.setattr(backend, "Shell", EndedShell)
    return EndedShell


def test_somebody_ends_the_recording(ended_shell: type[EndedShell]) -> None:
    with driven(SIZE) as driver, Viewer(driver) as viewer:
        viewer.grab()
        ended_shell.is_to_end = True
        with pytest.raises(EndedError, match="at the screen"):
            viewer.until(Changes.CURSOR)  # which does not come


def test_somebody_ends_the_recording_while_nobody_watches(ended_shell: type[EndedShell]) -> None:
    with driven(SIZE) as driver, Viewer(driver) as viewer:
        viewer.grab()
        viewer.capture.end()
        ended_shell.is_to_end = True
        with pytest.raises(EndedError):
            viewer.until(Changes.CURSOR)


def test_somebody_ends_the_recording_at_its_beginning(ended_shell: type[EndedShell]) -> None:
    with Mutter(SIZE) as mutter:
        places = Places(mutter.uid, "", "", run=mutter.run)
        ended_shell.is_to_end = True
        config = Config("c1", mutter.uid, capture=("mutter", "x11"))
        with mutter.as_its_user(), pytest.raises(EndedError):
            open_session_display(config, places)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_end_of_pipewire_is_told_by_gnome_first(ended_shell: type[EndedShell], number: int) -> None:
    """Mutter closes the recording then, as it does when somebody wants that."""
    with driven(SIZE) as driver, Viewer(driver) as viewer:
        viewer.grab()
        ended_shell.is_deaf = True
        driver.mutter.pipewire.send_signal(number)
        with pytest.raises(DisplayError, match=r"^GNOME: PipeWire is gone$") as caught:
            viewer.until(Changes.CURSOR)
        assert not isinstance(caught.value, EndedError)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_end_of_gnome(number: int) -> None:
    with driven(SIZE) as driver, Viewer(driver) as viewer:
        viewer.grab()
        driver.mutter.process.send_signal(number)
        with pytest.raises(DisplayError) as caught:
            viewer.until(Changes.CURSOR)
        assert not isinstance(caught.value, EndedError)


def test_gnome_of_another_session() -> None:
    """Two sessions of a user have one bus, and only one of them GNOME."""
    with Mutter(SIZE) as mutter, socket.socket(socket.AF_UNIX) as other:
        path = mutter.runtime / "wayland-9"
        other.bind(str(path))
        os.chown(path, mutter.uid, -1)
        other.listen()
        process = mutter.run / "proc" / str(mutter.pid)
        process.mkdir(parents=True)
        (process / "environ").touch()
        (process / "cgroup").write_text("0::/user.slice/user-1.slice/session-c1.scope\n")
        places = Places(mutter.uid, "", "", proc=mutter.run / "proc", run=mutter.run)
        config = Config("c1", mutter.uid, capture=("mutter",))
        with (
            mutter.as_its_user(),
            contextlib.closing(open_session_display(config, places).capture) as capture,
        ):
            assert capture.size == SIZE
        config = replace(config, session="c2", pids=(os.getpid(),))
        with (
            mutter.as_its_user(),
            pytest.raises(
                NoDisplayError, match=rf"\(pid {mutter.pid}\) is not this session's compositor"
            ) as caught,
        ):
            open_session_display(config, places)
        assert caught.value.reason == "type-unsupported"


def test_without_gnome(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=f"^no GNOME: .*{tmp_path}/bus"):
        open_mutter(tmp_path)
    with PrivateBus() as bus:
        (tmp_path / "bus").symlink_to(bus.address.partition("path=")[2].partition(",")[0])
        with pytest.raises(UnsupportedError, match=r"^no GNOME: nobody on the session's bus is"):
            open_mutter(tmp_path)
