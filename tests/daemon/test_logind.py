"""What a login1 can do to a daemon that only a stand-in plays on demand."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.daemon.scene import ALICE, BOB, Scene
from tests.daemon.world import assert_connected, numbers, wait_number, wait_sentence
from tests.fixtures.daemon import Daemon
from tests.fixtures.drawing import Canvas
from tests.fixtures.xserver import Xvfb

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e


def test_a_login1_that_goes_for_good_is_told_and_may_come_back(scene: Scene) -> None:
    scene.add_alice()
    probe = scene.watch()
    mark = wait_number(probe, ALICE)
    scene.stage.login1.do("stop")
    scene.daemon.wait_reason("logind-missing")
    since = wait_sentence(probe, after=mark)
    assert scene.daemon.property("State") == "no-session"
    assert scene.daemon.property("AgentPID") == 0
    assert ALICE not in numbers(probe, after=since)
    scene.stage.login1.do("start")
    wait_number(probe, ALICE)
    assert_connected(probe)


def test_without_a_login1_it_says_so_and_waits_for_one() -> None:
    with Scene(has_login1=False) as scene:
        probe = scene.watch()
        wait_sentence(probe, after=-1)
        assert scene.daemon.property("State") == "no-session"
        assert scene.daemon.property("Reason") == "logind-missing"
        assert "Start systemd-logind" in scene.daemon.property("ReasonText")
        scene.stage.login1.do("start")
        scene.add_alice()
        wait_number(probe, ALICE)


def test_a_login1_that_does_not_answer_holds_nobody_up(scene: Scene) -> None:
    """The daemon is ready without it, says what it waits for, and goes on when it answers."""
    scene.add_alice()
    scene.stage.daemon.close()
    login1 = scene.stage.login1
    os.kill(login1.pid, signal.SIGSTOP)
    try:
        with Daemon(scene.stage.bus, scene.host.socket_path) as daemon:
            assert daemon.property("State") == "no-session"
            probe = scene.watch()
            wait_sentence(probe, after=-1)
            os.kill(login1.pid, signal.SIGCONT)
            wait_number(probe, ALICE)
    finally:
        os.kill(login1.pid, signal.SIGCONT)


def test_a_console_without_a_session_is_named_by_the_vt_file(tmp_path: Path) -> None:
    active = tmp_path / "active"
    active.write_text("tty3\n")  # only sysfs signals a change of it
    with Scene([f'vt.active="{active}"']) as scene:
        scene.daemon.wait_reason("text-console")
        assert "VT 3" in scene.daemon.property("ReasonText")


def test_a_session_that_is_gone_when_it_is_asked_for_is_nobody(scene: Scene) -> None:
    scene.add_bob()
    probe = scene.watch()
    mark = wait_number(probe, BOB)
    since = scene.daemon.now()
    scene.add_alice(answers=False)  # and yet the seat says that it is in front
    scene.daemon.wait_reason("text-console|no-active-session", after=since)
    wait_sentence(probe, after=mark)
    scene.stage.login1.do("remove_session", id="1")
    scene.stage.login1.do("switch", id="c2")
    wait_number(probe, BOB)
    assert ALICE not in numbers(probe)
    assert_connected(probe)


def test_two_sessions_of_one_user_have_an_agent_each(scene: Scene) -> None:
    scene.add_alice()
    scene.add_alice(id="9", vt=8, display=scene.bob.display)
    probe = scene.watch()
    agents = []
    for session, number in (("9", BOB), ("1", ALICE), ("9", BOB)):
        scene.stage.login1.do("switch", id=session)
        wait_number(probe, number)
        agents.append(scene.daemon.property("AgentPID"))
        assert scene.daemon.property("ActiveSession")[0] == session
    assert agents[0] == agents[2] != agents[1]
    assert_connected(probe)


def test_a_session_that_is_active_only_later_is_shown(scene: Scene) -> None:
    scene.add_bob()
    probe = scene.watch()
    wait_number(probe, BOB)
    scene.add_alice_late()
    wait_number(probe, ALICE)
    assert scene.daemon.property("ActiveSession")[0] == "1"


def test_a_display_that_logind_learns_late_is_found(scene: Scene) -> None:
    scene.add_alice(display="")
    probe = scene.watch()
    scene.daemon.wait_reason("no-display-found")
    assert scene.daemon.property("State") == "back-off"
    scene.stage.login1.do("set_display", id="1", display=scene.alice.display)
    wait_number(probe, ALICE)


def test_a_display_that_is_gone_is_tried_again_until_it_is_back(scene: Scene) -> None:
    """The X server dies and its session stays: logind has nothing to signal."""
    scene.add_alice()
    probe = scene.watch()
    mark = wait_number(probe, ALICE)
    scene.alice.kill()
    scene.daemon.wait_reason("no-display-found")
    wait_sentence(probe, after=mark)
    restarts = scene.daemon.property("AgentRestarts")
    number = int(scene.alice.display.removeprefix(":"))
    with Xvfb(640, 480, number=number) as again, Canvas(again.display) as canvas:
        canvas.show_number(ALICE)
        wait_number(probe, ALICE)
        assert scene.daemon.property("AgentRestarts") >= restarts > 0
        assert_connected(probe)
