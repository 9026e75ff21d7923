"""The picture follows the person: login, switch, text console, logout, crash."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest

from tests.daemon.scene import ALICE, BOB, Scene, wait_number
from tests.fixtures.drawing import bits_of

pytestmark = pytest.mark.e2e


def test_the_active_session_is_shown_and_told(scene: Scene) -> None:
    scene.add_alice()
    probe = scene.watch()
    wait_number(probe, ALICE)
    scene.daemon.wait_reason("ok")
    assert scene.daemon.property("State") == "streaming"
    assert scene.daemon.property("Reason") == "ok"
    assert scene.daemon.property("ActiveSession") == ["1", "/org/freedesktop/login1/session/_31"]
    assert scene.daemon.property("ReasonText") == "Session 1 is shown."
    assert Path(f"/proc/{scene.daemon.property('AgentPID')}").exists()


def test_a_user_switch_needs_no_reconnect_and_shows_nobody_elses_picture(scene: Scene) -> None:
    scene.add_alice()
    scene.add_bob(front=False)
    probe = scene.watch()
    wait_number(probe, ALICE)
    for session, number in (("c2", BOB), ("1", ALICE), ("c2", BOB)):
        scene.stage.login1.do("switch", id=session)
        wait_number(probe, number)
        # What was on its way is drawn by now: from here on only this one's pictures come.
        mark = probe.now()
        scene.screens[number].show_number(number)
        other = ALICE + BOB - number
        scene.screens[other].show_number(other)
        probe.wait_for("invalidate", after=mark, bits=bits_of(number))
        assert not [e for e in probe.events[mark + 1 :] if e.get("bits") == bits_of(other)]
    assert not [event for event in probe.events if event["event"] == "disconnected"]


def test_ten_quick_switches_end_at_the_last(scene: Scene) -> None:
    scene.add_alice()
    scene.add_bob(front=False)
    probe = scene.watch()
    wait_number(probe, ALICE)
    for _ in range(5):
        scene.stage.login1.do("switch", id="c2")
        scene.stage.login1.do("switch", id="1")
    scene.stage.login1.do("switch", id="c2")
    wait_number(probe, BOB)
    assert scene.daemon.property("ActiveSession")[0] == "c2"


def test_a_text_console_is_a_picture_that_says_so(scene: Scene) -> None:
    scene.add_alice()
    probe = scene.watch()
    wait_number(probe, ALICE)
    scene.stage.login1.do("add_session", id="5", vt=3, type="tty", user="carol", uid=os.getuid())
    scene.daemon.wait_reason("text-console")
    probe.wait_for("primary-create", w=1024, h=768)
    probe.wait_for("invalidate")
    assert scene.daemon.property("State") == "no-session"
    assert "VT 3" in scene.daemon.property("ReasonText")
    scene.stage.login1.do("switch", id="1")
    wait_number(probe, ALICE)


def test_logout_ends_the_agent(scene: Scene) -> None:
    scene.add_alice()
    probe = scene.watch()
    wait_number(probe, ALICE)
    agent = os.pidfd_open(scene.daemon.property("AgentPID"))
    scene.stage.login1.do("remove_session", id="1")
    assert _wait_end(agent)
    probe.wait_for("primary-create", w=1024, h=768)  # after the grace: a picture that says why
    assert scene.daemon.property("AgentPID") == 0


def test_a_login_that_keeps_the_x_server_does_not_flicker(scene: Scene) -> None:
    scene.add_alice(id="c1", cls="greeter", user="lightdm")
    probe = scene.watch()
    wait_number(probe, ALICE)
    mark = probe.now()
    scene.stage.login1.do("log_in", greeter="c1", id="4", user="alice", uid=os.getuid())
    after = probe.now()
    wait_number(probe, ALICE)
    assert scene.daemon.property("ActiveSession")[0] == "4"
    sizes = [e for e in probe.events[mark + 1 : after + 1] if e["event"] == "primary-create"]
    assert not [e for e in sizes if e["w"] == 1024], "no placeholder in between"


def test_a_killed_agent_comes_back(scene: Scene) -> None:
    scene.add_alice()
    probe = scene.watch()
    wait_number(probe, ALICE)
    pid = scene.daemon.property("AgentPID")
    mark = scene.daemon.now()
    os.kill(pid, signal.SIGKILL)
    scene.daemon.wait_reason("agent-crashed", after=mark)
    scene.daemon.wait_reason("ok", after=mark)
    wait_number(probe, ALICE)
    assert scene.daemon.property("AgentPID") not in {0, pid}
    assert scene.daemon.property("AgentRestarts") == 1


def test_a_display_that_comes_late_is_found(scene: Scene) -> None:
    scene.add_alice(display="")
    probe = scene.watch()
    scene.daemon.wait_reason("no-display-found")
    scene.stage.login1.do("set_display", id="1", display=scene.alice.display)
    wait_number(probe, ALICE)


def test_every_agent_ends_with_a_killed_daemon(scene: Scene) -> None:
    scene.add_alice()
    scene.add_bob()
    probe = scene.watch()
    wait_number(probe, BOB)
    agent = os.pidfd_open(scene.daemon.property("AgentPID"))
    scene.daemon.signal(signal.SIGKILL)
    assert _wait_end(agent)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_ends_with_its_agents(scene: Scene, number: signal.Signals) -> None:
    scene.add_alice()
    probe = scene.watch()
    wait_number(probe, ALICE)
    agent = os.pidfd_open(scene.daemon.property("AgentPID"))
    scene.daemon.signal(number)
    assert scene.daemon.wait_exit() == 0
    assert _wait_end(agent)


def _wait_end(pidfd: int, timeout: float = 5.0) -> bool:
    try:
        return bool(select.select([pidfd], [], [], timeout)[0])
    finally:
        os.close(pidfd)
