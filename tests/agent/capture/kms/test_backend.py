"""The display hardware as a back-end, with the real helper at a card of memory files."""

import contextlib
import fcntl
import os
import pty
import socket
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from agent.capture.base import Changes, Cursor, Frame
from agent.capture.kms import pace
from agent.capture.kms.backend import KmsCapture, open_kms
from agent.capture.kms.buffers import Buffers
from agent.capture.kms.front import Front
from agent.capture.kms.helper import KmsHelper
from agent.capture.slots import Picture, Slots
from sessiond.errors import DisplayError
from sessiond.kms import card as cards
from sessiond.kms.card import Output
from sessiond.kms.drm import Crtc
from sessiond.transport.fds import OwnedFd
from sessiond.wire.kms import Ask, Kind, Plane, fourcc, pack_answer
from tests.agent.capture.conformance import (
    BLUE,
    GREEN,
    RED,
    Box,
    Colour,
    DrawnConformance,
    DrawnDriver,
    EndedConformance,
    HiddenConformance,
    ResizedConformance,
    Viewer,
)
from tests.fixtures.kms import Memory, MemoryCard, ServedCard, full_screen

pytestmark = pytest.mark.parts

PIXELS = {  # a colour as a pixel of each format
    "XR24": lambda r, g, b: bytes((b, g, r, 99)),
    "AR24": lambda r, g, b: bytes((b, g, r, 255)),
    "XB24": lambda r, g, b: bytes((r, g, b, 99)),
    "AB24": lambda r, g, b: bytes((r, g, b, 255)),
    "RG24": lambda r, g, b: bytes((b, g, r)),
    "RG16": lambda r, g, b: struct.pack("=H", r >> 3 << 11 | g >> 2 << 5 | b >> 3),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often, at rest too: a test waits for several looks."""
    monkeypatch.setattr(pace, "QUICKEST", 0.002)
    monkeypatch.setattr(pace, "SLOWEST", 0.01)


class TerminalFront(Front):
    """A terminal in packet mode: like sysfs, it can tell that something has happened."""

    def __init__(self) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._master, termios.TIOCPKT, struct.pack("i", 1))

    def fileno(self) -> int:
        return self._master

    def change(self) -> None:
        """Tell of another VT."""
        termios.tcflush(self._slave, termios.TCIFLUSH)

    def arm(self) -> None:
        os.set_blocking(self._master, False)
        with contextlib.suppress(BlockingIOError):
            os.read(self._master, 1)

    def close(self) -> None:
        os.close(self._master)
        os.close(self._slave)


class ServedCapture(KmsCapture):
    """One with a helper of its own, which ends with it."""

    def __init__(self, served: ServedCard) -> None:
        self.served = served
        self.front = TerminalFront()
        helper = KmsHelper(served.agent.detach())
        try:
            super().__init__(helper, self.front)
        except DisplayError:
            helper.close()
            self.front.close()
            raise

    def close(self) -> None:
        super().close()
        self.served.__exit__(None, None, None)


class MemoryDriver(DrawnDriver):
    """A card that shows one buffer of memory, another one after each change of its size."""

    name = "KMS helper"
    quiet = 0.05

    def __init__(self, folder: Path, form: str = "XR24", padding: int = 0) -> None:
        super().__init__()
        self.size = (322, 203)
        self.card = MemoryCard()
        self._folder = folder
        self._form = form
        self._padding = padding
        self._captures: list[ServedCapture] = []
        self._is_dead = False
        self.resize(self.size)

    def open(self) -> KmsCapture:
        served = ServedCard(self.card, self._folder)
        served.told()
        served.grant(is_given=True)
        if self._is_dead:
            served.daemon.close()
            served.wait_ended()
        try:
            capture = ServedCapture(served)
        except DisplayError:
            served.__exit__(None, None, None)
            raise
        self._captures.append(capture)
        return capture

    def draw(self, box: Box, colour: Colour) -> None:
        for memory in self.card.memory.values():
            memory.fill(box, PIXELS[self._form](*colour))

    def resize(self, size: tuple[int, int]) -> None:
        pixel = len(PIXELS[self._form](0, 0, 0))
        memory = Memory(size, self._form, pixel=pixel, padding=self._padding)
        old = list(self.card.memory.values())
        full_screen(self.card, memory)
        self.card.memory = {self.card.crtcs[0].framebuffer: memory}
        for each in old:
            each.close()

    def hide(self) -> None:
        self._switch(4)

    def show(self) -> None:
        self._switch(3)

    def kill(self) -> None:
        self._is_dead = True
        for capture in self._captures:
            capture.served.daemon.close()

    def end(self) -> None:
        """Give the card's memory back."""
        for memory in self.card.memory.values():
            memory.close()

    def _switch(self, vt: int) -> None:
        for capture in self._captures:
            capture.served.switch(vt)
            capture.front.change()


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[MemoryDriver]:
    made = MemoryDriver(tmp_path)
    yield made
    made.end()


class TestPlain(DrawnConformance, ResizedConformance, HiddenConformance, EndedConformance):
    """A buffer as every driver has them."""

    @pytest.fixture
    def driver(self, plain: MemoryDriver) -> MemoryDriver:
        return plain


class TestPadded(DrawnConformance, ResizedConformance):
    """Rows that end with something else, in a buffer that begins with something else."""

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Iterator[MemoryDriver]:
        made = MemoryDriver(tmp_path, padding=48)
        yield made
        made.end()


class TestSwapped(DrawnConformance, ResizedConformance):
    """Red where others have blue."""

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Iterator[MemoryDriver]:
        made = MemoryDriver(tmp_path, "XB24", padding=8)
        yield made
        made.end()


@pytest.mark.parametrize("form", PIXELS)
@pytest.mark.parametrize("padding", [0, 20])
def test_formats(tmp_path: Path, form: str, padding: int) -> None:
    driver = MemoryDriver(tmp_path, form, padding)
    colours = {(0, 0, 322, 203): GREEN, (7, 9, 30, 40): RED, (321, 202, 1, 1): BLUE}
    for box, colour in colours.items():
        driver.draw(box, colour)
    with Viewer(driver) as viewer:
        viewer.grab()
        expected = Image.new("RGB", driver.size)
        for (x, y, width, height), colour in colours.items():
            expected.paste(colour, (x, y, x + width, y + height))
        assert viewer.picture.tobytes() == expected.tobytes()
    driver.end()


def two_screens(card: MemoryCard, first: Memory, second: Memory) -> None:
    """Show two buffers side by side."""
    card.memory = {1: first, 2: second}
    card.crtcs = [
        Crtc(31, 1, 0, 0, first.width, first.height),
        Crtc(32, 2, 0, 0, second.width, second.height),
    ]
    card.names = {31: Output(0, "Virtual-1"), 32: Output(1, "Virtual-2")}


def test_two_outputs(plain: MemoryDriver) -> None:
    plain.end()
    first, second = Memory((100, 50)), Memory((60, 80), padding=12)
    two_screens(plain.card, first, second)
    first.fill((0, 0, 100, 50), bytes((0, 0, 255, 0)))
    second.fill((0, 0, 60, 80), bytes((255, 0, 0, 0)))
    with Viewer(plain) as viewer:
        assert viewer.capture.size == (160, 80)
        assert viewer.capture.outputs() == ("Virtual-1", "Virtual-2")
        assert "Virtual-1, Virtual-2, 160x80" in viewer.capture.describe()
        viewer.grab()
        assert viewer.shows((0, 0, 100, 50), RED)
        assert viewer.shows((0, 50, 100, 30), (0, 0, 0))
        assert viewer.shows((100, 0, 60, 80), BLUE)
        second.fill((59, 70, 1, 1), bytes((0, 255, 0, 0)))
        viewer.until(Changes.PICTURE)
        assert viewer.grab() == frozenset({4})
        assert viewer.shows((159, 70, 1, 1), GREEN)


def test_parts_of_one_buffer(plain: MemoryDriver) -> None:
    (number,) = plain.card.memory
    plain.card.crtcs = [Crtc(31, number, 122, 3, 200, 200), Crtc(32, number, 22, 3, 100, 200)]
    plain.draw((0, 0, 322, 203), RED)
    plain.draw((22, 3, 300, 200), BLUE)
    with Viewer(plain) as viewer:
        viewer.grab()
        assert viewer.picture.size == (300, 200)
        assert viewer.shows((0, 0, 300, 200), BLUE)
        plain.draw((321, 202, 1, 1), GREEN)
        viewer.until(Changes.PICTURE)
        assert viewer.grab() == frozenset({12})


def test_cursor(plain: MemoryDriver) -> None:
    pointer = Memory((8, 6), "AR24", padding=4)
    pointer.fill((2, 1, 1, 1), b"\x10\x20\x30\x40")
    plain.card.memory[7] = pointer
    image = bytearray(4 * 8 * 6)
    image[40:44] = b"\x10\x20\x30\x40"
    with Viewer(plain) as viewer:
        assert viewer.capture.cursor() is None
        viewer.grab()
        plain.card.cursors = [cards.Cursor(31, 7, 100, 50, 2, 1)]
        viewer.until(Changes.CURSOR)
        assert viewer.capture.cursor() == Cursor(8, 6, 2, 1, bytes(image))
        assert viewer.capture.pointer() == (102, 51)
        plain.card.cursors = [cards.Cursor(31, 7, 319, -4, 2, 1)]
        assert viewer.until(Changes.POINTER) == Changes.POINTER
        assert viewer.capture.pointer() == (321, 0)
        pointer.fill((0, 0, 8, 6), bytes(4))
        assert viewer.until(Changes.CURSOR) == Changes.CURSOR
        plain.card.cursors = []
        viewer.until(Changes.CURSOR)
        assert viewer.capture.cursor() is None
        plain.card.cursors = [cards.Cursor(31, 7, 30, 30, 2, 1)]
        viewer.grab()  # which sees it, too
        viewer.capture.end()
        assert viewer.so_far() is Changes.NONE


def test_without_a_grant(plain: MemoryDriver) -> None:
    """What is not shown is closed, and the pause that follows is no fault."""
    with Viewer(plain) as viewer:
        assert isinstance(viewer.capture, ServedCapture)
        viewer.grab()
        viewer.capture.served.grant(is_given=False)
        viewer.until(Changes.AVAILABLE)
        assert viewer.capture.unavailable == "this session is not the one that is shown"
        assert viewer.capture.grab(0) is None
        maps = Path("/proc/self/maps").read_text().splitlines()
        assert not [it for it in maps if "r--s" in it and "memfd:buffer" in it]
        viewer.capture.end()
        assert viewer.wait(0.0) is Changes.AVAILABLE
        assert viewer.capture.unavailable == ""
        viewer.capture.served.grant(is_given=True)
        viewer.capture.begin()
        assert viewer.grab() is None


def test_opened_while_another_vt_is_in_front(plain: MemoryDriver, tmp_path: Path) -> None:
    with ServedCard(plain.card, tmp_path, vt=4) as served:
        served.told()
        capture = KmsCapture(KmsHelper(os.dup(served.agent.fileno())), TerminalFront())
        assert capture.unavailable == "tty3 is in front, not tty4"
        assert capture.size == (0, 0)
        assert capture.describe() == "the display hardware"
        capture.close()


def test_what_another_vt_has_drawn_meanwhile_is_no_frame(
    plain: MemoryDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text consoles share a buffer: what it has may change after the helper's last look."""
    with contextlib.closing(plain.open()) as capture:
        capture.begin()
        assert capture.grab(0)
        take, vts = Slots.take, [4]

        def take_late(slots: Slots, slot: int, picture: Picture) -> Frame:
            if vts:
                plain._switch(vts.pop(0))
                plain.draw((0, 0, 9, 9), RED)
            return take(slots, slot, picture)

        monkeypatch.setattr(Slots, "take", take_late)
        assert capture.grab(1) is None
        assert capture.unavailable == "tty4 is in front, not tty3"
        plain._switch(3)
        frame = capture.grab(1)
        assert frame
        assert frame.changed is None, "it is compared with nothing that was seen meanwhile"


def test_screen_that_nobody_can_read(plain: MemoryDriver) -> None:
    (memory,) = plain.card.memory.values()
    with Viewer(plain) as viewer:
        viewer.grab()
        memory.modifier = 1
        with pytest.raises(DisplayError, match="not laid out in rows"):
            viewer.until(Changes.CURSOR)
        with pytest.raises(DisplayError, match="not laid out in rows"):
            plain.open()


def test_screen_that_flips_too_fast(plain: MemoryDriver) -> None:
    """A look that comes to nothing is no news; a frame is tried for some time."""
    with Viewer(plain) as viewer:
        viewer.grab()
        (memory,) = plain.card.memory.values()
        plain.card.on_opened = lambda: full_screen(plain.card, memory)
        assert viewer.so_far() is Changes.NONE
        with pytest.raises(DisplayError, match="faster than they can be captured"):
            viewer.capture.grab(0)
    plain.card.memory = {1: memory}


def test_buffer_that_is_too_small(plain: MemoryDriver) -> None:
    (memory,) = plain.card.memory.values()
    os.truncate(memory.fd, 4096)
    capture = plain.open()
    with pytest.raises(DisplayError, match="does not fit"):
        capture.begin()
    capture.close()


def test_nothing_grows_in_a_thousand_frames(plain: MemoryDriver) -> None:
    """Whatever buffers are on the screen: as compositors, here four take turns."""
    memories = [Memory(plain.size) for _ in range(4)]
    with Viewer(plain) as viewer:
        (kept,) = plain.card.memory.values()
        counts = set()
        for number in range(1000):
            plain.card.memory[number % 4 + 1] = memories[number % 4]
            plain.card.crtcs = [Crtc(31, number % 4 + 1, 0, 0, *plain.size)]
            assert viewer.capture.grab(number % 2)
            if number % 100 == 50:
                counts.add(len(os.listdir("/proc/self/fd")))
        assert max(counts) - min(counts) <= 1  # what the helper is just closing
    for memory in (*memories, kept):
        memory.close()
    plain.card.memory = {}


PLANE = Plane(Kind.PRIMARY, 0, 0, 0, 8, 8, 0, 0, fourcc("XR24"), 32, 0)


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (b"", "has ended"),
        (b"\0", "makes no sense: an answer of 1 bytes"),
        (pack_answer([PLANE]), "has no buffers"),
        (pack_answer([PLANE._replace(width=99999)]), "makes no sense: a plane of 99999x8"),
    ],
)
def test_answers_that_make_no_sense(packet: bytes, words: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    helper = KmsHelper(ours.detach())
    with theirs:
        theirs.send(packet)
        with pytest.raises(DisplayError, match=words):
            helper.ask(Ask.PIXELS)
    helper.close()


def test_no_socket() -> None:
    with open("/dev/null", "rb") as null, pytest.raises(DisplayError, match="no socket of a KMS"):
        open_kms(null.fileno())


def test_buffers_that_were_seen_last_stay_mapped() -> None:
    def mapped() -> list[str]:
        lines = Path("/proc/self/maps").read_text().splitlines()
        return [line for line in lines if "r--s" in line and "memfd:buffer" in line]

    def opened(memory: Memory) -> OwnedFd:
        return OwnedFd(os.open(f"/proc/self/fd/{memory.fd}", os.O_RDONLY | os.O_CLOEXEC))

    memories = [Memory((64, 64)) for _ in range(12)]
    buffers = Buffers()
    for memory in (*memories, memories[-1], memories[-2]):
        (buffer,) = buffers.take([opened(memory)])
        memory.fill((0, 0, 1, 1), b"1234")
        with buffer.reading():
            assert bytes(buffer.pixels[:4]) == b"1234"
        assert buffers.take([opened(memory)]) == [buffer]
        del buffer
    assert len(mapped()) == 8
    buffers.forget()
    assert mapped() == []
    for memory in memories:
        memory.close()
