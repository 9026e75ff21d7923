"""The capture of compositors: what cannot be seen in a picture, and hostile ones (scripted)."""

import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from PIL import Image

from agent.capture.base import Changes, Cursor, Frame, UnsupportedError
from agent.capture.wlroots import backend, protocols, source
from agent.capture.wlroots.backend import WlrootsCapture, open_wlroots
from sessiond.errors import DisplayError
from sessiond.transport.fds import OwnedFd
from sessiond.transport.wayland import Connection
from sessiond.wire import wayland
from tests.agent.capture.wlroots.scripted import (
    ARGB8888,
    IMAGE_COPY,
    SCREENCOPY,
    Compositor,
    Screen,
    Thing,
)
from tests.fixtures.drawing import numbered

pytestmark = pytest.mark.parts

NAME = "/run/user/1000/wayland-0"
WATCHED = (("zxdg_output_manager_v1", 3), ("zwlr_output_power_manager_v1", 1))
PROTOCOLS = pytest.mark.parametrize("protocol", [SCREENCOPY, IMAGE_COPY], ids=["wlr", "ext"])
Protocol = tuple[tuple[str, int], ...]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for what never comes only for a moment; what comes, comes at once here."""
    monkeypatch.setattr(backend, "TIMEOUT", 0.3)
    monkeypatch.setattr(source, "RETRY", 0.02)


@contextmanager
def opened(compositor: Compositor) -> Iterator[WlrootsCapture]:
    connection = Connection(compositor.client, NAME)
    with compositor, closing(connection):
        capture = WlrootsCapture(connection)
        yield capture
        capture.close()


@contextmanager
def begun(compositor: Compositor) -> Iterator[WlrootsCapture]:
    with opened(compositor) as capture:
        capture.begin()
        yield capture


def wait(capture: WlrootsCapture, seconds: float = 10.0) -> Changes:
    with OwnedFd(os.eventfd(0, os.EFD_CLOEXEC)) as late:
        timer = threading.Timer(seconds, os.eventfd_write, (late.fileno(), 1))
        timer.start()
        try:
            return capture.wait(late.fileno())
        finally:
            timer.cancel()
            timer.join()


def until(capture: WlrootsCapture, wanted: Changes) -> None:
    """Wait for it, whatever else comes."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if wanted in wait(capture):
            return
    pytest.fail(f"{wanted} did not come")


def settle(capture: WlrootsCapture) -> None:
    while wait(capture, 0.05):
        assert capture.grab(0)


def image(frame: Frame | None) -> Image.Image:
    assert frame
    size = (frame.width, frame.height)
    return Image.frombytes("RGB", size, bytes(frame.pixels), "raw", "BGRX", frame.stride, 1)


@PROTOCOLS
@pytest.mark.parametrize("transform", range(8))
def test_every_turn(protocol: Protocol, transform: int) -> None:
    screen = Screen("one", (120, 90), transform=transform)
    picture = numbered(3, *((90, 120) if transform % 2 else (120, 90)))
    compositor = Compositor(protocol, screen)
    compositor.show(screen, picture)
    with begun(compositor) as capture:
        assert capture.size == picture.size
        assert image(capture.grab(0)).tobytes() == picture.tobytes()
        picture.paste((1, 2, 3), (5, 70, 12, 81))
        compositor.show(screen, picture)
        for slot in (1, 0, 1):
            if image(capture.grab(slot)).tobytes() == picture.tobytes():
                return
            until(capture, Changes.PICTURE)
    pytest.fail("the change did not come")


