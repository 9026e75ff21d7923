"""The test host and the test client themselves, with a scripted guest that speaks raw bytes.

Nothing of the project is imported: what these tests hold is the ground that the others stand on.
"""

from __future__ import annotations

import errno
import io
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING, Final, Protocol

import pytest
from PIL import Image, ImageChops, ImageStat

from tests.fixtures.gstreamer import Decoders
from tests.fixtures.processes import ChildEndedError, EventTimeoutError, FixtureError
from tests.fixtures.spice import PROGRAMS, SpiceHost, SpiceProbe, SpicyScreenshot, build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.e2e

CAPABILITIES: Final = bytes.fromhex("010001000100000000")
STOP: Final = bytes.fromhex("010004000100000000")
INVALID_TYPE: Final = bytes.fromhex(
    "010005001900000000000000496e76616c6964206d657373616765207479706500"
)
FORMAT_TYPE, DATA_TYPE, START_STOP_TYPE, CURSOR_SET_TYPE, CURSOR_MOVE_TYPE = 2, 3, 4, 6, 7
MJPEG = 1
DEADLINE = 10.0
"""Seconds that a guest waits for the host before the test fails."""


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("<BBHI", 1, 0, kind, len(body)) + body


def stream_format(width: int, height: int) -> bytes:
    return message(FORMAT_TYPE, struct.pack("<IIB3x", width, height, MJPEG))


def jpeg(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90)
    return out.getvalue()


def picture_of(width: int, height: int) -> Image.Image:
    """Make a picture whose corners all differ, so that a flip or a swap of colours shows."""
    ramp = Image.linear_gradient("L").resize((width, height))
    turned = Image.linear_gradient("L").rotate(90).resize((width, height))
    return Image.merge("RGB", (ramp, turned, ImageChops.invert(ramp)))


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean difference of two pictures' samples, of 255."""
    assert one.size == other.size
    assert one.mode == other.mode
    means = ImageStat.Stat(ImageChops.difference(one, other)).mean
    return sum(means) / len(means)


class Guest:
    """The port's opener: a descriptor, without blocking, and nothing else."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read(self, size: int) -> bytes:
        """Read exactly SIZE bytes, or fewer if the host hangs up before."""
        data = b""
        while len(data) < size:
            chunk = self._read_some(size - len(data))
            if not chunk:
                break
            data += chunk
        return data

    def read_message(self) -> tuple[int, bytes]:
        _, _, kind, size = struct.unpack("<BBHI", self.read(8))
        return kind, self.read(size)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._wait(select.POLLOUT)
            view = view[os.write(self.fd, view) :]

    def write_until_full(self, data: bytes) -> int:
        """Write DATA over and over until the transport takes no more; return the bytes it took."""
        taken = 0
        while True:
            try:
                taken += os.write(self.fd, data)
            except BlockingIOError:  # EAGAIN
                return taken

    def wait_writable(self) -> None:
        self._wait(select.POLLOUT)

    def assert_hung_up(self) -> None:
        """Wait for the end of the connection; a pty says EIO where a socket gives no bytes."""
        assert self.read(1) == b""

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _read_some(self, size: int) -> bytes:
        self._wait(select.POLLIN)
        try:
            return os.read(self.fd, size)
        except OSError as error:
            if error.errno not in {errno.EIO, errno.ECONNRESET}:
                raise
            return b""

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self.fd, event)
        if not poll.poll(DEADLINE * 1000):
            pytest.fail(f"the host was silent for {DEADLINE} s")


def open_socket(host: SpiceHost) -> Guest:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(host.socket_path))
        connection.setblocking(False)
        return Guest(connection.detach())


def open_pty(host: SpiceHost) -> Guest:
    return Guest(os.open(host.pty_path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))


class Opener(Protocol):
    """Opens a host's port through one of its transports."""

    def __call__(self) -> Guest: ...


@pytest.fixture
def host() -> Iterator[SpiceHost]:
    with SpiceHost(socket=True, pty=True) as running:
        yield running


@pytest.fixture(params=[open_socket, open_pty], ids=["socket", "pty"])
def open_port(request: pytest.FixtureRequest, host: SpiceHost) -> Iterator[Opener]:
    guests: list[Guest] = []

    def open_it() -> Guest:
        guests.append(request.param(host))
        return guests[-1]

    yield open_it
    for guest in guests:
        guest.close()


@pytest.fixture
def guest(open_port: Opener) -> Guest:
    """Return a guest that has read the CAPABILITIES."""
    opened = open_port()
    assert opened.read(len(CAPABILITIES)) == CAPABILITIES
    return opened


