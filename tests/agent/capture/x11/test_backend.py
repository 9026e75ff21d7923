"""An X display as it is: Xvfb, other clients that draw, and what the server says."""

import array
import os
import random
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from Xlib import X, Xatom
from Xlib.display import Display
from Xlib.protocol import event
from Xlib.protocol.display import Display as XlibDisplay

from agent.capture.base import BAND, Changes, Cursor, Frame
from agent.capture.x11 import shm
from agent.capture.x11.backend import X11Capture, open_x11
from sessiond.errors import DisplayError
from sessiond.transport.fds import OwnedFd
from tests.fixtures.processes import end_process
from tests.fixtures.xserver import Xvfb

pytestmark = pytest.mark.parts

ROOT = Path(__file__).parents[4]
DEADLINE = 10.0
python_xlib_leaves_its_socket_open = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
RED, GREEN, BLUE, WHITE = 0xFF0000, 0x00FF00, 0x0000FF, 0xFFFFFF


class Drawer:
    """Another client of the display."""

    def __init__(self, name: str) -> None:
        self.display = Display(name)
        self.root = self.display.screen().root

    def fill(self, x: int, y: int, width: int, height: int, colour: int) -> None:
        """Draw a rectangle, and wait until the server has."""
        gc = self.root.create_gc(foreground=colour, subwindow_mode=X.IncludeInferiors)
        self.root.fill_rectangle(gc, x, y, width, height)
        gc.free()
        self.display.sync()

    def cursor(self, rows: list[str], fore: int, back: int, hot: tuple[int, int]) -> None:
        """Show a cursor over the root window: ``#`` fore, ``.`` back, else transparent."""
        size = (len(rows[0]), len(rows))
        source, mask = (self._bits(rows, size, shown) for shown in ("#", "#."))
        shape = source.create_cursor(mask, _rgb16(fore), _rgb16(back), *hot)
        self.root.change_attributes(cursor=shape)
        self.display.sync()

    def has_vt(self, value: int) -> None:
        """Say what a real server says of its virtual terminal."""
        atom = self.display.intern_atom("XFree86_has_VT")
        self.root.change_property(atom, Xatom.INTEGER, 32, array.array("I", [value]))
        self.display.sync()

    def _bits(self, rows: list[str], size: tuple[int, int], shown: str) -> Any:  # noqa: ANN401
        bitmap = self.root.create_pixmap(*size, 1)
        gc = bitmap.create_gc(foreground=0)
        bitmap.fill_rectangle(gc, 0, 0, *size)
        gc.change(foreground=1)
        for y, row in enumerate(rows):
            for x, place in enumerate(row):
                if place in shown:
                    bitmap.fill_rectangle(gc, x, y, 1, 1)
        return bitmap


def _rgb16(colour: int) -> tuple[int, int, int]:
    return tuple(0x101 * (colour >> shift & 0xFF) for shift in (16, 8, 0))  # type: ignore[return-value]


class Watched:
    """A capture and how a test waits for it."""

    def __init__(self, capture: X11Capture) -> None:
        self.capture = capture
        self._ready = OwnedFd(os.eventfd(1, os.EFD_CLOEXEC))

    def so_far(self) -> Changes:
        """Return all that the server said about what it has done until now."""
        self.capture.pointer()  # the answer comes after the events
        return self.capture.wait(self._ready.fileno())

    def until(self, wanted: Changes) -> Changes:
        """Wait for WANTED; return all that was told meanwhile."""
        late = OwnedFd(os.eventfd(0, os.EFD_CLOEXEC))
        timer = threading.Timer(DEADLINE, os.eventfd_write, (late.fileno(), 1))
        timer.start()
        told = Changes.NONE
        try:
            while wanted not in told:
                changes = self.capture.wait(late.fileno())
                if not changes:
                    pytest.fail(f"{wanted} did not come, only {told}")
                told |= changes
        finally:
            timer.cancel()
            timer.join()
        return told


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    # python-xlib keeps event codes in the class, and they differ from server to server.
    monkeypatch.setattr(XlibDisplay, "event_classes", event.event_class.copy())


@pytest.fixture(scope="module")
def server() -> Iterator[Xvfb]:
    with Xvfb(640, 480) as xvfb:
        yield xvfb


@pytest.fixture
def drawer(server: Xvfb) -> Iterator[Drawer]:
    made = Drawer(server.display)
    yield made
    made.display.close()


