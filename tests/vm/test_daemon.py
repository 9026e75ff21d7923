"""The daemon on a real virtio port, in a guest with Debian's own Python packages.

In a guest of its own: it is about who is in front, which other tests must find as they left it.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.fixtures.spice import SpiceProbe
from tests.vm.guest import PROJECT, Guest
from tests.vm.sessions import x_session
from tests.vm.test_stream import DISPLAY, PORT, SLOW, paint, wait_for_colour

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.channel import Process
    from tests.vm.image import Image

pytestmark = pytest.mark.vm

AGENT: Final = ["/usr/bin/env", f"PYTHONPATH={PROJECT}", "python3", "-m", "agent"]
DAEMON: Final = ("python3", "-m", "sessiond", "--set", f"stream.agent={json.dumps(AGENT)}")
POLICY: Final = "org.spice_space.Sessiond1.conf"
UNIT: Final = "sessiond-test.service"
HAS_HELPER: Final = ["pgrep", "--full", "[m] sessiond.kms"]  # not what asks
# The screen full of noise, another one each time: frames of 2 MB at quality 100.
NOISE: Final = f"""
import random
from PIL import Image
from tests.fixtures.drawing import Canvas

with Canvas(":{DISPLAY}") as canvas:
    width, height = canvas.size
    noise = [
        Image.frombytes("RGB", (width, height), random.randbytes(3 * width * height))
        for _ in range(2)
    ]
    while True:
        canvas.show(noise[0])
        noise.reverse()
        print("drawn", flush=True)
"""


@pytest.fixture(scope="module")
def guest(guest_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with Guest(guest_image, directory=tmp_path_factory.mktemp("daemon")) as own:
        own.push_tree(Path(__file__).resolve().parents[2])
        own.run(["cp", f"{PROJECT}/dbus/{POLICY}", f"/etc/dbus-1/system.d/{POLICY}"])
        own.run(["systemctl", "reload", "dbus"])
        yield own


@pytest.fixture
def screen(guest: Guest) -> Iterator[Guest]:
    """The guest with alice's Xorg in front."""
    with x_session(guest, "alice", display=DISPLAY, vt=7):
        yield guest
    guest.run(["chvt", "1"])


@pytest.fixture
def daemon(guest: Guest) -> Iterator[Process]:
    with running_daemon(guest) as process:
        process.wait_for_output("is open", stream="stderr", timeout=SLOW)
        yield process


@pytest.fixture
def journal(guest: Guest) -> Iterator[Process]:
    """What the daemon says as a service, over its restarts; systemd keeps its descriptors."""
    # Frames so large that the host's buffers and the port's are full after a few.
    options = ("--set", 'stream.codec_options=["quality=100"]')
    properties = ("Type=notify", "FileDescriptorStoreMax=8", f"WorkingDirectory={PROJECT}")
    guest.run(
        [
            *("systemd-run", "--quiet", "--collect", f"--unit={UNIT}"),
            *(f"--property={each}" for each in properties),
            *(*DAEMON, *options),
        ],
        timeout=SLOW,
    )
    follow = ["journalctl", "--follow", "--lines=all", "--output=cat"]
    said = guest.spawn([*follow, "SYSLOG_IDENTIFIER=spice-sessiond"])
    yield said
    guest.run(["systemctl", "stop", UNIT], timeout=SLOW)
    said.kill()
    print(said.wait().describe())


@pytest.fixture
def holder(guest: Guest) -> Iterator[Process]:
    """Somebody else who has the port open, and tells their pid."""
    process = guest.spawn(["sh", "-c", f"exec 3<>{PORT}; echo $$; exec sleep 600"])
    process.wait_for_output("\n")
    yield process
    process.kill()
    process.wait()


@contextlib.contextmanager
def running_daemon(guest: Guest) -> Iterator[Process]:
    process = guest.spawn(DAEMON, cwd=PROJECT)
    try:
        process.wait_for_output("on the bus as", stream="stderr", timeout=SLOW)
        yield process
    finally:
        process.kill()
        ended = process.wait(SLOW)
        print(ended.describe())  # shown with a test that failed
    assert ended.status == 0


