"""Users' agents and the host channel: the daemon and real agents, asked by host and bus."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pwd
import re
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessiond.bus import access
from sessiond.bus.paths import ROOT, session_path
from tests.fixtures.child import ROOT as CODE
from tests.fixtures.daemon import BUS_NAME, MANAGER, Daemon, Stage
from tests.fixtures.host_channel import USERNAME, HostClient
from tests.fixtures.polkit import Polkit, require_polkit
from tests.fixtures.user_agent import ALICE, BOB, IS_ROOT, UserAgent
from tests.fixtures.xserver import Xvfb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root may without polkit")
needs_two_users = pytest.mark.skipif(not IS_ROOT, reason="without root everybody is us")
ERROR: Final = f"{BUS_NAME}.Error"
DENIED: Final = "org.freedesktop.DBus.Error.AccessDenied"
MAY: Final = "backup"  # whom the rules allow everything
RULES: Final = f"""
polkit.addRule(function(action, subject) {{
    return subject.user == "{MAY}" ? polkit.Result.YES : polkit.Result.NO;
}});
"""
SIZE: Final = (800, 600)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A daemon without any stream port: users' agents and the host channel need none."""
    with Stage(tmp_path / "no-port") as made:
        made.daemon.wait_ready()
        yield made


@pytest.fixture
def host(stage: Stage) -> Iterator[HostClient]:
    with HostClient(stage.daemon.host_channel) as made:
        yield made


@pytest.fixture
def alice(stage: Stage) -> Iterator[UserAgent]:
    with connected(stage.daemon, ALICE) as made:
        yield made


@contextlib.contextmanager
def connected(daemon: Daemon, user: str) -> Iterator[UserAgent]:
    mark = daemon.now()
    with UserAgent(daemon.agent_socket, user) as made:
        wait_agent(daemon, made, after=mark)
        yield made


def wait_agent(daemon: Daemon, agent: UserAgent, *, after: int = -1) -> None:
    daemon.wait_line(f"the agent of {agent.user} has connected: .* pid {agent.pid}$", after=after)


def listen(host: HostClient, **what: bool) -> None:
    """Switch on what the host wants to hear."""
    host.ask("virtagent-set-capabilities", **what)