@pytest.fixture
def watched(server: Xvfb) -> Iterator[Watched]:
    capture = open_x11(server.display)
    capture.begin()
    made = Watched(capture)
    made.so_far()
    yield made
    capture.close()


def picture(frame: Frame | None) -> Image.Image:
    assert frame is not None
    size = (frame.width, frame.height)
    return Image.frombytes("RGB", size, bytes(frame.pixels), "raw", "BGRX", frame.stride, 1)


def bars(drawer: Drawer, width: int, height: int) -> Image.Image:
    """Draw something without symmetry and return what it looks like."""
    expected = Image.new("RGB", (width, height), "white")
    drawer.fill(0, 0, width, height, WHITE)
    for x, y, w, h, colour in (
        (0, 0, 50, 30, RED),
        (60, 0, 7, height, GREEN),
        (0, 41, 99, 1, BLUE),
    ):
        drawer.fill(x, y, w, h, colour)
        expected.paste(f"#{colour:06x}", (x, y, x + w, y + h))
    return expected


def segments(process: int) -> list[str]:
    """Return the System V segments that PROCESS has made."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()
    at = lines[0].split().index("cpid")
    return [line for line in lines[1:] if line.split()[at] == str(process)]


def until(condition: Callable[[], bool], turn: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        turn()


def test_picture_by_shared_memory(watched: Watched, drawer: Drawer) -> None:
    expected = bars(drawer, 640, 480)
    for slot in (0, 1, 0):
        frame = watched.capture.grab(slot)
        assert picture(frame).tobytes() == expected.tobytes()
        assert frame
        assert frame.slot == slot
    assert watched.capture.describe().endswith("640x480, by shared memory")


@pytest.mark.parametrize("band", [1, 2560 * 7, 4 << 20])
def test_picture_by_get_image(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm, "_BAND", band)
    with Xvfb(640, 48, args=["-extension", "MIT-SHM"]) as xvfb:
        drawer, capture = Drawer(xvfb.display), open_x11(xvfb.display)
        expected = bars(drawer, 640, 48)
        assert picture(capture.grab(0)).tobytes() == expected.tobytes()
        assert capture.describe().endswith("640x48, by GetImage")
        capture.close()
        drawer.display.close()


def test_slots_are_not_the_same_memory(watched: Watched, drawer: Drawer) -> None:
    drawer.fill(0, 0, 640, 480, RED)
    first = watched.capture.grab(0)
    drawer.fill(0, 0, 640, 480, BLUE)
    second = watched.capture.grab(1)
    assert picture(first).getpixel((9, 9)) == (255, 0, 0)
    assert picture(second).getpixel((9, 9)) == (0, 0, 255)


def test_damage_is_told_once_until_the_grab(watched: Watched, drawer: Drawer) -> None:
    watched.capture.grab(0)
    watched.so_far()
    for _ in range(3):
        drawer.fill(1, 1, 5, 5, RED)
        assert Changes.PICTURE in watched.until(Changes.PICTURE)
        drawer.fill(9, 9, 5, 5, GREEN)
        assert watched.so_far() is Changes.NONE
        watched.capture.grab(0)
        assert watched.so_far() is Changes.NONE


def poison(frame: Frame | None, band: int) -> None:
    """Write what no display shows into a band of a slot."""
    assert frame
    size = BAND * frame.stride
    frame.pixels[band * size : (band + 1) * size] = b"\xee" * size


def is_poisoned(frame: Frame | None, band: int) -> bool:
    assert frame
    size = BAND * frame.stride
    return bytes(frame.pixels[band * size : (band + 1) * size]) == b"\xee" * size


def test_only_what_changed_is_captured(watched: Watched, drawer: Drawer) -> None:
    frame = watched.capture.grab(0)
    assert frame
    assert frame.changed is None
    for band in (0, 3, 9, 29):
        poison(frame, band)
    drawer.fill(5, 4 * BAND - 1, 5, 1, RED)
    drawer.fill(9, 10 * BAND, 5, 1, GREEN)
    frame = watched.capture.grab(0)
    assert frame
    assert [is_poisoned(frame, band) for band in (0, 3, 9, 29)] == [True, False, True, True]
    assert frame.changed == frozenset({3, 10})
    assert picture(frame).getpixel((5, 63)) == (255, 0, 0)
    assert picture(frame).getpixel((9, 160)) == (0, 255, 0)


def test_what_lies_between_changes_is_compared_too(watched: Watched, drawer: Drawer) -> None:
    drawer.fill(0, 0, 640, 480, WHITE)
    watched.capture.grab(0)
    poison(watched.capture.grab(1), 4)  # as if the next capture found it drawn on, and told later
    drawer.fill(0, 3 * BAND, 9, 9, RED)
    drawer.fill(0, 5 * BAND, 9, 9, BLUE)
    frame = watched.capture.grab(0)
    assert frame
    assert frame.changed == frozenset({3, 4, 5})


@pytest.mark.parametrize("slots", [(0, 1), (0, 0), (1, 0, 0)])
def test_changes_add_up_in_both_slots(
    watched: Watched, drawer: Drawer, slots: tuple[int, ...]
) -> None:
    drawer.fill(0, 0, 640, 480, WHITE)
    for slot in (0, 1):
        watched.capture.grab(slot)
    for number in range(12):
        drawer.fill(40 * number, 37 * number, 30, 21, RED if number % 2 else BLUE)
        slot = slots[number % len(slots)]
        frame = watched.capture.grab(slot)
        assert picture(frame).tobytes() == screen_of(drawer).tobytes()


def screen_of(drawer: Drawer) -> Image.Image:
    """Take the whole picture by other means."""
    size = (640, 480)
    reply: Any = drawer.root.get_image(0, 0, *size, X.ZPixmap, 0xFFFFFFFF)
    return Image.frombytes("RGB", size, reply.data, "raw", "BGRX")


def differing_bands(one: Image.Image, other: Image.Image) -> set[int]:
    boxes = [(0, top, 640, top + BAND) for top in range(0, 480, BAND)]
    pairs = ((one.crop(box).tobytes(), other.crop(box).tobytes()) for box in boxes)
    return {number for number, (before, after) in enumerate(pairs) if before != after}


@pytest.mark.parametrize("seed", range(5))
def test_changes_are_those_between_two_frames(watched: Watched, drawer: Drawer, seed: int) -> None:
    chance = random.Random(seed)
    drawer.fill(0, 0, 640, 480, WHITE)
    before, slot = picture(watched.capture.grab(0)), 0
    for _ in range(60):
        for _ in range(chance.choice([0, 1, 1, 2, 9])):
            box = (chance.randrange(640), chance.randrange(480))
            colour = chance.choice([RED, WHITE, BLUE])
            drawer.fill(*box, chance.randint(1, 300), chance.choice([1, 20, 200]), colour)
        slot = 1 - slot if chance.random() < 0.8 else slot
        frame = watched.capture.grab(slot)
        assert frame
        after = picture(frame)
        assert after.tobytes() == screen_of(drawer).tobytes()
        assert frame.changed is not None
        assert frame.changed >= differing_bands(before, after)
        before = after


def test_damage_that_changes_nothing(watched: Watched, drawer: Drawer) -> None:
    drawer.fill(0, 0, 640, 480, RED)
    for slot in (0, 1):
        watched.capture.grab(slot)
    watched.so_far()
    drawer.fill(0, 0, 640, 480, RED)
    watched.until(Changes.PICTURE)
    frame = watched.capture.grab(0)
    assert frame
    assert frame.changed == frozenset()
    drawer.fill(0, 0, 640, 479, RED)
    drawer.fill(3, 100, 1, 1, BLUE)
    frame = watched.capture.grab(1)
    assert frame
    assert frame.changed == frozenset({100 // BAND})


def test_nothing_is_known_after_a_pause(watched: Watched, drawer: Drawer) -> None:
    for slot in (0, 1):
        watched.capture.grab(slot)
    watched.capture.end()
    expected = bars(drawer, 640, 480)
    watched.capture.begin()
    for slot in (0, 1):
        frame = watched.capture.grab(slot)
        assert picture(frame).tobytes() == expected.tobytes()
        assert frame
        assert (frame.changed is None) == (slot == 0)


def test_nothing_is_known_after_an_absence(watched: Watched, drawer: Drawer) -> None:
    for slot in (0, 1):
        poison(watched.capture.grab(slot), 7)
    drawer.has_vt(0)
    watched.until(Changes.AVAILABLE)
    drawer.has_vt(1)
    watched.until(Changes.AVAILABLE)
    for slot in (0, 1):
        assert not is_poisoned(watched.capture.grab(slot), 7)


def test_nothing_drawn_is_nothing_told(watched: Watched, drawer: Drawer) -> None:
    watched.capture.grab(0)
    watched.so_far()
    drawer.display.sync()
    assert watched.so_far() is Changes.NONE


def test_nothing_is_told_after_the_end(watched: Watched, drawer: Drawer) -> None:
    watched.capture.end()
    watched.so_far()
    drawer.fill(0, 0, 50, 50, RED)
    drawer.cursor(["#"], RED, BLUE, (0, 0))
    assert watched.so_far() is Changes.NONE
    watched.capture.begin()
    watched.capture.grab(0)  # a stream begins with one; the server waits for it
    watched.so_far()
    drawer.fill(0, 0, 50, 50, GREEN)
    watched.until(Changes.PICTURE)


def test_shape_of_a_cursor(watched: Watched, drawer: Drawer) -> None:
    drawer.cursor(["#. ", " .#"], RED, BLUE, (2, 1))
    watched.until(Changes.CURSOR)
    red, blue, none = "0000ffff", "ff0000ff", "00000000"
    pixels = bytes.fromhex(red + blue + none + none + blue + red)
    assert watched.capture.cursor() == Cursor(3, 2, 2, 1, pixels)


def test_cursors_change(watched: Watched, drawer: Drawer) -> None:
    for colour, pixel in ((GREEN, "00ff00ff"), (WHITE, "ffffffff"), (0, "000000ff")):
        drawer.cursor(["##"], colour, colour, (0, 0))
        watched.until(Changes.CURSOR)
        assert watched.capture.cursor() == Cursor(2, 1, 0, 0, bytes.fromhex(2 * pixel))


def test_hidden_cursor(watched: Watched, drawer: Drawer) -> None:
    drawer.cursor(["#"], RED, RED, (0, 0))
    watched.until(Changes.CURSOR)
    drawer.cursor(["  ", "  "], RED, RED, (0, 0))
    watched.until(Changes.CURSOR)
    shape = watched.capture.cursor()
    assert shape is None or not any(shape.pixels)


def test_font_cursor(watched: Watched, drawer: Drawer) -> None:
    font: Any = drawer.display.open_font("cursor")
    shape = font.create_glyph_cursor(font, 2, 3, (0xFFFF, 0, 0), (0, 0, 0xFFFF))
    drawer.root.change_attributes(cursor=shape)
    drawer.display.sync()
    watched.until(Changes.CURSOR)
    found = watched.capture.cursor()
    assert found
    assert len(found.pixels) == 4 * found.width * found.height
    words = {found.pixels[at : at + 4].hex() for at in range(0, len(found.pixels), 4)}
    assert words <= {"0000ffff", "ff0000ff", "00000000"}
    assert len(words) == 3


def test_pointer_moves(server: Xvfb, watched: Watched) -> None:
    x, y = watched.capture.pointer()
    environment = {**os.environ, "DISPLAY": server.display}
    move = ["xdotool", "mousemove_relative", "--", "-7", "5"]
    subprocess.run(move, env=environment, check=True)
    watched.until(Changes.POINTER)
    assert watched.capture.pointer() == (x - 7, y + 5)


def test_off_its_virtual_terminal(watched: Watched, drawer: Drawer) -> None:
    drawer.has_vt(0)
    watched.until(Changes.AVAILABLE)
    assert watched.capture.unavailable == "the X server is not on the active virtual terminal"
    assert watched.capture.grab(0) is None
    drawer.has_vt(1)
    assert Changes.PICTURE in watched.until(Changes.AVAILABLE)
    assert watched.capture.unavailable == ""
    assert watched.capture.grab(0)


def test_leaves_its_virtual_terminal_unheard(watched: Watched, drawer: Drawer) -> None:
    drawer.has_vt(0)
    assert watched.capture.grab(0) is None  # nobody has waited for the event
    drawer.has_vt(1)
    watched.until(Changes.AVAILABLE)


def test_is_away_from_the_start(server: Xvfb, drawer: Drawer) -> None:
    drawer.has_vt(0)
    capture = open_x11(server.display)
    assert capture.unavailable
    drawer.has_vt(1)
    capture.close()


def xrandr(display: str, *arguments: str) -> None:
    subprocess.run(["xrandr", "-d", display, *arguments], check=True, stderr=subprocess.PIPE)


M800 = ("m800", "40", "800", "840", "968", "1056", "600", "601", "605", "628")


def test_resize_while_capturing() -> None:
    with Xvfb(1024, 768) as xvfb:
        capture, drawer = open_x11(xvfb.display), Drawer(xvfb.display)
        watched = Watched(capture)
        capture.begin()
        before = capture.grab(0)
        assert before
        xrandr(xvfb.display, "--newmode", *M800)
        xrandr(xvfb.display, "--addmode", "screen", "m800")
        xrandr(xvfb.display, "--output", "screen", "--mode", "m800")
        expected = bars(drawer, 800, 600)
        # Before the event is read: the server refuses the old size.
        assert picture(capture.grab(0)).tobytes() == expected.tobytes()
        assert capture.size == (800, 600)
        assert len(before.pixels) == 4 * 1024 * 768  # still there for who encodes it
        watched.until(Changes.PICTURE)
        for mode, size in (("1024x768", (1024, 768)), ("m800", (800, 600))) * 3:
            xrandr(xvfb.display, "--output", "screen", "--mode", mode)
            until(lambda size=size: capture.size == size, watched.so_far)  # type: ignore[misc]
            for slot in (0, 1):
                assert picture(capture.grab(slot)).size == size
        del before
        assert len(segments(os.getpid())) <= 2
        capture.close()
        until(lambda: not segments(os.getpid()), drawer.display.sync)
        drawer.display.close()


def test_outputs(server: Xvfb) -> None:
    capture = open_x11(server.display)
    assert capture.outputs() == ("screen",)
    capture.close()


M64 = ("m64", "1", "64", "65", "66", "67", "48", "49", "50", "51")
TOO_LARGE = r"display :\d+ has a screen of 8200x64 pixels; at most 8192x8192 can be shown"


def test_too_large_a_screen() -> None:
    with Xvfb(8200, 64) as xvfb, pytest.raises(DisplayError, match=TOO_LARGE):
        open_x11(xvfb.display)
    assert not segments(os.getpid())


def shrink_and_allow_growth(xvfb: Xvfb) -> None:
    """Make the screen 64x48; Xvfb lets it grow again, but not over what it was."""
    xrandr(xvfb.display, "--newmode", *M64)
    xrandr(xvfb.display, "--addmode", "screen", "m64")
    xrandr(xvfb.display, "--output", "screen", "--mode", "m64")


@pytest.mark.parametrize("is_heard", [True, False])
def test_screen_grows_too_large(*, is_heard: bool) -> None:
    with Xvfb(8200, 64) as xvfb:
        shrink_and_allow_growth(xvfb)
        capture = open_x11(xvfb.display)
        watched = Watched(capture)
        capture.begin()
        assert picture(capture.grab(0)).size == (64, 48)
        xrandr(xvfb.display, "--output", "screen", "--mode", "8200x64")
        wait, grab = partial(watched.until, Changes.AVAILABLE), partial(capture.grab, 0)
        with pytest.raises(DisplayError, match=TOO_LARGE):
            until(lambda: False, wait if is_heard else grab)
        capture.close()


def test_segments_are_gone_after_close(server: Xvfb, drawer: Drawer) -> None:
    until(lambda: not segments(os.getpid()), drawer.display.sync)
    capture = open_x11(server.display)
    for slot in (0, 1):
        capture.grab(slot)
    assert len(segments(os.getpid())) == 2
    capture.close()
    # The server detaches when it hears of it, between two requests of others.
    until(lambda: not segments(os.getpid()), drawer.display.sync)


def test_segments_are_gone_after_a_kill(server: Xvfb, drawer: Drawer) -> None:
    code = (
        "import sys; from agent.capture.x11.backend import open_x11\n"
        "capture = open_x11(sys.argv[1])\n"
        "frames = [capture.grab(slot) for slot in (0, 1)]\n"
        "print(capture.describe(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, server.display],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout
        assert process.stdout.readline().endswith("by shared memory\n")
        assert len(segments(process.pid)) == 2
        process.send_signal(signal.SIGKILL)
        end_process(process)
    until(lambda: not segments(process.pid), drawer.display.sync)


class Proxy:
    """Between a client and the server; tells of each byte that the client sends."""

    def __init__(self, server: Xvfb) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        port: int = self._listener.getsockname()[1]
        self.display = f"127.0.0.1:{port - 6000}"  # as X counts TCP ports
        self._server = f"/tmp/.X11-unix/X{server.display[1:]}"  # noqa: S108 (where X has it)
        self.sent = OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for the end of the client's connection."""
        self._thread.join(DEADLINE)
        self._listener.close()

    def _run(self) -> None:
        client, _ = self._listener.accept()
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._server)
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    if source is client:
                        os.eventfd_write(self.sent.fileno(), len(data))
                    (server if source is client else client).sendall(data)