def start(guest: Guest) -> None:
    """Read the START that a client's arrival causes."""
    kind, body = guest.read_message()
    assert kind == START_STOP_TYPE
    assert MJPEG in body[1 : 1 + body[0]]


def show(guest: Guest, probe: SpiceProbe, picture: Image.Image) -> None:
    """Stream one picture, and wait until the client has drawn it."""
    mark = probe.now()
    guest.write(stream_format(*picture.size) + message(DATA_TYPE, jpeg(picture)))
    probe.wait_for("primary-create", after=mark, w=picture.width, h=picture.height)
    probe.wait_for("invalidate", after=mark)


def test_host_greets_the_guest_and_says_nothing_more(host: SpiceHost, guest: Guest) -> None:
    host.wait_to_guest(CAPABILITIES)
    sent = [event for event in host.events if event["event"] == "to-guest"]
    assert [event["hex"] for event in sent] == [CAPABILITIES.hex()]
    assert select.select([guest.fd], [], [], 0) == ([], [], [])


def test_a_clients_frame_is_the_guests_picture(host: SpiceHost, guest: Guest) -> None:
    picture = picture_of(320, 200)
    with SpiceProbe(host.uri) as probe:
        start(guest)
        show(guest, probe, picture)
        assert difference(probe.shot(), picture) < 4


def test_a_new_format_makes_a_new_surface(host: SpiceHost, guest: Guest) -> None:
    with SpiceProbe(host.uri) as probe:
        start(guest)
        show(guest, probe, picture_of(320, 200))
        mark = probe.now()
        show(guest, probe, picture_of(200, 320))
        probe.wait_for("primary-destroy", after=mark)
        assert difference(probe.shot(), picture_of(200, 320)) < 4


