"""The daemon's interface on a real bus: what changes is told, what is ordered happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from sessiond.bus.paths import ROOT, session_path
from tests.daemon.scene import ALICE, BOB, Scene, wait_number
from tests.daemon.test_agents import has_ended
from tests.fixtures.child import Child
from tests.fixtures.daemon import BUS_NAME, MANAGER
from tests.fixtures.drawing import bits_of
from tests.fixtures.processes import EventTimeoutError, JsonProcess
from tests.fixtures.spice import build

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e


def busctl(scene: Scene, *arguments: str) -> Any:  # noqa: ANN401 (what it answers)
    """Run busctl; its JSON, or its complaint as a string."""
    done = subprocess.run(
        ["busctl", f"--address={scene.stage.bus.address}", "--json=short", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return done.stderr.strip()
    return json.loads(done.stdout)["data"] if done.stdout.strip() else None


def call(scene: Scene, member: str, *arguments: str) -> Any:  # noqa: ANN401
    return busctl(scene, "call", BUS_NAME, ROOT, MANAGER, member, *arguments)


def put(scene: Scene, name: str, kind: str, value: str) -> Any:  # noqa: ANN401
    return busctl(scene, "set-property", BUS_NAME, ROOT, MANAGER, name, kind, value)


@pytest.fixture
def objects(scene: Scene) -> Any:  # noqa: ANN401
    """A GDBusObjectManagerClient."""
    command = [str(build() / "bus-objects"), scene.stage.bus.address, BUS_NAME]
    client = JsonProcess(command)
    client.wait_for("ready", objects=0)
    yield client
    client.close()


def test_a_desktops_program_sees_sessions_come_change_and_go(scene: Scene, objects: Any) -> None:  # noqa: ANN401
    scene.add_alice()
    path = session_path("1")
    objects.wait_for("added", path=path)
    wait_number(scene.watch(), ALICE)
    objects.wait_for("changed", path=path, name="Shown")
    scene.stage.login1.do("lock", id="1")
    objects.wait_for("changed", path=path, name="Locked")
    scene.stage.login1.do("remove_session", id="1")
    objects.wait_for("removed", path=path)
    scene.daemon.close()
    objects.wait_for("owner", there=False)


def test_signals_tell_of_switches_and_agents(scene: Scene) -> None:
    monitor = Child(
        [
            *("sh", "-c", 'exec "$@" >&2', "sh"),  # where a Child is heard
            *("busctl", f"--address={scene.stage.bus.address}", "--json=short", "monitor"),
            *("--match", f"type=signal,interface={MANAGER}"),
        ]
    )
    with monitor:
        monitor.wait_line("Monitoring")
        # Of another machine, so that the daemon has something to leave out.
        scene.stage.login1.do("add_session", id="9", remote=True, seat="", vt=0, front=False)
        scene.add_alice()
        wait_number(scene.watch(), ALICE)
        pid = scene.daemon.property("AgentPID")
        os.kill(pid, signal.SIGKILL)
        monitor.wait_line(r'"SessionSwitched".*\[\["","/"\],\["1",".*/session/_31"\]\]')
        monitor.wait_line(rf'"AgentStarted".*\["1",{pid}\]')
        monitor.wait_line(rf'"AgentExited".*\["1",{pid},-9,"agent-crashed"\]')


def test_a_session_is_activated_and_the_answer_comes_when_it_is_there(scene: Scene) -> None:
    scene.add_alice()
    scene.add_bob(front=False)
    assert call(scene, "ActivateSession", "s", "c2") is None
    assert scene.daemon.property("ActiveSession") == ["c2", session_path("c2")]
    wait_number(scene.watch(), BOB)
    assert call(scene, "SwitchToVT", "u", "7") is None
    assert scene.daemon.property("ActiveSession")[0] == "1"
    path = session_path("c2")
    assert busctl(scene, "call", BUS_NAME, path, f"{BUS_NAME}.Session", "Activate") is None
    assert scene.daemon.property("ActiveSession")[0] == "c2"
    assert "no session 'nobody'" in call(scene, "ActivateSession", "s", "nobody")
    assert "from 1 to 63" in call(scene, "SwitchToVT", "u", "64")


def test_a_pause_is_a_picture_that_says_so_and_outlives_a_switch(scene: Scene) -> None:
    scene.add_alice()
    scene.add_bob(front=False)
    probe = scene.watch()
    wait_number(probe, ALICE)
    assert put(scene, "StreamingEnabled", "b", "false") is None
    assert scene.daemon.property("State") == "paused"
    assert scene.daemon.property("Reason") == "paused-by-admin"
    probe.wait_for("primary-create", w=1024, h=768)
    scene.stage.login1.do("switch", id="c2")
    assert scene.daemon.property("Reason") == "paused-by-admin"
    mark = probe.now()
    assert put(scene, "StreamingEnabled", "b", "true") is None
    wait_number(probe, BOB)
    drawn = [e for e in probe.events[mark + 1 :] if e.get("bits") == bits_of(ALICE)]
    assert not drawn, "who is not in front any more was not seen"


def test_one_session_is_paused_and_the_other_is_not(scene: Scene) -> None:
    scene.add_alice()
    scene.add_bob(front=False)
    probe = scene.watch()
    wait_number(probe, ALICE)
    session = (BUS_NAME, session_path("1"), f"{BUS_NAME}.Session")
    assert busctl(scene, "call", *session, "SetStreaming", "b", "false") is None
    assert scene.daemon.property("State") == "paused"
    scene.stage.login1.do("switch", id="c2")
    wait_number(probe, BOB)
    assert busctl(scene, "get-property", *session, "Reason").startswith("paused-by-")
    scene.stage.login1.do("switch", id="1")
    scene.daemon.wait_reason("paused-by-.*", after=scene.daemon.now() - 50)
    assert busctl(scene, "call", *session, "SetStreaming", "b", "true") is None
    wait_number(probe, ALICE)


def test_the_agent_is_restarted(scene: Scene) -> None:
    assert "no session is to be shown" in call(scene, "RestartAgent")
    scene.add_alice()
    probe = scene.watch()
    wait_number(probe, ALICE)
    before = scene.daemon.property("AgentPID")
    mark = scene.daemon.now()
    assert call(scene, "RestartAgent") is None
    scene.daemon.wait_reason("ok", after=mark)
    assert scene.daemon.property("AgentPID") != before
    assert scene.daemon.property("AgentRestarts") == 0, "it was asked for"


def test_history_says_what_was_and_why(scene: Scene) -> None:
    scene.add_alice()
    wait_number(scene.watch(), ALICE)
    scene.daemon.wait_reason("ok")
    [events] = call(scene, "GetHistory", "u", "0")
    assert [event[3] for event in events[-2:]] == ["agent-starting", "ok"] or events[-1][3] == "ok"
    assert events[-1][1:3] == ["1", "streaming"]
    [last] = call(scene, "GetHistory", "u", "1")[0]
    assert last == events[-1]


def test_after_the_shown_sessions_end_the_greeter_comes() -> None:
    with Scene(["switch.delay=0.2"]) as scene:
        assert put(scene, "AutoSwitch", "s", "on-session-end") is None
        scene.add_bob(id="c9", cls="greeter", front=False)
        scene.add_alice()
        probe = scene.watch()
        wait_number(probe, ALICE)
        scene.stage.login1.do("remove_session", id="1")
        scene.daemon.wait_line("switching to session c9")
        wait_number(probe, BOB)
        # Off, nobody is brought anywhere.
        assert put(scene, "AutoSwitch", "s", "off") is None
        scene.add_alice(id="2")
        wait_number(probe, ALICE)
        mark = scene.daemon.now()
        scene.stage.login1.do("remove_session", id="2")
        with pytest.raises(EventTimeoutError):
            scene.daemon.wait_line("switching to session", 1.0, after=mark)


def test_a_reload_follows_what_it_can_and_names_the_rest(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[stream]\ngrace = 1.0\n")
    with Scene(args=["--config", config]) as scene:
        scene.add_alice()
        probe = scene.watch()
        wait_number(probe, ALICE)
        config.write_text('[stream]\ndeny_users = ["alice"]\n[displays]\nsockets = "/run"\n')
        said = call(scene, "Reload")
        assert "needs a restart: displays.sockets; all else is in force" in said
        assert scene.daemon.property("Reason") == "session-denied"
        config.write_text("[stream]\ngrace = never\n")
        assert str(config) in call(scene, "Reload")
        assert scene.daemon.property("Reason") == "session-denied"
        config.write_text("")
        scene.daemon.signal(signal.SIGHUP)
        scene.daemon.wait_reason("ok", after=scene.daemon.now() - 5)
        wait_number(probe, ALICE)


def test_a_reload_ends_agents_that_are_not_to_be_kept(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")
    with Scene(args=["--config", config]) as scene:
        scene.add_alice()
        probe = scene.watch()
        wait_number(probe, ALICE)
        kept = scene.daemon.property("AgentPID")
        scene.add_bob()
        wait_number(probe, BOB)
        scene.stage.login1.do("switch", id="1")
        wait_number(probe, ALICE)
        assert scene.daemon.property("AgentPID") == kept
        pidfd = os.pidfd_open(kept)
        scene.stage.login1.do("switch", id="c2")
        wait_number(probe, BOB)
        agent = scene.daemon.property("AgentPID")
        config.write_text("[agent]\nkeep_warm = 0\n")
        scene.daemon.signal(signal.SIGHUP)
        assert has_ended(pidfd)
        assert scene.daemon.property("AgentPID") == agent
        assert scene.daemon.property("Reason") == "ok"


def test_users_without_an_agent_are_named(scene: Scene) -> None:
    assert call(scene, "ListUserAgents") == [[]]
    for member, *arguments in (
        ("QueryDisplays", "s", "alice"),
        ("QueryScreens", "ss", "alice", ":0"),
        ("ConnectDisplay", "ssb", "alice", ":0", "true"),
    ):
        assert "no agent connected for user 'alice'" in call(scene, member, *arguments)


def test_a_thousand_questions_a_second_lose_no_frame() -> None:
    """The picture is followed to its last state while another connection asks on and on."""
    with Scene() as scene:
        scene.add_alice()
        probe = scene.watch()
        wait_number(probe, ALICE)
        asker = subprocess.Popen(
            [sys.executable, "-m", "tests.fixtures.asker", scene.stage.bus.address, "2000"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3, 40):
            scene.screens[ALICE].show_number(number)
        wait_number(probe, 39)
        out, _ = asker.communicate(timeout=30)
        assert out.strip() == "2000"
