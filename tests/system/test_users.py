"""Users' agents in real sessions, the daemon in its sandbox, and a host that asks from outside."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.daemon.world import ALICE
from tests.fixtures.host_channel import HostClient
from tests.fixtures.host_exec import output_of
from tests.system.inside.desktop import TARGET, UNIT
from tests.system.unit import HOST_CHANNEL, SERVICE, USER_AGENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon.world import World
    from tests.system.container import Container
    from tests.system.sessions import Seat, Session, XSession
    from tests.system.unit import Unit

CAME: Final = "VIRTAGENT_USER_CONNECTED"
WENT: Final = "VIRTAGENT_USER_DISCONNECTED"
# A login without graphics: its script starts the agent, and leaves when somebody would.
PROFILE: Final = "/home/bob/.bash_profile"
LEAVE: Final = "/home/bob/leave"
SCRIPT: Final = f"""\
spice-session-agent user >/dev/null 2>&1 &
read -r < {LEAVE}
exit
"""
NOTHING: Final = f"{0:016x}"  # no capability
# What a command of the host's finds where it runs.
LOOK: Final = """
id -un
pwd
sed -n 's/^Cap[IPEA].*:\t//p' /proc/self/status
sed -n 's/^0:://p' /proc/self/cgroup
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command has run."""

    user: str
    folder: str
    capabilities: frozenset[str]
    cgroup: str


def look(host: HostClient, user: str | None) -> Place:
    """Have a command run as USER that looks around."""
    who, folder, *capabilities, cgroup = output_of(host, user, "sh", "-c", LOOK).splitlines()
    return Place(who, folder, frozenset(capabilities), cgroup)


@contextlib.contextmanager
def host_of(container: Container) -> Iterator[HostClient]:
    """Be the host, and hear of what happens."""
    with HostClient(container.outside(HOST_CHANNEL)) as host:
        assert host.ask("virtagent-set-capabilities", events=True)["events"]
        yield host


@pytest.fixture
def host_end(container: Container, world: World) -> Iterator[HostClient]:  # noqa: ARG001
    with host_of(container) as host:
        yield host


@pytest.fixture
def alice(installed: Container, seat: Seat, host_end: HostClient) -> XSession:
    """Alice at a desktop, where systemd has started her agent."""
    installed.push(f"/etc/systemd/user/{TARGET}", UNIT.encode())
    session = seat.start_gdm("alice", display=2, vt=8, number=ALICE, program="desktop")
    assert host_end.wait_event(CAME)["user"] == "alice"
    return session


@pytest.fixture
def bob(container: Container, seat: Seat, host_end: HostClient) -> Iterator[Session]:
    """Bob at a console, where his login's script has started an agent."""
    container.push(PROFILE, SCRIPT.encode(), user="bob")
    container.run(["mkfifo", LEAVE], user="bob")
    try:
        session = seat.start_console("bob", vt=10)
        assert host_end.wait_event(CAME)["user"] == "bob"
        yield session
    finally:
        container.run(["rm", PROFILE, LEAVE])


@contextlib.contextmanager
def started(unit: Unit, user: str) -> Iterator[None]:
    """Start the agent of a user who has no session."""
    name = f"spice-session-agent@{user}.service"
    unit.systemctl("start", name)
    try:
        yield
    finally:
        unit.systemctl("stop", name)


def users_of(host: HostClient) -> dict[str, int]:
    """Return whose agents are there, with their pids."""
    return {it["user"]: it["pid"] for it in host.ask("virtagent-list-users")}


@pytest.mark.usefixtures("alice")
def test_a_command_runs_where_its_user_is(world: World, host_end: HostClient, bob: Session) -> None:
    users = users_of(host_end)
    assert set(users) == {"alice", "bob"}
    manager = f"/user.slice/user-{world.uid('alice')}.slice/user@{world.uid('alice')}.service/"
    for user, folder, cgroup in (("alice", manager, USER_AGENT), ("bob", "/", bob.scope)):
        place = look(host_end, user)
        assert (place.user, place.folder) == (user, f"/home/{user}")
        assert place.capabilities == {NOTHING}
        assert place.cgroup.startswith(folder)
        assert cgroup in place.cgroup.split("/")
        assert world.process_status(users[user])["Uid"].split() == [str(world.uid(user))] * 4
    refused = host_end.ask("guest-exec", path="id")
    assert refused.startswith("Command guest-exec has been disabled")
    assert users_of(host_end) == users, "and it is not done as somebody else"


def test_a_display_is_queried_opened_and_comes_to_the_front(
    seat: Seat, world: World, host_end: HostClient, alice: XSession, bob: Session
) -> None:
    world.wait_line(f"of {alice.id} shows :2")
    assert host_end.ask("virtagent-query-displays", "alice") == [
        {
            "display": ":2",
            "session": alice.id,
            "type": "x11",
            "active": True,
            "connected": False,
        }
    ]
    assert host_end.ask("virtagent-query-displays", "bob") == []
    seat.switch(bob.vt)
    seat.wait_active(bob.id)
    refused = host_end.ask("virtagent-connect-display", "bob", display=":2", show=True)
    assert refused == "user 'bob' has no display ':2'"
    shown = host_end.ask("virtagent-connect-display", "alice", display=":2", show=True)
    assert shown == {"session": alice.id}
    assert seat.active() == alice.id
    [screen] = host_end.ask("virtagent-query-screens", "alice", display=":2")
    assert [screen[it] for it in ("x", "y", "width", "height")] == [0, 0, 1024, 768]
    [display] = host_end.ask("virtagent-query-displays", "alice")
    assert display["active"]
    assert display["connected"]