@pytest.mark.parametrize(
    ("decoders", "codecs"),
    [(Decoders.NONE, {1}), (Decoders.VPX, {1, 2, 4}), (Decoders.ALL, {1, 2, 3, 4, 5})],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_clients_decoders_are_what_the_host_asks_for(
    host: SpiceHost, guest: Guest, decoders: Decoders, codecs: set[int]
) -> None:
    with SpiceProbe(host.uri, decoders=decoders):
        kind, body = guest.read_message()
        assert (kind, set(body[1:])) == (START_STOP_TYPE, codecs)


def test_last_client_leaving_stops_the_stream(host: SpiceHost, guest: Guest) -> None:
    with SpiceProbe(host.uri):
        start(guest)
    assert guest.read(len(STOP)) == STOP
    host.wait_for("client-disconnected", clients=0)


def test_start_follows_capabilities_when_a_client_is_there_first(
    host: SpiceHost, open_port: Opener
) -> None:
    with SpiceProbe(host.uri):
        host.wait_for("client-connected")
        guest = open_port()
        assert guest.read(len(CAPABILITIES)) == CAPABILITIES
        start(guest)


def test_a_bad_message_is_refused_and_the_port_works_again(
    host: SpiceHost, guest: Guest, open_port: Opener
) -> None:
    guest.write(message(99, b"nonsense"))
    assert guest.read(len(INVALID_TYPE)) == INVALID_TYPE
    guest.assert_hung_up()
    host.wait_for("guest-closed", by="host")
    guest.close()

    again = open_port()
    assert again.read(len(CAPABILITIES)) == CAPABILITIES
    with SpiceProbe(host.uri) as probe:
        start(again)
        show(again, probe, picture_of(160, 100))


def test_a_guest_that_leaves_frees_the_port(
    host: SpiceHost, guest: Guest, open_port: Opener
) -> None:
    guest.write(message(CURSOR_MOVE_TYPE, struct.pack("<ii", 1, 2))[:11])
    guest.close()
    again = open_port()
    host.wait_for("guest-closed", by="guest")
    assert again.read(len(CAPABILITIES)) == CAPABILITIES
    assert select.select([again.fd], [], [], 0) == ([], [], []), "the half message counted"


def test_the_cursor_reaches_the_client(host: SpiceHost, guest: Guest) -> None:
    # Two pixels 0xAARRGGBB in little-endian: opaque red, half transparent blue.
    pixels = struct.pack("<II", 0xFFFF0000, 0x80000080)
    with SpiceProbe(host.uri) as probe:
        start(guest)
        show(guest, probe, picture_of(64, 64))
        guest.write(
            message(CURSOR_SET_TYPE, struct.pack("<HHHHB3x", 2, 1, 1, 0, 0) + pixels)
            + message(CURSOR_MOVE_TYPE, struct.pack("<ii", -1, 300))
        )
        probe.wait_for("cursor-set", w=2, h=1, hot_x=1, hot_y=0, size=8)
        probe.wait_for("cursor-move", x=-1, y=300)
        cursor = probe.cursor()
        assert cursor.getpixel((0, 0)) == (255, 0, 0, 255)
        assert cursor.getpixel((1, 0)) == (0, 0, 128, 128)


def test_a_frozen_host_stalls_the_guest_until_it_thaws(host: SpiceHost, guest: Guest) -> None:
    # One frame larger than any buffer, so that it does not matter where the writes are cut.
    head = message(DATA_TYPE, bytes(8 << 20))[:8]
    host.freeze()
    guest.write(head)
    taken = len(head) + guest.write_until_full(bytes(4096))
    assert taken < 8 << 20
    host.thaw()
    guest.wait_writable()
    guest.close()
    closed = host.wait_for("guest-closed", by="guest")
    assert closed["read"] == taken


def test_injected_bytes_reach_the_guest(host: SpiceHost, guest: Guest) -> None:
    assert host.inject(b"\x00\xffgarbage") == 9
    assert guest.read(9) == b"\x00\xffgarbage"


def test_kicking_the_guest_is_a_hang_up(host: SpiceHost, guest: Guest, open_port: Opener) -> None:
    host.kick_guest()
    guest.assert_hung_up()
    assert open_port().read(len(CAPABILITIES)) == CAPABILITIES


@pytest.mark.parametrize("second", [open_socket, open_pty])
def test_a_second_opener_is_refused(
    host: SpiceHost, guest: Guest, second: Callable[[SpiceHost], Guest]
) -> None:
    if second is open_pty and host.wait_for("guest-connected")["transport"] == "pty":
        return  # a pty cannot refuse a second opener
    intruder = second(host)
    intruder.assert_hung_up()
    intruder.close()
    host.wait_for("guest-refused")
    assert host.inject(b"still here") == 10
    assert guest.read(10) == b"still here"


def test_spicy_screenshot_sees_the_picture(host: SpiceHost, guest: Guest) -> None:
    picture = picture_of(160, 100)
    with SpicyScreenshot(host.uri) as program:
        start(guest)
        guest.write(stream_format(160, 100) + message(DATA_TYPE, jpeg(picture)))
        assert difference(program.result(), picture) < 4


def test_several_clients_need_multi() -> None:
    with (
        SpiceHost(multi=True) as host,
        SpiceProbe(host.uri),
        SpiceProbe(host.uri) as second,
    ):
        host.wait_for("client-connected", clients=2)
        assert all(event["event"] != "disconnected" for event in second.events)


def test_a_second_client_throws_the_first_out(host: SpiceHost) -> None:
    with SpiceProbe(host.uri) as first, SpiceProbe(host.uri):
        first.wait_for("disconnected")


def test_the_host_cleans_up(host: SpiceHost) -> None:
    assert host.socket_path.is_socket()
    assert host.pty_path.is_symlink()
    host.send("quit")
    assert host.process.wait(DEADLINE) == 0
    assert not host.socket_path.exists()
    assert not host.pty_path.is_symlink()


def test_the_client_tells_that_the_host_is_gone(host: SpiceHost) -> None:
    with SpiceProbe(host.uri) as probe:
        host.close()
        probe.wait_for("disconnected")
        assert probe.process.wait(DEADLINE) == 0


def test_a_stopped_client_goes_on_where_it_was(host: SpiceHost, guest: Guest) -> None:
    with SpiceProbe(host.uri) as probe:
        start(guest)
        probe.freeze()
        guest.write(stream_format(64, 48))
        probe.thaw()
        probe.wait_for("primary-create", w=64, h=48)


def test_the_client_fails_in_one_line_without_a_host(host: SpiceHost) -> None:
    uri = host.uri
    host.close()
    with pytest.raises(ChildEndedError, match=r"exit status 1[^$]*cannot connect to spice://"):
        SpiceProbe(uri)


def test_a_shot_needs_a_surface(host: SpiceHost) -> None:
    with SpiceProbe(host.uri) as probe, pytest.raises(FixtureError, match="no primary surface"):
        probe.shot()


def test_waiting_ends_at_its_deadline_and_finds_no_event_twice(host: SpiceHost) -> None:
    host.freeze()
    with pytest.raises(EventTimeoutError, match="no 'ready' within 0"):
        host.wait_for("ready", timeout=0)
    assert host.wait_for("frozen")["arrived"] <= time.monotonic()
    assert host.wait_for("ready", after=-1)["spice_port"] == host.port


def test_the_programs_are_built_once() -> None:
    made = build()
    times = [(made / program).stat().st_mtime_ns for program in PROGRAMS]
    assert build() == made
    assert [(made / program).stat().st_mtime_ns for program in PROGRAMS] == times