def wait_for_black(probe: SpiceProbe) -> None:
    """Wait until the client's picture is a console's, nearly all of it black."""
    while True:
        probe.wait_for("invalidate", SLOW, channel=DISPLAY)
        picture = probe.shot().convert("L")
        if sum(picture.histogram()[:16]) > 0.9 * picture.width * picture.height:
            return


def status(guest: Guest, name: str) -> object:
    done = guest.run(
        [
            *("busctl", "--json=short", "get-property", "org.spice_space.Sessiond1"),
            *("/org/spice_space/Sessiond1", "org.spice_space.Sessiond1.Manager", name),
        ],
        user="bob",  # reading is everybody's
    )
    return json.loads(done.stdout)["data"]


def test_the_picture_follows_from_a_session_to_a_console_and_back(
    screen: Guest, daemon: Process
) -> None:
    want = paint(screen, "#205080")
    with SpiceProbe(screen.spice_uri, display=DISPLAY) as probe:
        wait_for_colour(probe, want)
        assert status(screen, "Reason") == "ok"
        mark = probe.now()
        screen.run(["chvt", "2"])
        # By a helper that is its child, and ends with its purpose; on a port that nobody closed.
        daemon.wait_for_output("tty2 shows", stream="stderr", timeout=SLOW)
        screen.wait_for(HAS_HELPER)
        wait_for_black(probe)
        screen.run(["chvt", "7"])
        wait_for_colour(probe, want)
        screen.wait_for(["sh", "-c", f"! {shlex.join(HAS_HELPER)}"])
        want = paint(screen, "#802040")
        wait_for_colour(probe, want)
        assert not [e for e in probe.events[mark + 1 :] if e["event"] == "disconnected"]


def test_a_busy_port_is_told_with_its_holder_and_taken_when_it_is_free(
    screen: Guest, holder: Process
) -> None:
    pid = int(holder.output())
    want = paint(screen, "#308060")
    with (
        SpiceProbe(screen.spice_uri, display=DISPLAY) as probe,
        running_daemon(screen) as daemon,
    ):
        daemon.wait_for_output("(port-busy)", stream="stderr", timeout=SLOW)
        assert status(screen, "Reason") == "port-busy"
        assert status(screen, "ReasonText") == (
            f"port {PORT} is busy: another program has it open (process {pid})."
        )
        holder.kill()
        wait_for_colour(probe, want)
        assert status(screen, "Reason") == "ok"


# The last one here: with spice-server 0.15.1 a port that it spoils takes nothing until a reboot.
def test_a_restart_while_the_client_is_frozen_keeps_the_stream(
    screen: Guest, journal: Process
) -> None:
    """The descriptor store holds the port, and the rest of the frame that was begun."""
    want = paint(screen, "#607020")
    with SpiceProbe(screen.spice_uri, display=DISPLAY) as probe:
        wait_for_colour(probe, want)
        noise = screen.spawn(["python3", "-c", NOISE], user="alice", cwd=PROJECT)
        noise.wait_for_output("drawn", timeout=SLOW)
        probe.freeze()
        mark = probe.now()
        journal.wait_for_output("(host-stalled)", timeout=SLOW)
        noise.kill()
        noise.wait()
        screen.run(["systemctl", "restart", UNIT], timeout=SLOW)
        said = journal.wait_for_output("are still owed", timeout=SLOW)
        # The port's queue holds 128 writes of 32 KiB: two such frames and the third one's begin.
        assert re.search(r"was kept; [1-9]\d+ bytes are still owed", said)
        want = paint(screen, "#204090")
        probe.thaw()
        wait_for_colour(probe, want)
        want = paint(screen, "#904020")
        wait_for_colour(probe, want)
        assert status(screen, "Reason") == "ok"
        # A port that was closed meanwhile would have taken the picture's surface with it.
        lost = ("disconnected", "primary-destroy")
        assert not [event for event in probe.events[mark + 1 :] if event["event"] in lost]