def test_agents_go_with_the_logout(
    container: Container, seat: Seat, host_end: HostClient, alice: XSession, bob: Session
) -> None:
    users = users_of(host_end)
    container.run(["pkill", "--uid", "alice", "--full", "inside.client"])
    assert host_end.wait_event(WENT)["pid"] == users["alice"]
    seat.wait_gone(alice.id)
    container.run(["sh", "-c", f"echo > {LEAVE}"])
    assert host_end.wait_event(WENT)["pid"] == users["bob"]
    seat.wait_gone(bob.id)
    assert host_end.ask("virtagent-list-users") == []
    assert host_end.ask("guest-ping", "bob") == "no agent connected for user 'bob'"


@pytest.mark.usefixtures("alice", "bob")
def test_agents_outlive_the_daemon(container: Container, unit: Unit, host_end: HostClient) -> None:
    before = users_of(host_end)
    mark = unit.now()
    unit.systemctl("restart", SERVICE)
    for user in before:
        unit.wait_line(f"the agent of {user} has connected", after=mark)
    with host_of(container) as host:
        assert users_of(host) == before
        assert output_of(host, "alice", "id", "-un") == "alice\n"


def test_a_user_who_is_not_there_has_an_agent_by_the_template(
    world: World, unit: Unit, host_end: HostClient
) -> None:
    with started(unit, "bob"):
        assert host_end.wait_event(CAME)["user"] == "bob"
        place = look(host_end, "bob")
        assert (place.user, place.folder) == ("bob", "/home/bob")
        assert place.capabilities == {NOTHING}
        assert place.cgroup.startswith(f"/user.slice/user-{world.uid('bob')}.slice/")
        assert host_end.ask("guest-get-users") == [], "that is no login"
    assert host_end.wait_event(WENT)["user"] == "bob"


def test_root_has_one_only_if_the_configuration_says_so(container: Container, unit: Unit) -> None:
    unit.start()
    with started(unit, "root"):
        unit.wait_line("root's agent is not served")
        with host_of(container) as host:
            assert host.ask("virtagent-list-users") == []
            assert "disabled" in host.ask("guest-exec", path="id")
    unit.stop()
    unit.configure("users.allow_root = true")
    unit.start()
    with started(unit, "root"):
        unit.wait_line("the agent of root has connected")
        with host_of(container) as host:
            place = look(host, None)
        assert (place.user, place.folder) == ("root", "/root")
        assert place.cgroup.startswith("/user.slice/user-0.slice/")
    unit.stop()


def actions(container: Container, unit: Unit) -> list[dict[str, Any]]:
    """Return the entries of the journal for what the host has asked this daemon for."""
    container.run(["journalctl", "--sync"])  # what was sent to it is there to be read
    wanted = ["--output=json", f"_PID={unit.show('MainPID')}", "DIRECTION=host-to-guest"]
    return [json.loads(line) for line in container.run(["journalctl", *wanted]).stdout.splitlines()]


def test_all_that_the_host_does_is_in_the_journal(
    container: Container, unit: Unit, host_end: HostClient, bob: Session
) -> None:
    asked: list[tuple[str, str | None, dict[str, Any]]] = [
        ("guest-ping", None, {}),
        ("virtagent-query-displays", "bob", {}),
        ("virtagent-activate-session", None, {"session": bob.id}),
        ("guest-exec", "bob", {"path": "sh", "arg": ["a\nb"], "input_data": "c2VjcmV0"}),
        ("guest-exec", None, {"path": "id"}),
        ("guest-ping", "alice", {}),
        ("guest-nonsense", None, {"secret": "secret"}),
    ]
    before = len(actions(container, unit))
    numbers = [host_end.begin(command, user, **more) for command, user, more in asked]
    for number in numbers:
        host_end.answer(number)
    entries = sorted(actions(container, unit)[before:], key=lambda it: int(it["COMMAND_ID"]))
    names = ("COMMAND_ID", "COMMAND", "COMMAND_USER", "OUTCOME")
    outcomes = ["ok", "ok", "ok", "ok", "CommandNotFound", "GenericError", "CommandNotFound"]
    assert [tuple(entry[name] for name in names) for entry in entries] == [
        (str(number), command, user or "", outcome)
        for number, (command, user, _), outcome in zip(numbers, asked, outcomes, strict=True)
    ]
    for entry in entries:
        assert entry["SYSLOG_IDENTIFIER"] == "spice-sessiond"
        assert entry["PRIORITY"] == "6"
        assert int(entry["DURATION_MS"]) >= 0
        assert "secret" not in str(entry)
        assert "c2VjcmV0" not in str(entry)
    run = next(entry for entry in entries if entry["COMMAND"] == "guest-exec")
    assert run["EXEC_PATH"] == "'sh'"
    assert run["EXEC_ARGUMENTS"] == r"['a\nb']"