@PROTOCOLS
def test_silence(protocol: Protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked, and nothing wakes us, while nothing changes."""
    compositor = Compositor(protocol, Screen("one", (64, 48)))
    with begun(compositor) as capture:
        assert capture.grab(0)
        settle(capture)
        asked, heard = len(compositor.requests), list[bytes]()
        monkeypatch.setattr(capture._connection, "_receive", lambda: heard.append(b"news"))
        assert wait(capture, 0.2) is Changes.NONE
        assert compositor.requests[asked:] == []
        assert heard == []


@PROTOCOLS
def test_outputs_come_and_go(protocol: Protocol) -> None:
    one, two = Screen("one", (60, 50)), Screen("two", (40, 30), place=(60, 20))
    compositor = Compositor((*WATCHED, *protocol), one)
    compositor.show(one, Image.new("RGB", one.size, "red"))
    with begun(compositor) as capture:
        assert image(capture.grab(0)).getcolors() == [(3000, (255, 0, 0))]
        compositor.add(two)
        while capture.size != (100, 50):
            until(capture, Changes.AVAILABLE)
        compositor.show(two, Image.new("RGB", two.size, "blue"))
        picture = image(capture.grab(1))
        while picture.getpixel((99, 49)) != (0, 0, 255):
            until(capture, Changes.PICTURE)
            picture = image(capture.grab(1))
        assert sorted(picture.getcolors() or []) == [
            (800, (0, 0, 0)), (1200, (0, 0, 255)), (3000, (255, 0, 0)),
        ]  # fmt: skip
        assert capture.outputs() == ("one", "two")
        compositor.remove(one)
        while capture.size != (40, 30):
            until(capture, Changes.AVAILABLE)
        frame = capture.grab(0)
        assert image(frame).getcolors() == [(1200, (0, 0, 255))]
        assert frame
        assert frame.changed is None
        compositor.remove(two)
        while not capture.unavailable:
            until(capture, Changes.AVAILABLE)
        assert capture.unavailable == f"the compositor at {NAME} has no output"
        assert capture.grab(1) is None


@PROTOCOLS
def test_scales_that_differ(protocol: Protocol) -> None:
    """Pixels stay what they are, and nothing overlaps."""
    fine = Screen("fine", (60, 40), scale=2)
    coarse = Screen("coarse", (50, 30), place=(30, 0))
    with begun(Compositor((*WATCHED, *protocol), fine, coarse)) as capture:
        assert capture.size == (110, 40)


@PROTOCOLS
def test_places_left_of_the_origin(protocol: Protocol) -> None:
    left, right = Screen("left", (50, 30), place=(-50, -10)), Screen("right", (20, 20))
    with begun(Compositor((*WATCHED, *protocol), left, right)) as capture:
        assert capture.size == (70, 30)


@PROTOCOLS
def test_all_outputs_off(protocol: Protocol) -> None:
    screen = Screen("one", (64, 48), is_powered=False)
    with begun(Compositor((*WATCHED, *protocol), screen)) as capture:
        assert capture.unavailable == f"all outputs of the compositor at {NAME} are off"
        assert capture.grab(0) is None


@PROTOCOLS
def test_an_output_that_fails_is_asked_again(protocol: Protocol) -> None:
    """One that is off, where nobody tells that it is."""
    screen = Screen("one", (64, 48))
    compositor = Compositor(protocol, screen)
    refuses = True

    def refuse(thing: Thing, request: str, _arguments: list[Any]) -> bool:
        if refuses and request in {"copy", "capture"}:
            compositor.tell(thing, "failed", *([0] if request == "capture" else []))
            return False
        return True

    compositor.before = refuse
    with begun(compositor) as capture:
        assert capture.grab(0) is None
        assert capture.unavailable == f"the compositor at {NAME} gives no picture of its outputs"
        assert Changes.AVAILABLE in wait(capture)
        for _ in range(3):
            assert not wait(capture)  # it is asked again, in vain
        refuses = False
        until(capture, Changes.AVAILABLE)
        assert capture.unavailable == ""
        assert capture.grab(0)


@PROTOCOLS
def test_an_output_that_changes_within_a_grab(
    protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that has waited is replaced by a newer one, and the output by a larger one."""
    monkeypatch.setattr(backend, "OLD", -1.0)
    screen = Screen("one", (64, 48))
    compositor = Compositor(protocol, screen)

    def change(thing: Thing, name: str, arguments: list[int | str]) -> bool:
        if name not in {"capture_output", "create_frame"}:
            return True
        compositor.before = lambda *_: True
        compositor._do(thing, name, arguments)
        compositor.change(screen, size=(80, 60))
        compositor.show(screen, Image.new("RGB", screen.size, "green"))
        return False

    with begun(compositor) as capture:
        assert capture.grab(0)
        settle(capture)
        compositor.show(screen, Image.new("RGB", screen.size, "blue"))
        until(capture, Changes.PICTURE)
        compositor.before = change
        assert image(capture.grab(1)).getcolors() == [(4800, (0, 128, 0))]


def test_constraints_that_are_told_again() -> None:
    """As after another refresh rate, while each picture that we have is in use."""
    screen = Screen("one", (64, 48))
    compositor = Compositor(IMAGE_COPY, screen)
    with begun(compositor) as capture:
        for slot, colour in enumerate(("red", "blue")):
            compositor.show(screen, Image.new("RGB", screen.size, colour))
            until(capture, Changes.PICTURE)
            assert capture.grab(slot)
        compositor.show(screen, Image.new("RGB", screen.size, "white"))
        until(capture, Changes.PICTURE)
        with compositor.lock:
            for session in compositor.things(protocols.SESSION):
                compositor._constrain(session)
        assert wait(capture, 0.1) is Changes.NONE
        assert image(capture.grab(1)).getcolors() == [(64 * 48, (255, 255, 255))]


@PROTOCOLS
def test_a_picture_that_does_not_come(protocol: Protocol) -> None:
    """It is given up; if it comes after all, it is there."""
    screen = Screen("one", (64, 48))
    compositor = Compositor(protocol, screen)
    kept = list[tuple[Thing, str, list[Any]]]()

    def keep(thing: Thing, request: str, arguments: list[Any]) -> bool:
        if request in {"copy", "capture"}:
            kept.append((thing, request, arguments))
        return request not in {"copy", "capture"}

    compositor.before = keep
    with begun(compositor) as capture:
        assert capture.grab(0) is None
        assert "gives no picture" in capture.unavailable
        assert wait(capture) == Changes.AVAILABLE
        compositor.before = lambda *_: True
        with compositor.lock:
            compositor._do(*kept[0])
        until(capture, Changes.AVAILABLE)
        assert capture.unavailable == ""
        assert capture.grab(0)


@PROTOCOLS
def test_a_compositor_that_never_answers(protocol: Protocol) -> None:
    compositor = Compositor(protocol, Screen("one", (64, 48)))
    compositor.is_frozen = True
    text = f"{NAME} did not answer in 0.3 s"
    with pytest.raises(DisplayError, match=text), opened(compositor):
        pass


@PROTOCOLS
def test_a_compositor_that_freezes(protocol: Protocol) -> None:
    """Nothing waits for it without a limit, and ``wait`` can be woken."""
    compositor = Compositor(protocol, Screen("one", (64, 48)))
    with begun(compositor) as capture:
        settle(capture)
        compositor.is_frozen = True
        assert wait(capture, 0.01) is Changes.NONE
        assert capture.grab(0)  # the picture that was there
        capture.end()
        capture.begin()
        assert wait(capture, 0.01) is Changes.NONE
        with pytest.raises(DisplayError, match="did not answer"):
            capture.grab(0)
        capture.end()


@PROTOCOLS
def test_a_flood_does_not_keep_us_from_waking(protocol: Protocol) -> None:
    compositor = Compositor(protocol, Screen("one", (64, 48)))
    with begun(compositor) as capture:
        settle(capture)
        (output,) = compositor.things(wayland.OUTPUT)
        flood = struct.pack("=III", output.number, 12 << 16 | 3, 1) * 200
        is_over = threading.Event()

        def pour() -> None:
            while not is_over.is_set():
                compositor.send(flood)

        thread = threading.Thread(target=pour)
        thread.start()
        try:
            assert wait(capture, 0.05) is Changes.NONE
        finally:
            is_over.set()
            while thread.is_alive():
                wait(capture, 0.01)
            thread.join()


HOSTILE = {
    "huge": (["buffer", 1, 20000, 10, 80000], "20000x10 pixels; at most 8192x8192"),
    "empty": (["buffer", 1, 0, 10, 0], "0x10 pixels"),
    "rows too short": (["buffer", 1, 64, 48, 100], "rows of 100 bytes for 64 pixels"),
    "rows too long": (["buffer", 1, 64, 48, 2**31], "rows of 2147483648 bytes"),
    "a format": (["buffer", 0x30335258, 64, 48, 256], "pixels of the format XR30"),
    "an unprintable format": (["buffer", 7, 64, 48, 256], "pixels of the format 0x7"),
}


@pytest.mark.parametrize(("event", "text"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_offers_of_screencopy(
    event: list[Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compositor = Compositor(SCREENCOPY, Screen("one", (64, 48)))

    def offer(_thing: Thing, made: Thing, *_arguments: int) -> None:
        compositor.tell(made, *event)
        compositor.tell(made, "buffer_done")

    monkeypatch.setattr(compositor, "_on_capture_output", offer)
    with begun(compositor) as capture, pytest.raises(DisplayError, match=text):
        capture.grab(0)


@pytest.mark.parametrize(
    ("size", "formats", "text"),
    [
        ((9000, 10), [1], "9000x10 pixels"),
        ((0, 0), [1], "0x0 pixels"),
        ((64, 48), [], "no pixels of a format that can be shown, only none"),
        ((64, 48), [0x30335258, *range(100, 900)], "only .*XR30"),
    ],
)
def test_hostile_constraints(
    size: tuple[int, int], formats: list[int], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compositor = Compositor(IMAGE_COPY, Screen("one", (64, 48)))

    def constrain(thing: Thing) -> None:
        for kind in formats:
            compositor.tell(thing, "shm_format", kind)
        compositor.tell(thing, "buffer_size", *size)
        compositor.tell(thing, "done")

    monkeypatch.setattr(compositor, "_constrain", constrain)
    with begun(compositor) as capture, pytest.raises(DisplayError, match=text) as caught:
        capture.grab(0)
    assert len(str(caught.value)) < 500


def test_an_event_out_of_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """READY before there is a buffer, and again and again."""
    compositor = Compositor(SCREENCOPY, Screen("one", (64, 48)))

    def ready(thing: Thing, request: str, _arguments: list[Any]) -> bool:
        if request == "copy":
            for _ in range(3):
                compositor.tell(thing, "damage", 0, 2**32 - 1, 2**32 - 1, 5)
        return True

    compositor.before = ready

    def at_once(_thing: Thing, made: Thing, *_arguments: int) -> None:
        compositor.tell(made, "ready", 0, 0, 0)

    monkeypatch.setattr(compositor, "_on_capture_output", at_once)
    with begun(compositor) as capture:
        assert capture.grab(0) is None
        assert "gives no picture" in capture.unavailable


def test_outputs_without_end() -> None:
    screens = [Screen(f"output-{number}", (8, 8), place=(8 * number, 0)) for number in range(40)]
    with begun(Compositor((*WATCHED, *SCREENCOPY), *screens)) as capture:
        assert len(capture.outputs()) == 16
        assert capture.size == (128, 8)


@pytest.mark.parametrize("place", [(8190, 0), (-(2**31), 2**31 - 1)])
def test_outputs_too_far_apart(place: tuple[int, int]) -> None:
    screens = [Screen("one", (8, 8)), Screen("two", (8, 8), place=place)]
    with (
        pytest.raises(DisplayError, match="at most 8192x8192 can be shown"),
        opened(Compositor((*WATCHED, *SCREENCOPY), *screens)),
    ):
        pass


@pytest.mark.parametrize(
    ("globals_", "text"),
    [
        ((), "has no shared memory"),
        ((("wl_shm", 1),), "lets nobody copy its outputs"),
        ((("wl_shm", 1), ("zwlr_screencopy_manager_v1", 1)), "version 2 or later"),
        (IMAGE_COPY[:-1], "neither ext-image-copy-capture-v1 nor"),
    ],
)
def test_what_a_compositor_lacks(globals_: Protocol, text: str) -> None:
    with pytest.raises(DisplayError, match=text) as caught, opened(Compositor(globals_)):
        pass
    assert NAME in str(caught.value)
    assert isinstance(caught.value, UnsupportedError) is bool(globals_)


def test_a_descriptor_that_nobody_asked_for() -> None:
    compositor = Compositor(SCREENCOPY, Screen("one", (64, 48)))
    with begun(compositor) as capture:
        settle(capture)
        with OwnedFd(os.eventfd(0)) as fd:
            compositor.send(b"\0", (fd.fileno(),))
        with pytest.raises(DisplayError, match="descriptors, for which nobody asked"):
            wait(capture)


@PROTOCOLS
def test_what_a_compositor_refuses_is_told(protocol: Protocol) -> None:
    compositor = Compositor(protocol, Screen("one", (64, 48)))
    with begun(compositor) as capture:
        settle(capture)
        body = struct.pack("=III", 1, 3, 4) + b"bad\0"
        compositor.send(struct.pack("=II", 1, (8 + len(body)) << 16) + body)
        with pytest.raises(DisplayError, match=r"refuses what was asked of wl_display: bad \(3\)"):
            wait(capture)


def test_a_socket_where_nobody_listens(tmp_path: Any) -> None:  # noqa: ANN401
    with pytest.raises(DisplayError, match=r"no compositor answers at .*wayland-9"):
        open_wlroots(str(tmp_path / "wayland-9"))


@pytest.fixture
def pointed() -> Iterator[tuple[Compositor, WlrootsCapture]]:
    """Return a compositor with a pointer, and its capture, which has begun."""
    compositor = Compositor(
        (*WATCHED, ("wl_seat", 9), *IMAGE_COPY),
        Screen("one", (60, 50)),
        Screen("two", (40, 30), place=(60, 0)),
    )
    compositor.has_pointer = True
    with begun(compositor) as capture:
        assert capture.grab(0)
        yield compositor, capture


def test_the_cursor_apart(pointed: tuple[Compositor, WlrootsCapture]) -> None:
    compositor, capture = pointed
    assert [each.data for each in compositor.things(protocols.SESSION)].count(0) == 2
    assert capture.cursor() is None
    over = compositor.things(protocols.CURSOR_SESSION)
    sessions = [each for each in compositor.things(protocols.SESSION) if each.screen is None]
    pixels = bytes(range(48))

    def shape(thing: Thing, request: str, _arguments: list[Any]) -> bool:
        if request == "capture" and thing.session in sessions:
            assert thing.buffer
            thing.buffer.data[0][:48] = pixels
            compositor.tell(thing, "ready")
            compositor.before = lambda *_: True
            return False
        return True

    compositor.before = shape
    with compositor.lock:
        compositor.tell(over[1], "enter")
        compositor.tell(over[1], "position", 7, 9)
        compositor.tell(over[1], "hotspot", 1, 2)
        compositor.tell(sessions[1], "buffer_size", 4, 3)
        compositor.tell(sessions[1], "shm_format", ARGB8888)
        compositor.tell(sessions[1], "done")
    while capture.cursor() is None:
        until(capture, Changes.CURSOR)
    assert capture.cursor() == Cursor(4, 3, 1, 2, pixels)
    assert capture.pointer() == (67, 9)
    compositor.tell(over[1], "position", 8, 10)
    until(capture, Changes.POINTER)
    assert capture.pointer() == (68, 10)
    compositor.tell(over[1], "leave")
    until(capture, Changes.CURSOR)
    assert capture.cursor() is None


@pytest.mark.parametrize("what", ["format", "size", "stopped", "no pointer"])
def test_a_cursor_that_cannot_be_had_is_painted(
    pointed: tuple[Compositor, WlrootsCapture], what: str
) -> None:
    compositor, capture = pointed
    session = next(each for each in compositor.things(protocols.SESSION) if each.screen is None)
    with compositor.lock:
        match what:
            case "stopped":
                compositor.tell(session, "stopped")
            case "no pointer":
                (seat,) = compositor.things(protocols.SEAT)
                compositor.tell(seat, "capabilities", 2)
            case _:
                kind = ARGB8888 if what == "size" else 1
                compositor.tell(session, "shm_format", kind)
                compositor.tell(session, "buffer_size", 4000 if what == "size" else 4, 3)
                compositor.tell(session, "done")
    for slot in (1, 0, 1, 0):
        until(capture, Changes.PICTURE)
        assert capture.grab(slot)
        if [each.data for each in compositor.things(protocols.SESSION)] == [1, 1]:
            break
    else:
        pytest.fail("the cursor is not painted")
    assert capture.cursor() is None
    assert compositor.things(protocols.CURSOR_SESSION) == []


def test_a_turned_output_has_its_cursor_painted() -> None:
    compositor = Compositor((("wl_seat", 9), *IMAGE_COPY), Screen("one", (60, 50), transform=1))
    compositor.has_pointer = True
    with begun(compositor) as capture:
        assert capture.grab(0)
        assert [each.data for each in compositor.things(protocols.SESSION)] == [1]
