"""The picture follows the person: login, switch, text console, logout, crash.

All of it runs twice: here with a stand-in login1, and by ``tests/system/test_follow.py`` with real
systemd, logind and Xorg on real consoles. What only one of them can play stands in
``test_logind.py`` here, and in ``tests/system/test_daemon.py``.
"""

from __future__ import annotations

import pytest

from sessiond.bus.paths import session_path
from tests.daemon.world import (
    ALICE,
    BOB,
    GREETER,
    NO_NUMBER,
    World,
    assert_connected,
    numbers,
    wait_number,
    wait_reason,
    wait_sentence,
)

pytestmark = pytest.mark.e2e

LIVE = 100  # added to a user's number: drawn while the screen is in front
HIDDEN = 200  # likewise: drawn while it is not, and gone before it is


def test_the_active_session_is_shown_and_told(world: World) -> None:
    alice = world.log_in("alice")
    probe = world.watch()
    wait_number(probe, ALICE)
    wait_reason(world, "ok")
    assert world.property("State") == "streaming"
    assert world.property("Reason") == "ok"
    assert world.property("ReasonText") == f"Session {alice.id} is shown."
    assert world.property("ActiveSession") == [alice.id, session_path(alice.id)]


def test_a_client_sees_each_users_own_picture_and_never_anothers(world: World) -> None:
    alice = world.log_in("alice")
    bob = world.log_in("bob")
    console = world.log_in_on_console("alice")
    probe = world.watch()
    wait_number(probe, BOB)
    for go, desk in (
        (world.switch, alice),
        (world.activate, bob),
        (world.switch, console),
        (world.activate, alice),
        (world.activate, console),
        (world.switch, bob),
        (world.activate, alice),
    ):
        mark = probe.now()
        go(desk)
        # What the host had before is drawn by now: from here on only this one's pictures come.
        if desk is console:
            since, own = wait_sentence(probe, after=mark), {NO_NUMBER}
        else:
            since, own = wait_number(probe, desk.number), {desk.number, LIVE + desk.number}
        others = [it for it in (alice, bob) if it is not desk]
        for other in others:
            world.draw(other, HIDDEN + other.number)
        if desk is not console:
            world.draw(desk, LIVE + desk.number)
            wait_number(probe, LIVE + desk.number)
        assert numbers(probe, after=since) <= own
        for other in [*others, *([desk] if desk is not console else [])]:
            world.draw(other, other.number)
    assert numbers(probe).isdisjoint({HIDDEN + ALICE, HIDDEN + BOB})
    assert_connected(probe)


def test_ten_quick_switches_end_at_the_last(world: World) -> None:
    alice = world.log_in("alice")
    bob = world.log_in("bob")
    world.switch(alice)
    probe = world.watch()
    wait_number(probe, ALICE)
    for _ in range(5):
        world.switch(bob)
        world.switch(alice)
    world.switch(bob)
    wait_number(probe, BOB)
    assert world.property("ActiveSession")[0] == bob.id
    assert_connected(probe)


def test_a_text_console_is_a_picture_that_says_so(world: World) -> None:
    alice = world.log_in("alice")
    console = world.log_in_on_console("bob")
    probe = world.watch()
    mark = wait_number(probe, ALICE)
    world.switch(console)
    wait_reason(world, "text-console")
    wait_sentence(probe, after=mark)
    assert world.property("State") == "no-session"
    assert f"VT {console.vt}" in world.property("ReasonText")
    world.switch(alice)
    wait_number(probe, ALICE)
    assert_connected(probe)


def test_a_logout_ends_the_agent_and_the_picture(world: World) -> None:
    alice = world.log_in("alice")
    probe = world.watch()
    mark = wait_number(probe, ALICE)
    agent = world.property("AgentPID")
    world.log_out(alice)
    world.wait_end(agent)
    gone = wait_sentence(probe, after=mark)  # after the grace: a picture that says why
    assert world.property("AgentPID") == 0
    world.log_in("bob")
    wait_number(probe, BOB)
    assert ALICE not in numbers(probe, after=gone)
    assert_connected(probe)


def test_a_killed_x_server_takes_only_its_session_along(world: World) -> None:
    alice = world.log_in("alice")
    bob = world.log_in("bob")
    probe = world.watch()
    mark = wait_number(probe, BOB)
    agent = world.property("AgentPID")
    world.kill_x(bob)
    world.wait_end(agent)
    gone = wait_sentence(probe, after=mark)
    world.activate(alice)
    wait_number(probe, ALICE)
    assert BOB not in numbers(probe, after=gone)
    assert world.property("Reason") == "ok"
    assert_connected(probe)


def test_a_killed_agent_comes_back(world: World) -> None:
    world.log_in("alice")
    probe = world.watch()
    wait_number(probe, ALICE)
    pid = world.property("AgentPID")
    mark = world.now()
    world.kill(pid)
    wait_reason(world, "agent-crashed", after=mark)
    wait_reason(world, "ok", after=mark)
    wait_number(probe, ALICE)
    assert world.property("AgentPID") not in {0, pid}
    assert world.property("AgentRestarts") == 1
    assert_connected(probe)


def test_a_restarted_logind_changes_nothing_for_the_viewer(world: World) -> None:
    alice = world.log_in("alice")
    console = world.log_in_on_console("bob")
    probe = world.watch()
    mark = wait_number(probe, ALICE)
    agent = world.property("AgentPID")
    world.restart_logind()
    world.draw(alice, LIVE + ALICE)
    wait_number(probe, LIVE + ALICE)
    assert world.property("AgentPID") == agent
    assert numbers(probe, after=mark) <= {ALICE, LIVE + ALICE}
    surfaces = ("primary-create", "primary-destroy")
    assert not [event for event in probe.events[mark + 1 :] if event["event"] in surfaces]
    # And it goes on as before.
    since = world.now()
    world.switch(console)
    wait_reason(world, "text-console", after=since)
    world.switch(alice)
    wait_reason(world, "ok", after=since)
    assert_connected(probe)


def test_a_login_that_keeps_the_x_server_does_not_flicker(world: World) -> None:
    greeter = world.greet()
    probe = world.watch()
    mark = wait_number(probe, GREETER)
    alice = world.log_in_at_greeter(greeter, "alice")
    wait_number(probe, ALICE)
    assert world.property("ActiveSession")[0] == alice.id
    assert NO_NUMBER not in numbers(probe, after=mark), "no placeholder in between"
    assert_connected(probe)


def test_the_agent_is_its_users_and_has_no_privilege(world: World) -> None:
    alice = world.log_in("alice")
    bob = world.log_in("bob")
    probe = world.watch()
    if not world.runs_as_root:
        pytest.skip("without root an agent can only be ours")
    pids = []
    for desk in (alice, bob):
        world.activate(desk)
        wait_number(probe, desk.number)
        pids.append(world.property("AgentPID"))
        fields = world.process_status(pids[-1])
        assert fields["Uid"].split() == [str(world.uid(desk.user))] * 4
        assert fields["NoNewPrivs"] == "1"
        kinds = ("Inh", "Prm", "Eff", "Bnd", "Amb")
        assert {fields[f"Cap{kind}"] for kind in kinds} == {"0" * 16}
    assert world.uid("alice") != world.uid("bob")
    assert pids[0] != pids[1]
