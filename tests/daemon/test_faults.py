"""What goes wrong around the daemon: the bus, the port, a second one, sessions not to be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.daemon.scene import ALICE, Scene, wait_number
from tests.fixtures.daemon import Daemon, Stage
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
        ({"type": "wayland"}, "type-unsupported"),
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
        scene.add_alice()
        scene.host.wait_for("guest-connected", after=scene.host.now())
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
