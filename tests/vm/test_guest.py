"""The guest itself: what every other test here takes for granted."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm.channel import CommandFailedError, GuestGoneError, GuestTimeoutError, NotStartedError
from tests.vm.guest import PROJECT, STREAM_PORT, Guest
from tests.vm.sessions import x_session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.image import Image


def test_boots_without_a_failed_unit(guest: Guest) -> None:
    assert guest.wait_booted() == "running", guest.run(["systemctl", "--failed"]).stdout


def test_has_the_stream_port(guest: Guest) -> None:
    guest.run(["test", "-c", f"/dev/virtio-ports/{STREAM_PORT}"])


def test_has_a_graphics_card(guest: Guest) -> None:
    guest.run(["test", "-c", "/dev/dri/card0"])


def test_logind_has_a_graphical_seat(guest: Guest) -> None:
    # Soon, not at once: logind hears of the card from udev.
    query = "loginctl show-seat seat0 --property=CanGraphical"
    guest.wait_for(["sh", "-c", f"{query} | grep -qx CanGraphical=yes"])


@pytest.mark.parametrize("package", ["Xlib", "PIL", "dbus_fast", "systemd.journal", "sysv_ipc"])
def test_python_has(guest: Guest, package: str) -> None:
    guest.run(["python3", "-c", f"import {package}"])


def test_a_command_gives_its_status_and_both_outputs(guest: Guest) -> None:
    done = guest.run(["sh", "-c", "echo out; echo err >&2; exit 3"], check=False)
    assert (done.status, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_a_command_that_fails_is_told(guest: Guest) -> None:
    with pytest.raises(CommandFailedError, match=r"(?s)status 3.*because"):
        guest.run(["sh", "-c", "echo because >&2; exit 3"])


def test_a_command_that_does_not_exist_is_told(guest: Guest) -> None:
    with pytest.raises(NotStartedError, match="No such file"):
        guest.run(["/no/such/command"])


def test_a_user_that_does_not_exist_is_told(guest: Guest) -> None:
    with pytest.raises(NotStartedError, match="nobody-here"):
        guest.run(["true"], user="nobody-here")


def test_a_command_runs_as_a_user_at_home(guest: Guest) -> None:
    done = guest.run(["sh", "-c", "id -un; pwd; echo $HOME $EXTRA"], user="bob", env={"EXTRA": "x"})
    assert done.stdout == "bob\n/home/bob\n/home/bob x\n"


def test_a_slow_command_is_killed_at_the_time_out(guest: Guest) -> None:
    with pytest.raises(GuestTimeoutError, match="sleep"):
        guest.run(["sleep", "987654"], timeout=0.2)
    guest.wait_for(["sh", "-c", "! pgrep -x sleep -a | grep 987654"])


def test_commands_run_side_by_side(guest: Guest) -> None:
    # Each waits for the other.
    there = guest.spawn(["sh", "-c", "mkfifo /run/meet; cat /run/meet; rm /run/meet"])
    guest.wait_for_path("/run/meet")
    guest.run(["sh", "-c", "echo met > /run/meet"])
    assert there.wait().stdout == "met\n"


def test_a_spawned_command_is_heard_while_it_runs_and_killed(guest: Guest) -> None:
    process = guest.spawn(["sh", "-c", "echo begun; read nothing; exec sleep 1000"])
    assert process.wait_for_output("begun") == "begun\n"
    assert process.maybe_status is None
    process.kill(signal.SIGTERM)
    assert process.wait().status == -signal.SIGTERM


def test_input_and_output_of_a_mebibyte_arrive_whole(guest: Guest) -> None:
    data = bytes(range(256)) * 4096
    guest.push("/run/test/data", data, mode=0o600, user="alice")
    assert guest.read("/run/test/data") == data
    assert guest.run(["stat", "-c", "%a %U", "/run/test/data"]).stdout == "600 alice\n"


def test_the_project_is_there(guest: Guest) -> None:
    guest.run(["python3", "-c", "import sessiond"], cwd=PROJECT, user="alice")
    assert guest.run(["stat", "-c", "%U", f"{PROJECT}/sessiond"]).stdout == "root\n"


@pytest.fixture
def painted_vt(guest: Guest) -> Iterator[int]:
    """VT 7 for an X server; VT 1 is in front again afterwards."""
    yield 7
    guest.run(["chvt", "1"])


def test_root_runs_xorg_on_the_card(guest: Guest, painted_vt: int) -> None:
    xorg = guest.spawn(["Xorg", ":0", f"vt{painted_vt}", "-noreset", "-nolisten", "tcp"])
    guest.wait_for(["xdpyinfo", "-display", ":0"])
    log = guest.read("/var/log/Xorg.0.log").decode()
    xorg.kill()
    xorg.wait()
    assert "modeset(0): using drv /dev/dri/card0" in log


def test_alice_runs_xorg_in_a_session_and_it_is_seen(guest: Guest, painted_vt: int) -> None:
    with x_session(guest, "alice", display=1, vt=painted_vt):
        guest.run(["xsetroot", "-display", ":1", "-solid", "#3070b0"], user="alice")
        guest.run(["xset", "-display", ":1", "q"], user="alice")  # a round trip: it is drawn
        query = ["loginctl", "show-seat", "seat0", "--value", "--property=ActiveSession"]
        active = guest.run(query).stdout.strip()
        user = guest.run(["loginctl", "show-session", active, "--property=Name"])
        picture = guest.screenshot()
    assert picture.convert("RGB").getpixel((5, 5)) == (0x30, 0x70, 0xB0)
    assert user.stdout == "Name=alice\n"
    guest.run(["sh", "-c", "! pgrep -x Xorg"])  # nothing for the next test to trip over


def test_nothing_is_written_to_the_image_or_left_running(
    guest_image: Image, tmp_path: Path
) -> None:
    before = guest_image.root.stat().st_mtime_ns
    with Guest(guest_image, directory=tmp_path) as own:
        own.run(["touch", "/written"])
        own.run(["sync"])
        sleeper = own.spawn(["sleep", "1000"])
        own.qmp("quit")
        with pytest.raises(GuestGoneError, match="QEMU has ended with status 0"):
            sleeper.wait()
    assert guest_image.root.stat().st_mtime_ns == before


# A program that starts a guest, tells QEMU's pid and is then in the middle of the boot.
PARENT = """
import contextlib, sys
from pathlib import Path
from tests.vm.guest import Guest
from tests.vm.image import Image

class Telling(Guest):
    def _start_qemu(self, resources: contextlib.ExitStack) -> None:
        super()._start_qemu(resources)
        self.qmp("query-status")
        print(self.pid, flush=True)

with Telling(Image(sys.argv[1], Path(sys.argv[2])), directory=Path(sys.argv[3])):
    pass
"""


def test_qemu_dies_with_its_parent(guest_image: Image, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", PARENT, guest_image.suite, str(guest_image.directory)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen([*argv, tmp_path], cwd=root, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        qemu = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    ended, _, _ = select.select([qemu], [], [], 10)
    os.close(qemu)
    assert ended
