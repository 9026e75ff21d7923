"""A compositor that plays its end of the protocols, in a thread, with outputs that are arrays.

No package of Debian 12 speaks ext-image-copy-capture-v1; and no real compositor does what a hostile
one may. What it says, and when, is as the XML of each protocol has it; the real sway of Debian 12
is captured in tests/screens. An output's pixels are written to a buffer where the protocol wants
it so and nowhere else, so that who trusts the rest sees old ones.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from PIL import Image, ImageChops

from agent.capture.wlroots import protocols as p
from sessiond.transport import rights
from sessiond.wire import wayland as w
from sessiond.wire.wayland import Interface, Message

if TYPE_CHECKING:
    from collections.abc import Callable

Box = tuple[int, int, int, int]  # left, top, right, bottom
XRGB8888: Final = 1
ARGB8888: Final = 0
_INTERFACES: Final = {
    each.name: each
    for each in (
        *(w.SHM, w.OUTPUT, p.SEAT, p.XDG_OUTPUT_MANAGER, p.POWER_MANAGER),
        *(p.SCREENCOPY_MANAGER, p.SOURCE_MANAGER, p.COPY_MANAGER),
    )
}
# What an object that a request makes is: by the interface and the request.
_MADE: Final = {
    ("wl_display", "sync"): w.CALLBACK,
    ("wl_display", "get_registry"): w.REGISTRY,
    ("wl_shm", "create_pool"): w.SHM_POOL,
    ("wl_shm_pool", "create_buffer"): w.BUFFER,
    ("wl_seat", "get_pointer"): p.POINTER,
    (p.XDG_OUTPUT_MANAGER.name, "get_xdg_output"): p.XDG_OUTPUT,
    (p.POWER_MANAGER.name, "get_output_power"): p.POWER,
    (p.SCREENCOPY_MANAGER.name, "capture_output"): p.SCREENCOPY_FRAME,
    (p.SOURCE_MANAGER.name, "create_source"): p.SOURCE,
    (p.COPY_MANAGER.name, "create_session"): p.SESSION,
    (p.COPY_MANAGER.name, "create_pointer_cursor_session"): p.CURSOR_SESSION,
    (p.CURSOR_SESSION.name, "get_capture_session"): p.SESSION,
    (p.SESSION.name, "create_frame"): p.FRAME,
}
SCREENCOPY: Final = (("wl_shm", 1), (p.SCREENCOPY_MANAGER.name, 3))
IMAGE_COPY: Final = (("wl_shm", 1), (p.SOURCE_MANAGER.name, 1), (p.COPY_MANAGER.name, 1))


@dataclass
class Screen:
    """An output: ``pixels`` are as the mode has them, before they are turned."""

    name: str
    size: tuple[int, int]
    place: tuple[int, int] = (0, 0)
    transform: int = 0
    scale: float = 1.0
    form: int = XRGB8888
    padding: int = 0  # bytes behind each row
    is_flipped: bool = False
    is_powered: bool = True
    number: int = 0  # of its global
    pixels: Image.Image = field(init=False)
    damage: Box | None = None

    def __post_init__(self) -> None:
        self.pixels = Image.new("RGB", self.size)

    @property
    def stride(self) -> int:
        return 4 * self.size[0] + self.padding

    @property
    def whole(self) -> Box:
        return (0, 0, *self.size)


class Thing:
    """An object of the client's, as we know it."""

    def __init__(self, number: int, interface: Interface) -> None:
        self.number = number
        self.interface = interface
        self.data: Any = None
        self.screen: Screen | None = None
        self.session: Thing | None = None
        self.buffer: Thing | None = None
        self.stale: Box | None = None
        self.is_first = True
        self.is_waiting = False
        self.frame: Thing | None = None