def call(stage: Stage, member: str, *arguments: str, user: str = "root") -> Any:  # noqa: ANN401
    """Call the Manager; return the result, or the name of the error."""
    account = pwd.getpwnam(user) if IS_ROOT else pwd.getpwuid(os.getuid())
    done = subprocess.run(
        [
            *("gdbus", "call", "--address", stage.bus.address, "--dest", BUS_NAME),
            *("--object-path", ROOT, "--method", f"{MANAGER}.{member}", *arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[] if IS_ROOT else None,
    )
    if done.returncode:
        return done.stderr.partition("GDBus.Error:")[2].partition(": ")[0] or done.stderr
    return done.stdout.strip()


def log_in(stage: Stage, user: str, display: str, **properties: object) -> None:
    account = pwd.getpwnam(user)
    mark = stage.daemon.now()
    session = {"id": "1", "vt": 7, "user": user, "display": display}
    owner = {"uid": account.pw_uid, "gid": account.pw_gid}
    stage.login1.do("add_session", **(session | owner | properties))
    stage.daemon.wait_line(r"session \S+ of .* has come", after=mark)


# The host asks.


def test_host_finds_a_daemon_and_no_users(host: HostClient) -> None:
    assert host.ask("guest-ping") == {}
    assert host.ask("virtagent-list-users") == []
    assert host.ask("virtagent-get-status")["reason"] == "port-missing"
    names = {it["name"] for it in host.ask("guest-info")["supported_commands"]}
    assert {"guest-ping", "guest-exec", "virtagent-call", "virtagent-query-displays"} <= names
    said = host.ask("guest-ping", ALICE)
    assert said == f"no agent connected for user '{ALICE}'"


def test_a_user_is_reached_by_both_forms(host: HostClient, alice: UserAgent) -> None:
    [user] = host.ask("virtagent-list-users")
    assert (user["user"], user["uid"], user["pid"]) == (ALICE, alice.uid, alice.pid)
    assert host.ask("guest-ping", ALICE) == {}
    assert host.ask("virtagent-call", username=ALICE, execute="guest-ping") == {}
    named = host.answer(host.begin("guest-ping", ALICE))
    assert (named["return"], named[USERNAME]) == ({}, ALICE)


def run(host: HostClient, user: str, path: str, *words: str, **more: object) -> dict[str, Any]:
    """Run a command to its end; return its status."""
    more = {"capture_output": True, **more}
    pid = host.ask("guest-exec", user, path=path, arg=words, **more)["pid"]
    while not (status := host.ask("guest-exec-status", user, pid=pid))["exited"]:
        wait_end(pid)  # instead of asking on and on
    assert isinstance(status, dict)
    return status


def wait_end(pid: int) -> None:
    """Wait until a process has ended, whoever's it is."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        select.select([pidfd], [], [], 10)
        os.close(pidfd)


def text(data: str) -> str:
    return base64.b64decode(data).decode()


def test_host_runs_a_command_as_the_user(stage: Stage, host: HostClient, alice: UserAgent) -> None:
    status = run(host, ALICE, "sh", "-c", "id -u; cat; exit 3",
                 input_data=base64.b64encode(b"from the host\n").decode())  # fmt: skip
    assert status["exitcode"] == 3
    assert text(status["out-data"]) == f"{alice.uid}\nfrom the host\n"
    line = stage.daemon.wait_line(rf"host -> {ALICE}: guest-exec 'sh' \['-c' 'id -u; cat")
    assert "from the host" not in stage.daemon.lines[line]


def test_without_a_user_nothing_is_run(stage: Stage, host: HostClient, alice: UserAgent) -> None:
    answer = host.answer(host.begin("guest-exec", path="id"))
    assert answer["error"]["class"] == "CommandNotFound"
    assert answer["error"]["desc"].startswith("Command guest-exec has been disabled")
    stage.daemon.wait_line("host -> daemon: guest-exec 'id' .*: CommandNotFound")
    assert not [line for line in alice.lines if "guest-exec" in line]


@needs_two_users
def test_root_is_no_user_unless_the_configuration_says_so(tmp_path: Path) -> None:
    with Stage(tmp_path / "no-port") as stage:
        with UserAgent(stage.daemon.agent_socket, "root") as agent:
            stage.daemon.wait_line("root's agent is not served")
            agent.wait_line("root's agent is not served")
        with HostClient(stage.daemon.host_channel) as host:
            assert host.ask("virtagent-list-users") == []
    with Stage(tmp_path / "no-port", ["users.allow_root=true"]) as stage:
        stage.daemon.wait_ready()
        with connected(stage.daemon, "root"), HostClient(stage.daemon.host_channel) as host:
            pid = host.ask("guest-exec", path="id", arg=["-u"], capture_output=True)["pid"]
            assert pid > 0


@needs_two_users
def test_two_users_are_two(stage: Stage, host: HostClient, alice: UserAgent) -> None:
    with connected(stage.daemon, BOB) as bob:
        users = {it["user"]: it["pid"] for it in host.ask("virtagent-list-users")}
        assert users == {ALICE: alice.pid, BOB: bob.pid}
        for user, agent in ((ALICE, alice), (BOB, bob)):
            assert text(run(host, user, "id", "-u")["out-data"]) == f"{agent.uid}\n"


# Agents come and go.


def test_an_agent_that_goes_is_told_everywhere(stage: Stage, host: HostClient) -> None:
    listen(host, events=True)
    with connected(stage.daemon, ALICE) as agent:
        told = {"user": ALICE, "uid": agent.uid, "pid": agent.pid}
        assert host.wait_event("VIRTAGENT_USER_CONNECTED") == told
        path = f"{ROOT}/user/{agent.uid}"
        assert path in call(stage, "ListUserAgents")
        number = host.begin("guest-exec-status", ALICE, pid=1 << 22)
        assert "error" in host.answer(number)
        agent.process.kill()
        assert host.wait_event("VIRTAGENT_USER_DISCONNECTED") == told
    assert call(stage, "ListUserAgents") == "(@a(uso) [],)"
    assert host.ask("guest-ping", ALICE) == f"no agent connected for user '{ALICE}'"


def test_calls_of_an_agent_that_dies_have_an_answer(
    stage: Stage, host: HostClient, alice: UserAgent
) -> None:
    alice.signal(signal.SIGSTOP)
    numbers = [host.begin("guest-ping", ALICE) for _ in range(3)]
    assert host.ask("guest-ping") == {}, "nobody else waits for it"
    alice.process.kill()
    said = {host.answer(number)["error"]["desc"] for number in numbers}
    assert said == {f"agent of user '{ALICE}' has gone"}
    stage.daemon.wait_line(f"host -> {ALICE}: guest-ping, id {numbers[0]}: GenericError")


def test_the_newer_agent_replaces_the_older(
    stage: Stage, host: HostClient, alice: UserAgent
) -> None:
    listen(host, events=True)
    alice.signal(signal.SIGSTOP)
    number = host.begin("guest-ping", ALICE)
    assert host.ask("guest-ping") == {}
    with UserAgent(stage.daemon.agent_socket, ALICE) as newer:  # its lock is elsewhere
        stage.daemon.wait_line(f"pid {newer.pid} has replaced pid {alice.pid}")
        assert host.answer(number)["error"]["desc"] == "agent replaced"
        assert host.wait_event("VIRTAGENT_USER_DISCONNECTED")["pid"] == alice.pid
        assert host.wait_event("VIRTAGENT_USER_CONNECTED")["pid"] == newer.pid
        alice.signal(signal.SIGCONT)
        alice.wait_line("is lost: .*replaced")
        [user] = host.ask("virtagent-list-users")
        assert user["pid"] == newer.pid


def test_a_second_agent_of_the_same_session_does_not_start(stage: Stage, alice: UserAgent) -> None:
    with UserAgent(stage.daemon.agent_socket, ALICE, runtime=alice.runtime) as second:
        assert second.wait_exit() == 3
        assert any(f"already running as pid {alice.pid}" in line for line in second.lines)


def test_agents_outlive_the_daemon(stage: Stage, alice: UserAgent, tmp_path: Path) -> None:
    first = stage.daemon
    settings = [f'users.socket="{first.agent_socket}"']
    mark = alice.now()
    first.signal(signal.SIGTERM)
    assert first.wait_exit() == 0
    alice.wait_line("is lost", after=mark)
    with Daemon(stage.bus, tmp_path / "no-port", settings) as second:
        wait_agent(second, alice)
        second.wait_ready()
        with HostClient(second.host_channel) as host:
            assert host.ask("guest-ping", ALICE) == {}


def test_without_the_agents_socket_all_else_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with Stage(tmp_path / "no-port", [f'users.socket="{folder}/agent.sock"']) as stage:
        stage.daemon.wait_line("users' agents are not heard: .*other users can replace")
        stage.daemon.wait_ready()
        with HostClient(stage.daemon.host_channel) as host:
            assert host.ask("virtagent-list-users") == []


# What the host hears.


def test_events_come_only_when_they_are_wanted(stage: Stage, alice: UserAgent) -> None:
    path = stage.daemon.host_channel
    with HostClient(path) as deaf:
        log_in(stage, ALICE, ":99")
        assert deaf.ask("guest-ping") == {}
        assert deaf._lines == []
        listen(deaf, events=True)
        stage.login1.do("add_session", id="2", vt=8, user=ALICE, uid=alice.uid, gid=alice.uid)
        assert deaf.wait_event("VIRTAGENT_SESSION_SWITCHED") == {"from": "1", "to": "2"}
    with HostClient(path) as next_one:
        mark = stage.daemon.now()
        stage.login1.do("switch", id="1")
        stage.daemon.wait_line("decided: .*session='1'", after=mark)
        assert next_one.ask("guest-ping") == {}
        assert next_one._lines == [], "what the one before has switched on is off"


@needs_root
def test_events_of_displays_and_of_the_stream(
    stage: Stage, host: HostClient, alice: UserAgent
) -> None:
    listen(host, events=True)
    log_in(stage, ALICE, ":99")
    assert host.wait_event("VIRTAGENT_SESSION_SWITCHED") == {"from": "", "to": "1"}
    assert host.wait_event("VIRTAGENT_DISPLAYS_CHANGED") == {"user": ALICE, "uid": alice.uid}
    subprocess.run(
        [*("busctl", f"--address={stage.bus.address}", "set-property", BUS_NAME, ROOT, MANAGER),
         *("StreamingEnabled", "b", "false")], check=True,
    )  # fmt: skip
    told = host.wait(lambda it: it.get("data", {}).get("reason") == "paused-by-admin")
    assert told["event"] == "VIRTAGENT_STREAM_STATE"
    assert told["data"]["state"] == "paused"
    assert set(told["timestamp"]) == {"seconds", "microseconds"}


def test_a_user_asks_the_host(stage: Stage, host: HostClient, alice: UserAgent) -> None:
    with alice.call("open-url", '{"url": "x"}') as refused:
        _, said = refused.communicate(timeout=20)
    assert refused.returncode == 1
    assert "the host takes no requests" in said
    listen(host, requests=True)
    with alice.call("open-url", '{"url": "y"}') as asking:
        request = host.wait(lambda line: line.get("execute") == "open-url")
        assert request[USERNAME] == ALICE
        assert request["arguments"] == {"url": "y"}
        host.send({"return": {"opened": True}, "id": request["id"], USERNAME: ALICE})
        answer, _ = asking.communicate(timeout=20)
    assert json.loads(answer) == {"opened": True}
    stage.daemon.wait_line(rf"{ALICE} -> host: open-url.*: ok")


def test_hosts_error_is_told_and_an_answer_for_another_is_none(
    host: HostClient, alice: UserAgent
) -> None:
    listen(host, requests=True)
    for reply, words in (
        ({"error": {"class": "GenericError", "desc": "no such thing"}, USERNAME: ALICE}, "no such"),
        ({"return": {}, USERNAME: "somebody"}, "for another user"),
    ):
        with alice.call("do-it") as asking:
            request = host.wait(lambda line: line.get("execute") == "do-it")
            host.send(reply | {"id": request["id"]})
            _, said = asking.communicate(timeout=20)
        assert asking.returncode == 1
        assert words in said


# Displays.


@pytest.fixture
def screen() -> Iterator[Xvfb]:
    with Xvfb(*SIZE, extensions=["RANDR"]) as made:
        yield made


def test_display_is_queried_connected_and_seen_by_the_host(
    stage: Stage, host: HostClient, alice: UserAgent, screen: Xvfb
) -> None:
    log_in(stage, ALICE, screen.display)
    listen(host, events=True)
    [display] = displays_of(host, screen)
    assert display == {
        "display": screen.display, "session": "1", "type": "x11", "active": True,
        "connected": False,
    }  # fmt: skip
    said = host.ask("virtagent-query-screens", ALICE, display=screen.display)
    assert said == f"display '{screen.display}' is not connected"
    for _ in range(2):  # the second time nothing is new
        answer = host.ask("virtagent-connect-display", username=ALICE, display=screen.display)
        assert answer == {"session": "1"}
    [display] = displays_of(host, screen)
    assert display["connected"]
    [one] = host.ask("virtagent-query-screens", ALICE, display=screen.display)
    assert (one["x"], one["y"], one["width"], one["height"]) == (0, 0, *SIZE)
    screen.kill()
    assert host.wait_event("VIRTAGENT_DISPLAYS_CHANGED")["user"] == ALICE
    said = host.ask("virtagent-query-screens", ALICE, display=screen.display)
    assert said == f"display '{screen.display}' is not connected"
    assert alice.process.poll() is None


def displays_of(host: HostClient, screen: Xvfb) -> list[dict[str, Any]]:
    found = host.ask("virtagent-query-displays", ALICE)
    return [it for it in found if it["display"] == screen.display]


def test_display_is_queried_connected_and_seen_on_the_bus(
    stage: Stage, alice: UserAgent, screen: Xvfb
) -> None:
    log_in(stage, ALICE, screen.display)
    name, display = f"'{alice.user}'", f"'{screen.display}'"
    assert f"('{screen.display}', '1', 'x11', true)" in call(stage, "QueryDisplays", name)
    assert call(stage, "QueryScreens", name, display) == f"{ERROR}.NotConnected"
    assert call(stage, "ConnectDisplay", name, "':98765'", "false") == f"{ERROR}.NoSuchDisplay"
    connected = call(stage, "ConnectDisplay", name, display, "false")
    assert connected == f"(objectpath '{session_path('1')}',)"
    found = call(stage, "QueryScreens", name, display)
    assert re.search(rf"', 0, 0, (uint32 )?{SIZE[0]}, (uint32 )?{SIZE[1]}, ", found)
    assert call(stage, "QueryDisplays", "'nobody-at-all'") == f"{ERROR}.NoUserAgent"


# The modules may lie where only root reads them: they are loaded first.
AS_USER: Final = """\
import io, os, sys
import rich.console, rich.table
import sessiond.ctl.commands, sessiond.ctl.program, sessiond.ctl.users
from sessiond.ctl.__main__ import main
rich.console.Console(file=io.StringIO()).print(rich.table.Table("loads what printing needs"))
os.setresuid({uid}, {uid}, {uid})
sys.exit(main())
"""


def ctl(stage: Stage, *argv: str, user: str = "") -> str:
    """Run spice-sessionctl as USER; return what it prints."""
    uid = pwd.getpwnam(user).pw_uid if user else os.getuid()
    program = AS_USER.format(uid=uid)
    done = subprocess.run(
        [sys.executable, "-c", program, f"--bus={stage.bus.address}", *argv],
        cwd=CODE, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_user_looks_at_displays_of_their_own(
    stage: Stage, alice: UserAgent, screen: Xvfb
) -> None:
    log_in(stage, ALICE, screen.display)
    assert re.search(rf"{alice.uid} +{ALICE} +{alice.pid} ", ctl(stage, "users", user=ALICE))
    assert re.search(rf"{screen.display} +1 +x11 +yes", ctl(stage, "displays", user=ALICE))
    said = ctl(stage, "connect-display", screen.display, user=ALICE)
    assert said == f"Connected to {screen.display}, which belongs to session 1.\n"
    found = json.loads(ctl(stage, "--json=short", "screens", screen.display, user=ALICE))
    assert [(it["Width"], it["Height"]) for it in found] == [SIZE]
    assert ctl(stage, "screens", ALICE, screen.display).startswith("OUTPUT")


@needs_root
def test_connected_display_is_shown_where_that_is_asked_for(
    stage: Stage, host: HostClient, alice: UserAgent, screen: Xvfb
) -> None:
    log_in(stage, ALICE, screen.display)
    log_in(stage, ALICE, "", id="2", vt=8)
    assert stage.daemon.property("ActiveSession")[0] == "2"
    name, display = f"'{alice.user}'", f"'{screen.display}'"
    assert session_path("1") in call(stage, "ConnectDisplay", name, display, "true")
    assert stage.daemon.property("ActiveSession")[0] == "1"
    stage.login1.do("switch", id="2")
    answer = host.ask("virtagent-connect-display", ALICE, display=screen.display, show=True)
    assert answer == {"session": "1"}
    assert stage.daemon.property("ActiveSession")[0] == "1"


@needs_two_users
def test_displays_of_others_are_a_matter_for_polkit(
    stage: Stage, alice: UserAgent, screen: Xvfb
) -> None:
    require_polkit()
    log_in(stage, ALICE, screen.display)
    name, display = f"'{ALICE}'", f"'{screen.display}'"
    orders = (
        ("QueryDisplays", name),
        ("ConnectDisplay", name, display, "false"),
        ("QueryScreens", name, display),
    )
    with connected(stage.daemon, BOB), Polkit(stage.bus.address, RULES):
        for order in orders:
            assert call(stage, *order, user=BOB) == DENIED, order
        for user in (ALICE, MAY, "root"):
            for order in orders:
                assert call(stage, *order, user=user).startswith("("), (user, order)
        # To show it is to switch, and that is nobody's own.
        show = ("ConnectDisplay", name, display, "true")
        assert call(stage, *show, user=ALICE) == DENIED
        assert call(stage, *show, user=MAY).startswith("(")
        stage.daemon.wait_line(f"refused ConnectDisplay .*{access.SWITCH}")
    assert alice.process.poll() is None


@needs_two_users
def test_an_agent_becomes_the_user_whom_root_names(stage: Stage, host: HostClient) -> None:
    with UserAgent(stage.daemon.agent_socket, BOB, is_started_by_root=True) as agent:
        wait_agent(stage.daemon, agent)
        ids = text(run(host, BOB, "sh", "-c", "id -u; echo $USER")["out-data"])
        assert ids == f"{agent.uid}\n{BOB}\n"
