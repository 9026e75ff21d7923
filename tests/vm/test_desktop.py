"""One package, a display manager, and somebody who looks on from outside: the whole story.

The tests are its chapters, in this order, in one guest: each begins where the one before ended.
What the client saw is in build/vm/desktop/.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final

import pytest

from tests.vm.desktop import SLOW, Desktop, install
from tests.vm.guest import STREAM_PORT
from tests.vm.image import COLOURS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.vm.guest import Guest

pytestmark = pytest.mark.vm

SERVICE: Final = "spice-sessiond.service"
RULE: Final = "/usr/lib/udev/rules.d/60-spice-sessiond.rules"
DROP_IN: Final = "/etc/spice-sessiond/config.toml.d/close.toml"
NO_KMS: Final = b'[capture]\nkms = "off"\n'


@pytest.fixture(scope="module")
def desktop(desktop_guest: Guest, pictures: Path) -> Iterator[Desktop]:
    with Desktop(desktop_guest, pictures) as desktop:
        yield desktop


def port_is_open(desktop: Desktop) -> bool:
    """Whether the daemon has the stream port open."""
    port = desktop.guest.run(["readlink", "-f", f"/dev/virtio-ports/{STREAM_PORT}"]).stdout
    folder = f"/proc/{desktop.main_pid(SERVICE)}/fd"
    opened = desktop.guest.run(["find", folder, "-printf", "%l\\n"]).stdout
    return port.strip() in opened.splitlines()


def losses(desktop: Desktop, mark: int) -> list[str]:
    """What a client would have noticed since: a port that was closed, and be it for a moment."""
    lost = {"disconnected", "primary-destroy"}
    return [e["event"] for e in desktop.client.events[mark + 1 :] if e["event"] in lost]


def front_class(desktop: Desktop) -> str:
    """Return logind's class of the session that the daemon says is in front."""
    active = desktop.status("ActiveSession")
    assert isinstance(active, list)
    shown = desktop.guest.run(["loginctl", "show-session", "-P", "Class", active[0]])
    return shown.stdout.strip()


def test_the_package_installs_and_runs_with_nothing_to_configure(
    desktop: Desktop, package: Path
) -> None:
    guest = desktop.guest
    install(guest, package)
    desktop.connect()
    desktop.see_text("no-session-yet")
    assert desktop.wait_for_status("streaming", "ok") == "VT 1 is shown."


def test_udev_takes_the_rule_and_the_port_is_roots(desktop: Desktop) -> None:
    guest = desktop.guest
    guest.run(["udevadm", "verify", RULE])
    port = f"/dev/virtio-ports/{STREAM_PORT}"
    mode = guest.run(["stat", "--dereference", "--format=%a %U %G", port])
    assert mode.stdout == "600 root root\n"


def test_the_greeter_is_seen(desktop: Desktop) -> None:
    desktop.guest.run(["systemctl", "start", "graphical.target"], timeout=SLOW)
    desktop.see(COLOURS["greeter"], "greeter")
    desktop.wait_for_status("streaming", "ok")
    assert front_class(desktop) == "greeter"


def test_after_the_login_the_users_desktop(desktop: Desktop) -> None:
    desktop.log_in("alice")
    desktop.see(COLOURS["alice"], "alice")
    assert desktop.wait_for_status("streaming", "ok").startswith("Session ")
    assert desktop.status("ActiveSession") == desktop.path_of(desktop.session_of("alice"))


def test_the_desktop_has_started_the_users_agent(desktop: Desktop) -> None:
    desktop.wait_until(lambda: "alice" in desktop.agents())
    # Its fork server and who keeps that are forks of it, of the same words.
    started = ["pgrep", "--oldest", "--uid", "alice", "--full", "spice-session-agent user"]
    assert int(desktop.guest.run(started).stdout) == desktop.agents()["alice"]


def test_it_lives_beside_spices_other_agent(desktop: Desktop) -> None:
    # The desktop's session starts it, and it the daemon of its own.
    desktop.guest.wait_for(["systemctl", "is-active", "spice-vdagentd.service"], timeout=SLOW)
    desktop.guest.run(["pgrep", "--uid", "alice", "--exact", "spice-vdagent"])
    desktop.guest.run(["systemctl", "is-active", SERVICE])
    desktop.see(COLOURS["alice"], "beside-vdagent")


def test_a_text_console_is_seen_or_told(desktop: Desktop) -> None:
    guest = desktop.guest
    guest.run(["chvt", "3"])
    desktop.wait_for_text(3, "login:")
    desktop.see_text("text-console")
    assert desktop.wait_for_status("streaming", "ok") == "VT 3 is shown."
    guest.push(DROP_IN, NO_KMS)
    guest.run(["systemctl", "reload", SERVICE])
    text = desktop.wait_for_status("no-session", "text-console")
    assert text.startswith("VT 3 is in front")
    desktop.see_sentence(text, "text-console-told")


