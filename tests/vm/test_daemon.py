"""The daemon on a real virtio port, in a guest with Debian's own Python packages.

In a guest of its own: it is about who is in front, which other tests must find as they left it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.fixtures.spice import SpiceProbe
from tests.vm.guest import PROJECT, Guest
from tests.vm.sessions import start_x_session
from tests.vm.test_stream import DISPLAY, SLOW, paint, wait_for_colour

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.channel import Process
    from tests.vm.image import Image

pytestmark = pytest.mark.vm

AGENT: Final = ["/usr/bin/env", f"PYTHONPATH={PROJECT}", "python3", "-m", "agent"]
POLICY: Final = "org.spice_space.Sessiond1.conf"
STATUS: Final = (
    *("busctl", "--json=short", "get-property", "org.spice_space.Sessiond1"),
    *("/org/spice_space/Sessiond1", "org.spice_space.Sessiond1.Manager", "Reason"),
)


@pytest.fixture(scope="module")
def guest(guest_image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    with Guest(guest_image, directory=tmp_path_factory.mktemp("daemon")) as own:
        own.push_tree(Path(__file__).resolve().parents[2])
        yield own


@pytest.fixture
def daemon(guest: Guest) -> Iterator[Process]:
    guest.run(["cp", f"{PROJECT}/dbus/{POLICY}", f"/etc/dbus-1/system.d/{POLICY}"])
    guest.run(["systemctl", "reload", "dbus"])
    argv = ["python3", "-m", "sessiond", "--set", f"stream.agent={json.dumps(AGENT)}"]
    process = guest.spawn(argv, cwd=PROJECT)
    process.wait_for_output("is open", stream="stderr", timeout=SLOW)
    yield process
    process.kill()
    assert process.wait(SLOW).status == 0


def test_the_picture_follows_from_a_session_to_a_console_and_back(
    guest: Guest, daemon: Process
) -> None:
    session = start_x_session(guest, "alice", display=DISPLAY, vt=7)
    want = paint(guest, "#205080")
    with SpiceProbe(guest.spice_uri, display=DISPLAY) as probe:
        wait_for_colour(probe, want)
        assert json.loads(guest.run(STATUS, user="bob").stdout)["data"] == "ok"
        mark = probe.now()
        guest.run(["chvt", "2"])
        daemon.wait_for_output("(text-console)", stream="stderr", timeout=SLOW)
        # The placeholder, on a port that nobody closed.
        probe.wait_for("primary-create", SLOW, after=mark, channel=DISPLAY, w=1024, h=768)
        guest.run(["chvt", "7"])
        wait_for_colour(probe, want)
        want = paint(guest, "#802040")
        wait_for_colour(probe, want)
        assert not [e for e in probe.events[mark + 1 :] if e["event"] == "disconnected"]
    session.kill()
    session.wait()
    guest.run(["chvt", "1"])
