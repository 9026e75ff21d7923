"""The agent on a real virtio port, a real Xorg and Debian's own Python packages, in a guest.

With a graphics card in the guest the stream is the client's second display: the card is the first.
"""

import re
import signal
from collections.abc import Iterator
from typing import Final

import pytest
from PIL import Image, ImageStat

from agent.stream.pacing import LONGEST_REST
from tests.fixtures.drawing import psnr
from tests.fixtures.gstreamer import Decoders
from tests.fixtures.spice import SpiceProbe
from tests.vm.channel import Process
from tests.vm.guest import PROJECT, Guest
from tests.vm.sessions import x_session

pytestmark = pytest.mark.vm

PORT: Final = "/dev/virtio-ports/org.spice-space.stream.0"
DISPLAY: Final = 1
SLOW: Final = 60.0  # seconds; the guest is emulated


@pytest.fixture(scope="module")
def screen(guest: Guest) -> Iterator[Guest]:
    """The guest with alice's Xorg in front, and the port hers to open."""
    with x_session(guest, "alice", display=DISPLAY, vt=7):
        guest.run(["chown", "--dereference", "alice", PORT])
        yield guest
    guest.run(["chown", "--dereference", "root", PORT])
    guest.run(["chvt", "1"])


@pytest.fixture
def agent(screen: Guest) -> Iterator[Process]:
    """The agent as alice; it has opened port and display."""
    process = start_agent(screen)
    yield process
    process.kill(signal.SIGTERM)
    assert process.wait().status == 0


def start_agent(guest: Guest, *options: str) -> Process:
    argv = ["python3", "-m", "agent", "stream", "--display", f":{DISPLAY}", "-c", "quality=90"]
    argv += options
    process = guest.spawn(argv, user="alice", cwd=PROJECT)
    process.wait_for_output("waiting for the host", stream="stderr", timeout=SLOW)
    return process


def paint(guest: Guest, colour: str) -> tuple[int, int, int]:
    """Fill the screen; return the colour as the X server has it, once it is drawn."""
    display = f":{DISPLAY}"
    guest.run(["xsetroot", "-display", display, "-solid", colour], user="alice")
    guest.run(["xset", "-display", display, "q"], user="alice")  # a round trip: it is drawn
    value = int(colour.removeprefix("#"), 16)
    return value >> 16, value >> 8 & 255, value & 255


def wait_for_colour(probe: SpiceProbe, colour: tuple[int, int, int]) -> Image.Image:
    """Return the client's picture once all of it is nearly this colour."""
    while True:
        probe.wait_for("invalidate", SLOW, channel=DISPLAY)
        picture = probe.shot()
        extremes = picture.getextrema()
        assert isinstance(extremes, tuple)
        if all(
            isinstance(band, tuple) and abs(band[0] - want) < 8 and abs(band[1] - want) < 8
            for band, want in zip(extremes, colour, strict=True)
        ):
            return picture


@pytest.mark.usefixtures("agent")
def test_a_client_outside_sees_the_guests_screen(screen: Guest) -> None:
    want = paint(screen, "#3070b0")
    with SpiceProbe(screen.spice_uri, display=DISPLAY) as probe:
        assert wait_for_colour(probe, want).size == screen.screenshot().size
        for colour in ("#b03070", "#204020", "#e0e0d0"):
            want = paint(screen, colour)
            wait_for_colour(probe, want)
        terminal = screen.spawn(
            ["xterm", "-display", f":{DISPLAY}", "-geometry", "80x24+100+100"], user="alice"
        )
        screen.wait_for(["sh", "-c", f"xwininfo -display :{DISPLAY} -root -tree | grep -q XTerm"])
        # The card's own picture is the reference, once the terminal has drawn itself.
        while True:
            probe.wait_for("invalidate", SLOW, channel=DISPLAY)
            reference = screen.screenshot().convert("RGB")
            is_drawn = min(ImageStat.Stat(reference).stddev) > 5
            if is_drawn and psnr(probe.shot(), reference) >= 35:
                break
        terminal.kill()


def test_a_video_codec_shows_it_too(screen: Guest) -> None:
    agent = start_agent(screen, "--codec", "vp8")
    with SpiceProbe(screen.spice_uri, display=DISPLAY, decoders=Decoders.VPX) as probe:
        for colour in ("#3070b0", "#b03070", "#e0e0d0"):
            wait_for_colour(probe, paint(screen, colour))
        assert probe.complaints == []
    agent.wait_for_output("streaming as vp8", stream="stderr", timeout=SLOW)
    agent.kill(signal.SIGTERM)
    assert agent.wait().status == 0


def test_the_host_is_told_which_output_it_is(screen: Guest) -> None:
    script = (
        "from agent.capture import find_backend; from agent.stream.drm import display_info;"
        f"print(display_info(find_backend('x11')(':{DISPLAY}').outputs()))"
    )
    told = screen.run(["python3", "-c", script], user="alice", cwd=PROJECT).stdout
    card = screen.run(["readlink", "-f", "/sys/class/drm/card0"]).stdout
    slot = re.search(r"/0000:00:([0-9a-f]{2}\.[0-9a-f])/", card)
    assert slot
    assert f"stream_id=0, device_display_id=0, address='pci/0000/{slot[1]}'" in told


def test_a_server_off_its_vt_is_not_shown_and_comes_back(screen: Guest, agent: Process) -> None:
    want = paint(screen, "#406080")
    with SpiceProbe(screen.spice_uri, display=DISPLAY) as probe:
        wait_for_colour(probe, want)
        screen.run(["chvt", "1"])
        agent.wait_for_output("not on the active virtual terminal", stream="stderr", timeout=SLOW)
        screen.run(["chvt", "7"])
        agent.wait_for_output("capturing again", stream="stderr", timeout=SLOW)
        wait_for_colour(probe, want)  # and not black


def test_a_busy_port_is_named_in_one_line(screen: Guest, agent: Process) -> None:
    assert agent.maybe_status is None
    argv = ["python3", "-m", "agent", "stream", "--display", f":{DISPLAY}"]
    second = screen.run(argv, user="alice", cwd=PROJECT, check=False, timeout=SLOW)
    assert second.status == 1
    assert (
        second.stderr == f"spice-session-agent: port {PORT} is busy: another program has it open\n"
    )


def test_a_client_that_comes_back_sees_the_picture_again(screen: Guest, agent: Process) -> None:
    want = paint(screen, "#705030")
    for _ in range(3):
        with SpiceProbe(screen.spice_uri, display=DISPLAY) as probe:
            wait_for_colour(probe, want)
        agent.wait_for_output("stopped: ", stream="stderr", timeout=SLOW)


def test_an_idle_guest_sends_nothing(screen: Guest, agent: Process) -> None:
    want = paint(screen, "#508050")
    with SpiceProbe(screen.spice_uri, display=DISPLAY) as probe:
        wait_for_colour(probe, want)
        # Beyond that no picture is sent again.
        probe.wait_silence("invalidate", LONGEST_REST + 1, channel=DISPLAY)
        with pytest.raises(TimeoutError):
            probe.wait_for("invalidate", 5.0, after=probe.now(), channel=DISPLAY)
        assert agent.maybe_status is None