class Compositor:
    """Runs from the constructor until ``close``; ``client``, the other end, is the caller's.

    ``requests`` are the names of what was asked. ``before`` is called with each request before it
    is done, and may return False to have it left alone.
    """

    def __init__(self, globals_: tuple[tuple[str, int], ...], *screens: Screen) -> None:
        self.client, self._socket = socket.socketpair()
        self.screens = list(screens)
        self.requests = list[str]()
        self.before: Callable[[Thing, str, list[int | str]], bool] = lambda *_: True
        self.has_pointer = False
        self.is_frozen = False  # it does nothing of what is asked
        self.lock = threading.RLock()
        self._globals = dict(enumerate(globals_, 1))
        self._things = {1: Thing(1, w.DISPLAY)}
        self._fds = list[int]()
        self._rest = b""
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        for screen in self.screens:
            self._number(screen)
        self._thread = threading.Thread(target=self._run, name="compositor", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it as a crash would; a second call does nothing."""
        if self._stop < 0:
            return
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._socket.close()
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        os.close(self._stop)
        self._stop = -1

    # What a test lets it do.

    def tell(self, thing: Thing, event: str, *arguments: object) -> None:
        """Send an event."""
        names = [message.name for message in thing.interface.events]
        opcode = names.index(event)
        body = thing.interface.events[opcode].pack(arguments)
        self.send(struct.pack("=II", thing.number, (8 + len(body)) << 16 | opcode) + body)

    def send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """Send bytes."""
        try:
            socket.send_fds(self._socket, [data], fds)
        except OSError:
            return  # the client has hung up

    def things(self, interface: Interface) -> list[Thing]:
        """Return the client's objects of that kind."""
        return [thing for thing in self._things.values() if thing.interface is interface]

    def show(self, screen: Screen, upright: Image.Image) -> None:
        """Show a picture on an output, and tell whoever waits for it what differs."""
        image = upright.copy()
        if screen.transform >= 4:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        turns = screen.transform % 4
        if turns:
            quarter = Image.Transpose
            image = image.transpose(
                (quarter.ROTATE_90, quarter.ROTATE_180, quarter.ROTATE_270)[turns - 1]
            )
        with self.lock:
            damage = ImageChops.difference(screen.pixels, image).getbbox()
            screen.pixels = image
            if damage:
                screen.damage = _joined(screen.damage, damage)
                self._serve(screen)

    def describe(self, screen: Screen) -> None:
        """Tell of an output what there is to tell."""
        for thing in self.things(w.OUTPUT):
            if thing.screen is screen:
                self._describe(thing, screen)
        for thing in self.things(p.XDG_OUTPUT):
            if thing.screen is screen:
                self._place(thing, screen)
        for thing in self.things(p.POWER):
            if thing.screen is screen:
                self.tell(thing, "mode", int(screen.is_powered))

    def change(self, screen: Screen, **values: object) -> None:
        """Change an output; what waits for its picture fails if that has another size."""
        with self.lock:
            for name, value in values.items():
                setattr(screen, name, value)
            if "size" in values:
                screen.pixels = Image.new("RGB", screen.size)
            screen.damage = screen.whole
            for thing in self.things(p.SCREENCOPY_FRAME):
                if thing.screen is screen and thing.is_waiting:
                    self.tell(thing, "failed")
                    thing.is_waiting = False
            for thing in self.things(p.SESSION):
                if thing.screen is screen:
                    self._constrain(thing)
            self.describe(screen)

    def add(self, screen: Screen) -> None:
        """Let there be one output more."""
        with self.lock:
            self.screens.append(screen)
            self._number(screen)
            for thing in self.things(w.REGISTRY):
                self.tell(thing, "global", screen.number, "wl_output", 4)

    def remove(self, screen: Screen) -> None:
        """Let an output go."""
        with self.lock:
            self.screens.remove(screen)
            del self._globals[screen.number]
            for thing in self.things(w.REGISTRY):
                self.tell(thing, "global_remove", screen.number)

    def _number(self, screen: Screen) -> None:
        screen.number = max(self._globals, default=0) + 1
        self._globals[screen.number] = ("wl_output", 4)

    # What the client asks.

    def _run(self) -> None:
        while True:
            if self._stop in select.select([self._socket.fileno(), self._stop], [], [])[0]:
                return
            try:
                received = rights.receive(self._socket, 65536, 28)
            except OSError:
                return
            if not received.data:
                return
            with self.lock:
                self._fds += received.fds
                if self.is_frozen:
                    continue
                self._rest += received.data
                self._take()

    def _take(self) -> None:
        while len(self._rest) >= 8:
            number, word = struct.unpack_from("=II", self._rest)
            size, opcode = word >> 16, word & 0xFFFF
            if len(self._rest) < size:
                return
            body, self._rest = self._rest[8:size], self._rest[size:]
            thing = self._things[number]
            name, (_, message) = list(thing.interface.requests.items())[opcode]
            parser = Message("x " + message.types.replace("h", ""))
            arguments = list(parser.parse(body))
            self.requests.append(name)
            if self.before(thing, name, arguments):
                self._do(thing, name, arguments)
            if message.is_last:
                del self._things[number]
                self.tell(self._things[1], "delete_id", number)

    def _do(self, thing: Thing, name: str, arguments: list[Any]) -> None:
        made = None
        if name == "bind":
            interface = _INTERFACES[arguments[1]]
            made = self._things[arguments[3]] = Thing(arguments[3], interface)
            made.data = arguments[0]
            handler = getattr(self, f"_bind_{interface.name}", None)
            if handler:
                handler(made)
            return
        kind = _MADE.get((thing.interface.name, name))
        if kind:
            made = self._things[arguments[0]] = Thing(arguments[0], kind)
        handler = getattr(self, f"_on_{name}", None)
        if handler:
            handler(thing, made, *arguments[1 if made else 0 :])

    def _bind_wl_shm(self, thing: Thing) -> None:
        self.tell(thing, "format", XRGB8888)

    def _bind_wl_seat(self, thing: Thing) -> None:
        self.tell(thing, "capabilities", int(self.has_pointer))

    def _bind_wl_output(self, thing: Thing) -> None:
        thing.screen = next(each for each in self.screens if each.number == thing.data)
        self._describe(thing, thing.screen)

    def _describe(self, thing: Thing, screen: Screen) -> None:
        self.tell(thing, "geometry", 0, 0, 0, 0, 0, "made", "up", screen.transform)
        self.tell(thing, "mode", 1, *screen.size, 60000)
        self.tell(thing, "mode", 0, 7777, 7777, 60000)
        self.tell(thing, "scale", 1)
        self.tell(thing, "name", screen.name)
        self.tell(thing, "done")

    def _place(self, thing: Thing, screen: Screen) -> None:
        width, height = screen.size[:: -1 if screen.transform % 2 else 1]
        self.tell(thing, "logical_position", *screen.place)
        self.tell(thing, "logical_size", round(width / screen.scale), round(height / screen.scale))
        self.tell(thing, "done")

    def _on_sync(self, _thing: Thing, made: Thing) -> None:
        self.tell(made, "done", 0)
        del self._things[made.number]
        self.tell(self._things[1], "delete_id", made.number)

    def _on_get_registry(self, _thing: Thing, made: Thing) -> None:
        for number, (name, version) in self._globals.items():
            self.tell(made, "global", number, name, version)

    def _on_get_xdg_output(self, _thing: Thing, made: Thing, output: int) -> None:
        made.screen = self._things[output].screen
        assert made.screen
        self._place(made, made.screen)

    def _on_get_output_power(self, _thing: Thing, made: Thing, output: int) -> None:
        made.screen = self._things[output].screen
        assert made.screen
        self.tell(made, "mode", int(made.screen.is_powered))

    def _on_create_pool(self, _thing: Thing, made: Thing, size: int) -> None:
        fd = self._fds.pop(0)
        made.data = mmap.mmap(fd, size)
        os.close(fd)

    def _on_create_buffer(self, thing: Thing, made: Thing, *arguments: int) -> None:
        offset, width, height, stride, form = arguments
        assert offset == 0
        made.data = (thing.data, (width, height), stride, form)

    def _on_capture_output(self, _thing: Thing, made: Thing, cursor: int, output: int) -> None:
        made.screen = self._things[output].screen
        assert cursor == 1
        screen = made.screen
        if screen is None or screen not in self.screens or not screen.is_powered:
            self.tell(made, "failed")
            return
        self.tell(made, "buffer", screen.form, *screen.size, screen.stride)
        self.tell(made, "linux_dmabuf", screen.form, *screen.size)
        self.tell(made, "buffer_done")

    def _on_copy(self, thing: Thing, _made: None, buffer: int) -> None:
        thing.buffer = self._things[buffer]
        self._copied(thing, None)

    def _on_copy_with_damage(self, thing: Thing, _made: None, buffer: int) -> None:
        thing.buffer = self._things[buffer]
        thing.is_waiting = True
        assert thing.screen
        self._serve(thing.screen)

    def _copied(self, thing: Thing, damage: Box | None) -> None:
        screen, buffer = thing.screen, thing.buffer
        assert screen
        assert buffer
        if buffer.data[1] != screen.size:
            self.tell(thing, "failed")
            return
        _write(screen, buffer, screen.whole)
        self.tell(thing, "flags", int(screen.is_flipped))
        if damage:
            left, top, right, bottom = damage
            self.tell(thing, "damage", left, top, right - left, bottom - top)
        self.tell(thing, "ready", 0, 0, 0)

    def _on_create_source(self, _thing: Thing, made: Thing, output: int) -> None:
        made.screen = self._things[output].screen

    def _on_create_session(self, _thing: Thing, made: Thing, source: int, options: int) -> None:
        made.screen, made.data = self._things[source].screen, options
        self._constrain(made)

    def _constrain(self, thing: Thing) -> None:
        screen = thing.screen
        if screen is None:
            return
        self.tell(thing, "dmabuf_device", b"\0" * 8)
        self.tell(thing, "dmabuf_format", XRGB8888, b"\0" * 8)
        self.tell(thing, "shm_format", 0x30335258)  # XR30
        self.tell(thing, "shm_format", screen.form)
        self.tell(thing, "buffer_size", *screen.size)
        self.tell(thing, "done")

    def _on_create_frame(self, thing: Thing, made: Thing) -> None:
        before = thing.frame
        assert before is None or self._things.get(before.number) is not before, "duplicate_frame"
        thing.frame, made.session, made.screen = made, thing, thing.screen

    def _on_attach_buffer(self, thing: Thing, _made: None, buffer: int) -> None:
        thing.buffer = self._things[buffer]

    def _on_damage_buffer(self, thing: Thing, _made: None, *box: int) -> None:
        left, top, width, height = box
        thing.stale = _joined(thing.stale, (left, top, left + width, top + height))

    def _on_capture(self, thing: Thing, _made: None) -> None:
        thing.is_waiting = True
        if thing.screen:
            self._serve(thing.screen)

    def _serve(self, screen: Screen) -> None:
        """Give what is new to whoever waits for it."""
        if not screen.is_powered:
            return
        for thing in self.things(p.SCREENCOPY_FRAME):
            if thing.screen is screen and thing.is_waiting and screen.damage:
                thing.is_waiting = False
                self._copied(thing, screen.damage)
                screen.damage = None
        for thing in self.things(p.FRAME):
            session = thing.session
            assert session
            if thing.screen is not screen or not thing.is_waiting:
                continue
            damage = screen.whole if session.is_first else screen.damage
            if damage:
                thing.is_waiting = session.is_first = False
                self._captured(thing, damage)
                screen.damage = None

    def _captured(self, thing: Thing, damage: Box) -> None:
        screen, buffer = thing.screen, thing.buffer
        assert screen
        assert buffer
        if buffer.data[1] != screen.size:
            self.tell(thing, "failed", 1)
            return
        _write(screen, buffer, _joined(thing.stale, damage))
        left, top, right, bottom = damage
        self.tell(thing, "transform", screen.transform)
        # In two pieces, as a region may be told.
        middle = (top + bottom) // 2
        for first, end in ((top, middle), (middle, bottom)):
            if first < end:
                self.tell(thing, "damage", left, first, right - left, end - first)
        self.tell(thing, "presentation_time", 0, 0, 0)
        self.tell(thing, "ready")


def _joined(one: Box | None, other: Box) -> Box:
    if one is None:
        return other
    return (
        min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])
    )  # fmt: skip


def _write(screen: Screen, buffer: Thing, box: Box) -> None:
    """Write a part of an output's pixels."""
    memory, size, stride, form = buffer.data
    assert size == screen.size
    assert form == screen.form
    left, top, right, bottom = box
    layout = {XRGB8888: "BGRX", ARGB8888: "BGRX"}.get(form, "RGBX")
    image = screen.pixels
    if screen.is_flipped:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        left, top, right, bottom = screen.whole
    part = image.crop((left, top, right, bottom)).tobytes("raw", layout)
    row = 4 * (right - left)
    for number, y in enumerate(range(top, bottom)):
        begin = y * stride + 4 * left
        memory[begin : begin + row] = part[number * row : (number + 1) * row]
