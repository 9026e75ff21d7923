"""What every capture back-end does: tests that run on each, through a driver of its display.

A test class of a back-end is made of the classes here that fit its display, and of a fixture
``driver``. Nothing is expected within a time: what a display tells is waited for, and that it has
no more to tell is a short while in which nothing comes, however often something came before.
"""

import abc
import contextlib
import gc
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

import pytest
from PIL import Image

from agent.capture.base import BAND, Capture, Changes, Frame
from sessiond.errors import DisplayError
from sessiond.transport.fds import OwnedFd

DEADLINE: Final = 20.0  # seconds
GONE: Final = 2.0  # seconds; for what the kernel takes away after a thread
MOST: Final = 50  # pieces of news that something old may bring
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)

Box = tuple[int, int, int, int]
"""x, y, width, height."""
Colour = tuple[int, int, int]


class Driver(abc.ABC):
    """A display to be captured.

    ``name`` is what errors call it. ``quiet`` is the seconds after which what has happened until
    now will have been told.
    """

    name: str
    size: tuple[int, int]
    quiet = 0.2

    @abc.abstractmethod
    def open(self) -> Capture:
        """Open it once more."""

    @abc.abstractmethod
    def change(self) -> None:
        """Let it show another picture."""


class DrawnDriver(Driver):
    """One that shows what is drawn, and nothing that moves by itself."""

    def __init__(self) -> None:
        self._changes = 0

    @abc.abstractmethod
    def draw(self, box: Box, colour: Colour) -> None:
        """Draw a rectangle, and wait until the display has it."""

    def change(self) -> None:
        self._changes += 1
        self.draw((0, 0, 8, 8), (self._changes % 256, 128, 255))

    def resize(self, size: tuple[int, int]) -> None:
        """Give it another size."""
        raise NotImplementedError

    def hide(self) -> None:
        """Let there be nothing to capture."""
        raise NotImplementedError

    def show(self) -> None:
        """Undo ``hide``."""
        raise NotImplementedError

    def kill(self) -> None:
        """End the display."""
        raise NotImplementedError


class Viewer:
    """Somebody who watches a display: each frame is checked against the one before."""

    def __init__(self, driver: Driver) -> None:
        self.capture = driver.open()
        self.capture.begin()
        self.picture = Image.new("RGB", (1, 1))
        self.frame: Frame | None = None
        self.slot = 1
        self._quiet = driver.quiet

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.frame = None
        self.capture.close()

    def wait(self, seconds: float) -> Changes:
        """Return what is told, NONE after so many seconds."""
        with OwnedFd(os.eventfd(0, os.EFD_CLOEXEC)) as late:
            timer = threading.Timer(seconds, os.eventfd_write, (late.fileno(), 1))
            timer.start()
            try:
                return self.capture.wait(late.fileno())
            finally:
                timer.cancel()
                timer.join()

    def until(self, wanted: Changes) -> Changes:
        """Wait for WANTED; return all that was told meanwhile."""
        told = Changes.NONE
        while wanted not in told:
            changes = self.wait(DEADLINE)
            assert changes, f"{wanted} did not come, only {told}"
            told |= changes
        return told

    def so_far(self) -> Changes:
        """Return all that is told until nothing more is, without a grab."""
        told = Changes.NONE
        for _ in range(MOST):
            changes = self.wait(self._quiet)
            if not changes:
                return told
            told |= changes
        pytest.fail(f"{told} is told again and again")

    def grab(self, slot: int | None = None) -> frozenset[int] | None:
        """Take a frame, into the other slot than before if none is named; return its changes."""
        frame = self.capture.grab(1 - self.slot if slot is None else slot)
        assert frame, self.capture.unavailable
        self.slot = frame.slot
        before, self.picture, self.frame = self.picture, picture(frame), frame
        assert slot in {None, frame.slot}
        assert (frame.width, frame.height) == self.capture.size
        if frame.changed is not None:
            assert frame.changed >= differing(before, self.picture)
            assert frame.changed <= bands((0, 0, frame.width, frame.height))
        return frame.changed

    def settle(self) -> None:
        """Take frames until there is no news."""
        self.grab()
        for _ in range(MOST):
            changes = self.wait(self._quiet)
            if not changes:
                return
            if Changes.PICTURE in changes:
                self.grab()
        pytest.fail("a picture that does not change is told of again and again")

    def until_shown(self, box: Box, colour: Colour) -> set[int]:
        """Take frames until a rectangle has its colour; return the bands that changed by then."""
        changed = set[int]()
        while not self.shows(box, colour):
            self.until(Changes.PICTURE)
            changed |= self.grab() or set()
        return changed

    def until_lost(self) -> None:
        """Take frames; what was there before the end may be shown."""
        for _ in range(100):
            self.capture.begin()
            self.capture.grab(0)

    def shows(self, box: Box, colour: Colour) -> bool:
        """Tell whether all of a rectangle has its colour."""
        x, y, width, height = box
        part = self.picture.crop((x, y, x + width, y + height))
        return part.getcolors() == [(width * height, colour)]


