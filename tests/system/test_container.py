"""The container itself: what every other test here takes for granted."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.drawing import SAMPLE, bits_of
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.system import consoles
from tests.system.root import PROJECT, SHARED
from tests.system.sessions import Login
from tests.vm.channel import CommandFailedError, GuestTimeoutError, NotStartedError

if TYPE_CHECKING:
    from tests.system.container import Container
    from tests.system.sessions import Seat


def test_boots_without_a_failed_unit(container: Container) -> None:
    state = container.run(["systemctl", "is-system-running", "--wait"], check=False)
    assert state.stdout == "running\n", container.run(["systemctl", "--failed"]).stdout


def test_nobody_is_at_the_seat(seat: Seat) -> None:
    assert seat.sessions() == []
    assert seat.active() == ""


@pytest.mark.parametrize(
    "package", ["Xlib", "PIL", "dbus_fast", "dbus_next", "systemd.journal", "sysv_ipc"]
)
def test_python_has(container: Container, package: str) -> None:
    container.run(["python3", "-c", f"import {package}"])


def test_commands_fail_as_they_should(container: Container) -> None:
    with pytest.raises(CommandFailedError, match=r"(?s)status 3.*because"):
        container.run(["sh", "-c", "echo because >&2; exit 3"])
    with pytest.raises(NotStartedError, match="No such file"):
        container.run(["/no/such/command"])
    with pytest.raises(GuestTimeoutError, match="sleep"):
        container.run(["sleep", "1000"], timeout=0.1)


def test_the_project_is_there_and_cannot_be_written(container: Container) -> None:
    container.run(["python3", "-c", "import sessiond"], cwd=PROJECT, user="alice")
    assert container.run(["touch", f"{PROJECT}/written"], check=False).status != 0


def test_a_socket_of_the_host_is_reached_from_inside(container: Container) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(container.shared / "greeting"))
        listener.listen(1)
        listener.settimeout(10)
        code = (
            "import socket; s = socket.socket(socket.AF_UNIX); "
            f"s.connect('{SHARED}/greeting'); s.sendall(b'hello')"
        )
        container.run(["python3", "-c", code])
        with listener.accept()[0] as connection:
            assert connection.recv(64) == b"hello"


def test_two_users_and_a_console_are_switched_by_chvt(seat: Seat) -> None:
    alice = seat.start_gdm("alice", display=2, vt=8, number=1)
    bob = seat.start_gdm("bob", display=3, vt=9, number=2)
    console = seat.start_console("alice", vt=10)
    assert (alice.session.display, alice.session.kind) == ("", "x11")
    assert console.kind == "tty"
    for id_, vt in ((alice.id, 8), (console.id, 10), (bob.id, 9), ("", 11), (alice.id, 8)):
        before = seat.signals.now()
        seat.switch(vt)
        changed = seat.signals.wait_for(lambda s: "ActiveSession" in s.properties, after=before)
        assert changed.properties["ActiveSession"][0] == id_
        assert seat.active() == id_


def test_each_server_keeps_its_picture_over_a_switch(seat: Seat) -> None:
    alice = seat.start_gdm("alice", display=2, vt=8, number=1)
    bob = seat.start_gdm("bob", display=3, vt=9, number=2)
    assert seat.shown(bob.server) == 2
    seat.draw(alice.server, 3)  # out of sight
    seat.activate(alice.id)
    assert seat.shown(alice.server) == 3
    seat.activate(bob.id)
    assert seat.shown(bob.server) == 2


def test_sessions_are_switched_by_logind(seat: Seat) -> None:
    alice = seat.start_lightdm(Login("alice", 1), display=2, vt=8)
    bob = seat.start_lightdm(Login("bob", 2), display=3, vt=9)
    assert (alice.session.display, bob.session.display) == (":2", ":3")
    for session, vt in ((alice, 8), (bob, 9), (alice, 8)):
        before = seat.signals.now()
        seat.activate(session.id)
        seat.signals.wait_for_active(session.id, after=before)
        assert consoles.active() == vt


def test_a_server_tells_whether_it_has_its_console(seat: Seat) -> None:
    alice = seat.start_gdm("alice", display=2, vt=8, number=1)
    watch = seat.watch_has_vt(alice.server)
    watch.wait_for_output("= 1\n")
    seat.switch(11)
    watch.wait_for_output("= 1\nXFree86_has_VT(INTEGER) = 0\n")
    seat.switch(8)
    watch.wait_for_output("= 0\nXFree86_has_VT(INTEGER) = 1\n")
    watch.kill()
    assert watch.wait().status == -signal.SIGTERM
    root = seat.container.run(
        ["xprop", "-root", "XFree86_VT"], user="alice", env=alice.server.env
    ).stdout
    assert root == "XFree86_VT(INTEGER) = 8\n"


def test_servers_run_as_their_kind_of_display_manager_runs_them(seat: Seat) -> None:
    alice = seat.start_gdm("alice", display=2, vt=8, number=1)
    bob = seat.start_lightdm(Login("bob", 2), display=3, vt=9)
    for server, owner in ((alice.server, "alice"), (bob.server, "root")):
        query = ["ps", "-o", "euser=,comm=", "-p", str(server.pid)]
        assert seat.container.run(query).stdout.split() == [owner, "Xorg"]


def test_a_users_screen_reaches_a_client_outside(seat: Seat) -> None:
    container = seat.container
    with (
        SpiceHost(directory=container.shared) as host,
        SpiceProbe(host.uri, sample=SAMPLE) as probe,
    ):
        host.socket_path.chmod(0o666)
        alice = seat.start_gdm("alice", display=2, vt=8, number=1)
        port = f"{SHARED}/{host.socket_path.name}"
        agent = container.spawn(
            ["python3", "-m", "agent", "stream", "--port", port, "--display", ":2"],
            user="alice",
            env=alice.server.env,
            cwd=PROJECT,
        )
        probe.wait_for("invalidate", bits=bits_of(1))
        seat.draw(alice.server, 2)
        probe.wait_for("invalidate", bits=bits_of(2))
        agent.kill()
        agent.wait(10)


def test_a_startx_session_is_of_type_tty(seat: Seat) -> None:
    alice = seat.start_gdm("alice", display=2, vt=8, number=1, kind="tty")
    assert (alice.session.kind, alice.session.display) == ("tty", "")


def test_a_user_cannot_see_anothers_screen(seat: Seat) -> None:
    alice = seat.start_gdm("alice", display=2, vt=8, number=1)
    query = ["xdpyinfo", "-display", alice.server.display]
    seat.container.run(query, user="alice", env=alice.server.env)
    assert seat.container.run(query, user="bob", check=False).status != 0


def test_a_logout_removes_the_session(seat: Seat) -> None:
    alice = seat.start_gdm("alice", display=2, vt=8, number=1)
    before = seat.signals.now()
    seat.end(alice.id)
    seat.signals.wait_for_active("", after=before)
    alice.process.wait(10)
    assert seat.sessions() == []


def test_a_login_keeps_the_greeters_server(seat: Seat) -> None:
    login = Login("alice", 2)
    greeter = seat.start_lightdm(Login("greeter", 1, "greeter"), login, display=2, vt=8)
    assert greeter.session.role == "greeter"
    seat.end(greeter.id)
    alice = seat.next_login(greeter, login)
    assert alice.server.pid == greeter.server.pid
    assert (alice.session.role, alice.session.display) == ("user", ":2")
    seat.wait_active(alice.id)


def test_a_killed_server_ends_its_session(seat: Seat) -> None:
    alice = seat.start_gdm("alice", display=2, vt=8, number=1)
    bob = seat.start_gdm("bob", display=3, vt=9, number=2)
    seat.kill_server(bob.server)
    seat.wait_gone(bob.id)
    seat.activate(alice.id)
    assert seat.shown(alice.server) == 1


def test_a_restarted_logind_knows_the_sessions_again(seat: Seat) -> None:
    alice = seat.start_gdm("alice", display=2, vt=8, number=1)
    console = seat.start_console("bob", vt=10)
    before = seat.signals.now()
    seat.restart_logind()
    for id_ in (alice.id, console.id):
        seat.signals.wait_for_new(id_, after=before)
    assert {session.id for session in seat.sessions()} == {alice.id, console.id}
    assert seat.active() == alice.id
    seat.switch(10)
    seat.wait_active(console.id)