def test_not_a_byte_while_nothing_happens(server: Xvfb, drawer: Drawer) -> None:
    proxy = Proxy(server)
    watched = Watched(open_x11(proxy.display))
    watched.capture.begin()
    watched.capture.grab(0)
    watched.so_far()
    assert os.eventfd_read(proxy.sent.fileno()) > 0
    told = list[Changes]()
    waiter = threading.Thread(target=lambda: told.append(watched.until(Changes.PICTURE)))
    waiter.start()
    assert select.select([proxy.sent.fileno()], [], [], 1.0)[0] == []
    drawer.fill(0, 0, 9, 9, RED)
    waiter.join(DEADLINE)
    assert len(told) == 1
    # Being told of it costs no request either.
    assert select.select([proxy.sent.fileno()], [], [], 0)[0] == []
    watched.capture.close()
    proxy.close()


def test_death_of_the_display() -> None:
    with Xvfb(64, 48) as xvfb:
        captures = [open_x11(xvfb.display) for _ in range(3)]
        for capture in captures:
            capture.begin()
            capture.grab(0)
        xvfb.kill()
        gone = f"^display {xvfb.display} has gone away$"
        with pytest.raises(DisplayError, match=gone):
            Watched(captures[0]).until(Changes.PICTURE)
        with pytest.raises(DisplayError, match=gone):
            captures[1].grab(0)
        with pytest.raises(DisplayError, match=gone):
            captures[2].end()
        for capture in captures:
            capture.close()