def test_with_nothing_to_show_and_nobody_looking_the_port_can_be_closed(desktop: Desktop) -> None:
    guest = desktop.guest
    assert port_is_open(desktop)
    guest.push(DROP_IN, NO_KMS + b'[stream]\nwhen_idle = "close"\n')
    guest.run(["systemctl", "reload", SERVICE])
    assert port_is_open(desktop)  # a client is looking
    desktop.disconnect()
    desktop.wait_until(lambda: not port_is_open(desktop))
    desktop.wait_for_status("no-session", "text-console")
    assert desktop.status("HostAsking") is False
    guest.run(["rm", DROP_IN])
    guest.run(["systemctl", "reload", SERVICE])
    guest.run(["chvt", "7"])
    desktop.connect()
    desktop.see(COLOURS["alice"], "back-from-the-console")
    desktop.wait_for_status("streaming", "ok")


def test_another_user_may_come_to_the_seat(desktop: Desktop) -> None:
    seat = {"XDG_SEAT_PATH": "/org/freedesktop/DisplayManager/Seat0"}
    desktop.guest.run(["dm-tool", "switch-to-greeter"], user="alice", env=seat)
    desktop.see(COLOURS["greeter"], "second-greeter")
    desktop.wait_for_status("streaming", "ok")
    assert front_class(desktop) == "greeter"
    desktop.log_in("bob")
    desktop.see(COLOURS["bob"], "bob")
    desktop.wait_for_status("streaming", "ok")


def test_and_the_first_one_comes_back(desktop: Desktop) -> None:
    session = desktop.session_of("alice")
    desktop.guest.run(["spice-sessionctl", "activate", session], timeout=SLOW)
    desktop.see(COLOURS["alice"], "alice-again")
    desktop.wait_for_status("streaming", "ok")
    assert desktop.status("ActiveSession") == desktop.path_of(session)


def test_an_agent_that_is_killed_is_replaced(desktop: Desktop) -> None:
    pid = desktop.status("AgentPID")
    desktop.guest.run(["kill", "-KILL", str(pid)])
    desktop.wait_until(lambda: desktop.status("AgentPID") not in {0, pid})
    desktop.paint("alice", ":0", "#407020")
    desktop.see("#407020", "after-the-agents-death")
    desktop.wait_for_status("streaming", "ok")


def test_a_restart_of_the_daemon_is_not_seen(desktop: Desktop) -> None:
    mark = desktop.client.now()
    desktop.guest.run(["systemctl", "restart", SERVICE], timeout=SLOW)
    desktop.paint("alice", ":0", "#704060")
    desktop.see("#704060", "after-a-restart")
    desktop.wait_for_status("streaming", "ok")
    assert not losses(desktop, mark)


def test_nor_is_an_upgrade_of_the_package(desktop: Desktop, package: Path) -> None:
    mark = desktop.client.now()
    before = desktop.main_pid(SERVICE)
    install(desktop.guest, package)
    desktop.paint("alice", ":0", "#205060")
    desktop.see("#205060", "after-an-upgrade")
    desktop.wait_for_status("streaming", "ok")
    assert desktop.main_pid(SERVICE) != before
    assert not losses(desktop, mark)


def test_a_port_that_is_unplugged_is_missed_and_taken_again(desktop: Desktop) -> None:
    desktop.guest.unplug_stream_port()
    assert STREAM_PORT in desktop.wait_for_status("no-port", "port-missing")
    desktop.guest.plug_stream_port()
    desktop.paint("alice", ":0", "#506020")
    desktop.see("#506020", "after-a-re-plug")
    desktop.wait_for_status("streaming", "ok")


def test_after_the_logout_the_greeter(desktop: Desktop) -> None:
    desktop.guest.run(["openbox", "--exit"], user="alice", env={"DISPLAY": ":0"})
    desktop.see(COLOURS["greeter"], "greeter-after-the-logout")
    desktop.wait_for_status("streaming", "ok")
    assert front_class(desktop) == "greeter"
    desktop.wait_until(lambda: "alice" not in desktop.agents())
    assert "bob" in desktop.agents()
    assert not desktop.failed_units()


def test_after_a_reboot_the_picture_is_there_again(desktop: Desktop) -> None:
    guest = desktop.guest
    guest.run(["systemctl", "set-default", "graphical.target"])
    guest.reboot()
    desktop.see(COLOURS["greeter"], "after-a-reboot")
    desktop.wait_for_status("streaming", "ok")
    assert front_class(desktop) == "greeter"
    # Nothing but the port, that was there when udev came, wants it.
    wanted = guest.run(["systemctl", "show", "--property=WantedBy", "--value", SERVICE]).stdout
    units = shlex.split(wanted)
    assert units
    assert all(unit.endswith(".device") for unit in units), wanted
    assert not desktop.failed_units()
    assert "Traceback" not in desktop.journal()
