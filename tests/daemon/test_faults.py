"""What goes wrong around the daemon: the bus, the port, a second one, sessions not to be shown."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.daemon.scene import ALICE, Scene, wait_number
from tests.daemon.world import assert_connected
from tests.fixtures.bus import PrivateBus
from tests.fixtures.daemon import Daemon, Stage
from tests.fixtures.drawing import bits_of
from tests.fixtures.processes import EventTimeoutError
from tests.fixtures.spice import SpiceHost

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e


def test_a_second_daemon_ends_with_one_line(scene: Scene) -> None:
    with Daemon(scene.stage.bus, scene.host.socket_path) as second:
        assert second.wait_exit() == 1
        assert any(line.endswith("another instance is running") for line in second.lines)
    assert scene.daemon.property("Version")


def test_a_second_daemon_of_another_name_does_not_get_the_port(scene: Scene) -> None:
    scene.add_alice()
    probe = scene.watch()
    wait_number(probe, ALICE)
    name = "org.spice_space.Another1"
    with Daemon(scene.stage.bus, scene.host.socket_path, name=name) as second:
        # A socket's listener can only hang up; a virtio port would be busy. Then it waits longer
        # and longer, and says so, and the first one does not notice.
        tries = -1
        for _ in range(2):
            tries = second.wait_line("the host hung up; opening it again", after=tries)
        second.wait_reason("host-refused", after=tries)
        assert second.property("State") == "back-off"
        scene.screens[ALICE].show_number(100)
        wait_number(probe, 100)
    assert scene.daemon.property("Reason") == "ok"
    assert_connected(probe)


def test_a_listener_that_takes_no_more_is_a_busy_port(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(str(tmp_path / "port"))
        listener.listen(0)
        other.connect(str(tmp_path / "port"))
        with Stage(tmp_path / "port") as stage:
            stage.daemon.wait_reason("port-busy")
            assert stage.daemon.property("State") == "no-port"
            assert "takes no more connections" in stage.daemon.property("ReasonText")
            listener.accept()[0].close()
            stage.daemon.wait_line("is open")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "cannot be read: Is a directory"),
        (b'seat = "\xff"\n', "not UTF-8: invalid start byte"),
        (b"[stream]\ngrace = 61\n", "stream.grace: 61 is not seconds from 0 to 60"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_named_in_one_line(
    tmp_path: Path, content: bytes | None, fault: str
) -> None:
    path = tmp_path / "config.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with PrivateBus() as bus, Daemon(bus, tmp_path / "port", args=["--config", path]) as daemon:
        assert daemon.wait_exit() == 2
        [line] = daemon.lines
        assert line.startswith(f"spice-sessiond: {path}:")
        assert line.endswith(fault)


def test_a_lost_bus_ends_the_daemon_with_a_clear_line(scene: Scene) -> None:
    scene.add_alice()
    wait_number(scene.watch(), ALICE)
    scene.stage.bus.close()
    assert scene.daemon.wait_exit() == 1
    assert any("message bus" in line and "Traceback" not in line for line in scene.daemon.lines)


def test_no_bus_at_all(tmp_path: Path) -> None:
    with Stage(tmp_path / "port") as stage:
        stage.bus.close()
        with Daemon(stage.bus, tmp_path / "port") as daemon:
            assert daemon.wait_exit() == 1
            assert "message bus" in daemon.lines[-1] or "message bus" in "".join(daemon.lines)


def test_a_port_that_is_missing_is_told_and_opened_when_it_comes(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with Stage(tmp_path / "port.sock") as stage:
        stage.daemon.wait_line("port-missing|is missing")
        assert stage.daemon.property("State") == "no-port"
        assert stage.daemon.property("Reason") == "port-missing"
        with SpiceHost(directory=tmp_path) as host:
            host.wait_for("guest-connected")
            stage.daemon.wait_line("is open")
            mark = stage.daemon.now()
        stage.daemon.wait_line("hung up", after=mark)
        with SpiceHost(directory=tmp_path) as host:
            host.wait_for("guest-connected")


def test_a_host_that_refuses_gets_the_port_opened_again(scene: Scene) -> None:
    scene.add_alice()
    probe = scene.watch()
    wait_number(probe, ALICE)
    mark = scene.daemon.now()
    scene.host.inject(bytes.fromhex("01000500060000000000000062616400"[:32]))
    scene.daemon.wait_line("refused to go on: ba", after=mark)
    scene.daemon.wait_reason("ok", after=mark)
    wait_number(probe, ALICE)


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"remote": True}, "session-remote"),
        ({"cls": "background"}, "session-class"),
        ({"type": "mir"}, "type-unsupported"),
        ({"user": "eve"}, "session-denied"),
        ({"state": "closing"}, "session-closing"),
    ],
)
def test_a_session_that_is_not_to_be_shown(properties: dict[str, object], reason: str) -> None:
    with Scene(['stream.deny_users=["eve"]']) as scene:
        probe = scene.watch()
        scene.add_alice(**properties)
        scene.daemon.wait_reason(reason)
        assert scene.daemon.property("Reason") == reason
        assert scene.daemon.property("State") == "no-session"
        probe.wait_for("primary-create", w=1024, h=768)  # the sentence, and not her screen
        assert scene.daemon.property("AgentPID") == 0


def test_with_close_the_port_is_held_only_while_there_is_something_to_show() -> None:
    with Scene(['stream.when_idle="close"', "stream.grace=0"]) as scene:
        scene.host.wait_for("guest-closed")
        mark = scene.host.now()
        scene.add_alice()
        scene.host.wait_for("guest-connected", after=mark)
        probe = scene.watch()
        wait_number(probe, ALICE)
        # While a client asks it is never closed.
        mark = scene.host.now()
        scene.stage.login1.do("remove_session", id="1")
        scene.daemon.wait_reason("text-console|no-active-session")
        with pytest.raises(EventTimeoutError):
            scene.host.wait_for("guest-closed", 0.5, after=mark)
        probe.close()
        scene.host.wait_for("guest-closed", after=mark)


def test_with_close_a_port_that_was_lost_is_opened_once() -> None:
    with Scene(['stream.when_idle="close"', "stream.grace=0"]) as scene:
        scene.add_alice()
        probe = scene.watch()
        wait_number(probe, ALICE)
        mark, seen = scene.host.now(), probe.now()
        scene.host.inject(bytes.fromhex("01000500060000000000000062616400"[:32]))
        scene.host.wait_for("guest-connected", after=mark)
        probe.wait_for("invalidate", after=seen, bits=bits_of(ALICE))
        assert not [e for e in scene.host.events[mark + 1 :] if e["event"] == "guest-refused"]
        # With nobody at the screen and nobody watching it is let go, as ever.
        mark = scene.host.now()
        scene.stage.login1.do("remove_session", id="1")
        probe.close()
        scene.host.wait_for("guest-closed", after=mark)