def picture(frame: Frame) -> Image.Image:
    """Return a copy of the frame, as far as its form is that of the interface."""
    assert frame.stride >= 4 * frame.width
    assert (frame.pixels.format, frame.pixels.ndim) == ("B", 1)
    assert len(frame.pixels) >= (frame.height - 1) * frame.stride + 4 * frame.width
    # Pillow wants the end of the last row, too.
    data = bytes(frame.pixels[: frame.height * frame.stride]).ljust(frame.height * frame.stride)
    size = (frame.width, frame.height)
    return Image.frombytes("RGB", size, data, "raw", "BGRX", frame.stride, 1)


def bands(box: Box) -> set[int]:
    """Return the bands of a rectangle."""
    _, y, _, height = box
    return {row // BAND for row in range(y, y + height)}


def differing(one: Image.Image, other: Image.Image) -> set[int]:
    """Return the bands in which two pictures of one size are different."""
    assert one.size == other.size
    width, height = one.size
    found = set[int]()
    for top in range(0, height, BAND):
        rows = (0, top, width, min(top + BAND, height))
        if one.crop(rows).tobytes() != other.crop(rows).tobytes():
            found.add(top // BAND)
    return found


def resources() -> dict[str, list[str]]:
    """Return what this process has: descriptors, threads, and memory that it shares."""
    gc.collect()
    files = list[str]()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the folder's own
            files.append(re.sub(r"\d{3,}", "", os.readlink(f"/proc/self/fd/{name}")))
    shared = [
        line.split(maxsplit=5)[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.split()[1].endswith("s")
    ]
    tasks = [Path(f"/proc/self/task/{it}/comm").read_text() for it in os.listdir("/proc/self/task")]
    return {"files": sorted(files), "shared": sorted(shared), "threads": sorted(tasks)}


class Conformance:
    """What holds even for a display that changes by itself."""

    @pytest.fixture
    def viewer(self, driver: Driver) -> Iterator[Viewer]:
        """Return somebody who has just begun to watch."""
        with Viewer(driver) as made:
            yield made

    def test_size_and_first_frame(self, driver: Driver, viewer: Viewer) -> None:
        assert viewer.capture.size == driver.size
        assert viewer.grab() is None
        assert viewer.picture.size == driver.size
        assert viewer.capture.unavailable == ""

    def test_what_it_says_of_itself(self, driver: Driver, viewer: Viewer) -> None:
        width, height = driver.size
        words = viewer.capture.describe()
        assert f"{width}x{height}" in words
        assert words.isprintable()
        x, y = viewer.capture.pointer()
        assert 0 <= x < width
        assert 0 <= y < height
        assert all(viewer.capture.outputs())

    def test_woken_for_nothing(self, viewer: Viewer) -> None:
        viewer.grab()
        while viewer.wait(0):
            pass

    def test_picture_is_told_once_until_the_grab(self, driver: Driver, viewer: Viewer) -> None:
        viewer.grab()
        for _ in range(3):
            driver.change()
            viewer.until(Changes.PICTURE)
            driver.change()
            assert Changes.PICTURE not in viewer.so_far()
            viewer.grab()

    def test_frame_stays_until_its_slot_is_taken(self, driver: Driver, viewer: Viewer) -> None:
        viewer.grab(0)
        kept, before = viewer.frame, viewer.picture
        assert kept
        for _ in range(3):
            driver.change()
            viewer.until(Changes.PICTURE)
            viewer.grab(1)
        assert differing(before, viewer.picture)
        assert not differing(before, picture(kept))
        viewer.grab(0)
        assert viewer.frame
        assert not differing(viewer.picture, picture(viewer.frame))

    def test_nothing_is_told_after_the_end(self, driver: Driver, viewer: Viewer) -> None:
        viewer.grab()
        driver.change()
        viewer.capture.end()
        driver.change()
        assert viewer.so_far() is Changes.NONE

    def test_pauses(self, driver: Driver, viewer: Viewer) -> None:
        for _ in range(3):
            viewer.grab()
            viewer.grab()
            before = viewer.picture
            viewer.capture.end()
            driver.change()
            viewer.capture.begin()
            viewer.grab()
            driver.change()
            while not differing(before, viewer.picture):
                viewer.until(Changes.PICTURE)
                viewer.grab()

    def test_everything_is_given_back(self, driver: Driver) -> None:
        closed = list[Viewer]()  # so that it is not for want of use that things go

        def use(*, is_paused: bool) -> None:
            with Viewer(driver) as viewer:
                closed.append(viewer)
                viewer.grab()
                driver.change()
                viewer.until(Changes.PICTURE)
                viewer.grab()
                if is_paused:
                    viewer.capture.end()

        use(is_paused=False)  # what is loaded once and for all
        before = resources()
        for is_paused in (True, False, True):
            use(is_paused=is_paused)
        end = time.monotonic() + GONE
        while (now := resources()) != before and time.monotonic() < end:
            pass  # the kernel's list has a thread for a moment after it was joined
        for kind, left in now.items():
            assert left == before[kind], f"other {kind} than {before[kind]}: {left}"


class DrawnConformance(Conformance):
    """Where it is known what is shown."""

    def test_picture_is_what_was_drawn(self, driver: DrawnDriver, viewer: Viewer) -> None:
        viewer.settle()
        width, height = driver.size
        expected = viewer.picture.copy()
        for box, colour in (
            ((0, 0, width, height), WHITE),
            ((3, 5, 40, 20), RED),
            ((width - 9, height - 7, 9, 7), GREEN),
            ((17, 40, 1, 1), BLUE),
        ):
            driver.draw(box, colour)
            x, y, across, down = box
            expected.paste(colour, (x, y, x + across, y + down))
            viewer.until_shown(box, colour)
        assert not differing(viewer.picture, expected)

    def test_only_the_bands_that_changed_are_told(
        self, driver: DrawnDriver, viewer: Viewer
    ) -> None:
        width, height = driver.size
        for number, box in enumerate([
            (5, 4 * BAND, 5, 3), (9, 3 * BAND - 1, 7, 2), (width - 1, 0, 1, 1),
            (0, height - 1, 1, 1), (0, 0, width, height), (30, BAND, 9, 2 * BAND),
        ]):  # fmt: skip
            viewer.settle()
            colour = (10 + 40 * number, 90, 50)
            driver.draw(box, colour)
            assert viewer.until_shown(box, colour) == bands(box)

    def test_changes_add_up(self, driver: DrawnDriver, viewer: Viewer) -> None:
        """Whatever the slots, also those that were not taken for long."""
        chance = random.Random(4711)
        viewer.settle()
        width, height = driver.size
        expected = viewer.picture.copy()
        for number in range(24):
            x, y = chance.randrange(width), chance.randrange(height)
            box = (x, y, chance.randint(1, width - x), chance.randint(1, min(40, height - y)))
            colour = (number * 10, 255 - number, 77)
            driver.draw(box, colour)
            expected.paste(colour, (x, y, x + box[2], y + box[3]))
            while not viewer.shows(box, colour):
                viewer.until(Changes.PICTURE)
                viewer.grab(chance.choice([0, 0, 0, 1]))
            assert not differing(viewer.picture, expected)

    def test_what_was_drawn_meanwhile_is_in_the_next_frames(
        self, driver: DrawnDriver, viewer: Viewer
    ) -> None:
        viewer.settle()
        driver.draw((0, 0, 9, 9), RED)
        viewer.until(Changes.PICTURE)
        driver.draw((50, 60, 9, 9), BLUE)
        viewer.grab()
        viewer.until_shown((50, 60, 9, 9), BLUE)
        assert viewer.shows((0, 0, 9, 9), RED)

    @pytest.mark.parametrize("count", range(6, 12))
    def test_pictures_that_nobody_took(
        self, driver: DrawnDriver, viewer: Viewer, count: int
    ) -> None:
        """The last one comes, however many came while both slots were in use."""
        viewer.settle()
        viewer.grab()
        for number in range(count):
            driver.draw((30, 40, 50, 60), (50, 9 * number, 100))
            viewer.wait(driver.quiet / 4)  # let it be shown
        viewer.grab()
        viewer.until_shown((30, 40, 50, 60), (50, 9 * number, 100))

    def test_silence(self, driver: DrawnDriver, viewer: Viewer) -> None:
        viewer.grab()
        driver.draw((0, 0, 50, 50), RED)
        viewer.until_shown((0, 0, 50, 50), RED)
        viewer.settle()
        assert viewer.so_far() is Changes.NONE
        assert viewer.so_far() is Changes.NONE

    def test_what_was_drawn_in_a_pause(self, driver: DrawnDriver, viewer: Viewer) -> None:
        viewer.settle()
        viewer.capture.end()
        driver.draw((20, 30, 40, 50), GREEN)
        viewer.capture.begin()
        viewer.grab()
        viewer.until_shown((20, 30, 40, 50), GREEN)


class ResizedConformance:
    """Where the display can have another size."""

    def test_resize(self, driver: DrawnDriver) -> None:
        with Viewer(driver) as viewer:
            viewer.settle()
            kept, before = viewer.frame, viewer.picture
            assert kept
            width, height = driver.size
            for size in ((width - 80, height - 30), (width, height)):
                driver.resize(size)
                while viewer.capture.size != size or viewer.picture.size != size:
                    viewer.until(Changes.PICTURE)
                    frame = viewer.capture.grab(1)
                    assert frame
                    if picture(frame).size != viewer.picture.size:
                        assert frame.changed is None
                    viewer.picture = picture(frame)
                assert f"{size[0]}x{size[1]}" in viewer.capture.describe()
                driver.draw((size[0] - 9, size[1] - 9, 9, 9), RED)
                viewer.slot = 1
                while not viewer.shows((size[0] - 9, size[1] - 9, 9, 9), RED):
                    viewer.until(Changes.PICTURE)
                    viewer.grab(1)
                driver.draw((0, 0, *size), BLUE)
            assert not differing(before, picture(kept))


class HiddenConformance:
    """Where there can be nothing to capture for a while."""

    def test_unavailable(self, driver: DrawnDriver) -> None:
        with Viewer(driver) as viewer:
            for is_watched in (True, False):
                viewer.settle()
                if not is_watched:
                    viewer.capture.end()
                driver.hide()
                while not viewer.capture.unavailable:
                    viewer.until(Changes.AVAILABLE)
                assert viewer.capture.unavailable.isprintable()
                if is_watched:
                    assert viewer.capture.grab(0) is None
                driver.show()
                while viewer.capture.unavailable:
                    viewer.until(Changes.AVAILABLE)
                if not is_watched:
                    viewer.capture.begin()
                viewer.grab()
                driver.draw((9, 9, 30, 30), RED if is_watched else BLUE)
                viewer.until_shown((9, 9, 30, 30), RED if is_watched else BLUE)


class EndedConformance:
    """Where the display can end before us."""

    @pytest.mark.parametrize("is_watched", [True, False])
    def test_end_of_the_display(self, driver: DrawnDriver, *, is_watched: bool) -> None:
        with Viewer(driver) as viewer, Viewer(driver) as other:
            for each in (viewer, other):
                each.grab()
                if not is_watched:
                    each.capture.end()
            driver.kill()
            with pytest.raises(DisplayError) as caught:
                viewer.until(Changes.CURSOR)  # which does not come
            with pytest.raises(DisplayError) as also_caught:
                other.until_lost()
        for each_caught in (caught, also_caught):
            assert driver.name in str(each_caught.value)
            assert str(each_caught.value).isprintable()
        with pytest.raises(DisplayError, match=re.escape(driver.name)):
            driver.open()
        gc.collect()  # what a failure leaves is this test's