@python_xlib_leaves_its_socket_open
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (":59000", "display :59000 cannot be opened: "),
        (":65000", "display ':65000' is not a display name"),
        ("nonsense", "display 'nonsense' is not a display name"),
        ("/etc/passwd", "display '/etc/passwd' is not a display name"),
        ("127.0.0.1:59000", "display 127.0.0.1:59000 cannot be opened: "),
    ],
)
def test_display_that_cannot_be_opened(name: str, complaint: str) -> None:
    with pytest.raises(DisplayError, match=f"^{re.escape(complaint)}[^\n]*$"):
        open_x11(name)


def test_no_display_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(DisplayError, match=r"^no display: neither --display nor \$DISPLAY"):
        open_x11("")


def test_display_of_the_environment(server: Xvfb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", server.display)
    capture = open_x11("")
    assert capture.describe().startswith(f"display {server.display},")
    capture.close()


@python_xlib_leaves_its_socket_open
def test_display_that_wants_a_cookie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XAUTHORITY", str(tmp_path / "none"))
    fields = (b"", b"", b"MIT-MAGIC-COOKIE-1", bytes(16))
    entry = struct.pack(">H", 0xFFFF) + b"".join(struct.pack(">H", len(f)) + f for f in fields)
    (tmp_path / "auth").write_bytes(entry)
    with Xvfb(64, 48, args=["-auth", str(tmp_path / "auth")]) as xvfb:
        expected = f"^display {xvfb.display} cannot be opened: [^\n]+$"
        with pytest.raises(DisplayError, match=expected):
            open_x11(xvfb.display)


def test_other_depths() -> None:
    with Xvfb(64, 48, depth=16) as xvfb:
        expected = f"^display {xvfb.display} has 16 planes in 16 bits a pixel; [^\n]*$"
        with pytest.raises(DisplayError, match=expected):
            open_x11(xvfb.display)


@pytest.mark.parametrize("name", ["DAMAGE", "XFIXES"])
def test_extension_that_is_missing(name: str) -> None:
    with Xvfb(64, 48, args=["-extension", name]) as xvfb:
        # Without XFIXES this server has no DAMAGE either.
        expected = f"^display {xvfb.display} has no (DAMAGE|{name}) extension$"
        with pytest.raises(DisplayError, match=expected):
            open_x11(xvfb.display)
