"""Commands in real sessions: the daemon in its sandbox, the system's bus, logind and polkit.

Those who have them run are in the container; qrexec's host is outside, where the vchans are files
of the container's.
"""

from __future__ import annotations

import contextlib
import json
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessiond.wire.exec import Chunk, ExitCode, Stream, Trigger
from tests.daemon.world import ALICE
from tests.fixtures.qrexec import AGENT, Far, Host
from tests.system.inside.desktop import TARGET, UNIT
from tests.system.unit import SERVICE, USER_AGENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon.world import World
    from tests.system.container import Container
    from tests.system.sessions import Seat, XSession
    from tests.system.unit import Unit
    from tests.vm.channel import Completed, Process

CONNECTED: Final = "the agent of {} has connected"
NOTHING: Final = f"{0:016x}"  # no capability
# What a command finds where it runs: its user, folder, screen, session, privileges, and cgroup.
LOOK: Final = """
id -un
pwd
echo $DISPLAY
echo $XDG_SESSION_ID
sed -n 's/^Cap[IPEA].*:\t//p' /proc/self/status | sort -u
sed -n 's/^0:://p' /proc/self/cgroup
"""
BYTES: Final = 5_000_000
# Its own pipes, so that the bytes are only its: what a command said is what there was to say.
COPY: Final = f"""
set -e -o pipefail
head -c {BYTES} /dev/urandom > ~/given
cat ~/given | spice-sessionctl exec -- cat | cmp - ~/given
spice-sessionctl exec -- sh -c 'head -c {BYTES} /dev/zero; echo apart >&2' < /dev/null | wc -c
rm ~/given
"""
CTL: Final = ("spice-sessionctl", "--no-ask-password", "exec")
RULE: Final = "/etc/polkit-1/rules.d/10-commands.rules"
BOB_MAY: Final = """\
polkit.addRule(function(action, subject) {
    if (action.id == "org.spice-space.sessiond1.run-command" && subject.user == "bob")
        return polkit.Result.YES;
});
"""
VCHANS: Final = "/run/vchan"  # as the unit's ReadWritePaths have it
CALLS: Final = "/run/spice-sessiond/qrexec.sock"
SERVICES: Final = "/etc/qubes-rpc"
ECHO: Final = f"""\
#!/bin/sh
cat
{LOOK}
echo said $1 for $QREXEC_REMOTE_DOMAIN >&2
exit 3
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command has run."""

    user: str
    folder: str
    display: str
    session: str
    capabilities: str
    cgroup: str


def place(said: str) -> Place:
    """Return what LOOK has said."""
    return Place(*said.splitlines())


def run(
    container: Container, user: str, *words: str, options: tuple[str, ...] = (), stdin: bytes = b""
) -> Completed:
    """Let USER have a command run, to its end."""
    argv = [*CTL, *options, "--", *words]
    return container.run(argv, user=user, stdin=stdin, check=False)


def begin(
    container: Container, user: str, script: str, *, options: tuple[str, ...] = ()
) -> tuple[Process, int]:
    """Let USER have a script run, which goes on; return its caller, and the shell's pid."""
    argv = [*CTL, *options, "--", "sh", "-c", f"echo $$; {script}"]
    caller = container.spawn(argv, user=user)
    return caller, int(caller.wait_for_output("\n").splitlines()[0])


@pytest.fixture
def alice(installed: Container, seat: Seat, world: World) -> XSession:
    """Alice at a desktop, where systemd has started her agent."""
    installed.push(f"/etc/systemd/user/{TARGET}", UNIT.encode())
    session = seat.start_gdm("alice", display=2, vt=8, number=ALICE, program="desktop")
    world.wait_line(CONNECTED.format("alice"))
    world.wait_line(f"of {session.id} shows :2")
    return session


@contextlib.contextmanager
def agent_of(unit: Unit, user: str) -> Iterator[None]:
    """Start the agent of a user who has no session."""
    name, mark = f"spice-session-agent@{user}.service", unit.now()
    unit.systemctl("start", name)
    try:
        unit.wait_line(CONNECTED.format(user), after=mark)
        yield
    finally:
        unit.systemctl("stop", name)


def hers(world: World) -> str:
    """Return the cgroup of Alice's agent."""
    uid = world.uid("alice")
    return f"/user.slice/user-{uid}.slice/user@{uid}.service/"


def check_hers(found: Place, world: World, session: XSession) -> None:
    """It ran as Alice, without privileges, in her session, and where her agent is."""
    assert (found.user, found.folder) == ("alice", "/home/alice")
    assert (found.display, found.session) == (":2", session.id)
    assert found.capabilities == NOTHING
    assert found.cgroup.startswith(hers(world))
    assert USER_AGENT in found.cgroup.split("/")


def test_a_user_in_their_own_session(container: Container, world: World, alice: XSession) -> None:
    done = run(container, "alice", "sh", "-c", LOOK)
    assert (done.status, done.stderr) == (0, "")
    check_hers(place(done.stdout), world, alice)
    given = run(container, "alice", "cat", stdin=b"said to it")
    assert (given.status, given.stdout, given.stderr) == (0, "said to it", "")


@pytest.mark.usefixtures("alice")
def test_many_bytes_both_ways(container: Container) -> None:
    done = container.run(["bash", "-c", COPY], user="alice", timeout=60)
    assert (done.stdout.strip(), done.stderr) == (str(BYTES), "apart\n")


@pytest.mark.usefixtures("alice")
def test_how_commands_end(container: Container) -> None:
    ends = {
        ("sh", "-c", "exit 7"): 7,
        ("sh", "-c", "kill -KILL $$"): 128 + signal.SIGKILL,
        ("nothing-of-this-name",): 127,
        ("/etc/passwd",): 126,
    }
    assert {words: run(container, "alice", *words).status for words in ends} == ends


@pytest.mark.usefixtures("alice")
def test_an_interrupt_reaches_the_command(container: Container) -> None:
    script = "trap 'echo interrupted; exit 42' INT; echo ready; sleep 1000"
    caller, _ = begin(container, "alice", script)
    caller.wait_for_output("ready\n")
    caller.kill(signal.SIGINT)
    done = caller.wait()
    assert (done.status, done.stdout.splitlines()[1:]) == (42, ["ready", "interrupted"])


def test_root_in_a_users_session(container: Container, world: World, alice: XSession) -> None:
    for options in (("--user", "alice"), ("--session", alice.id)):
        done = run(container, "root", "sh", "-c", LOOK, options=options)
        assert (done.status, done.stderr) == (0, "")
        check_hers(place(done.stdout), world, alice)


def test_another_user_is_asked_about_by_polkit(
    container: Container, world: World, alice: XSession
) -> None:
    for options in (("--user", "alice"), ("--session", alice.id)):
        refused = run(container, "bob", "id", options=options)
        assert (refused.status, refused.stdout) == (126, "")
        assert "a password is needed" in refused.stderr  # by polkit
    with polkit_rule(container):
        done = run(container, "bob", "sh", "-c", LOOK, options=("--user", "alice"))
    assert (done.status, done.stderr) == (0, "")
    check_hers(place(done.stdout), world, alice)


@contextlib.contextmanager
def polkit_rule(container: Container) -> Iterator[None]:
    """Let polkit allow it to Bob."""
    container.push(RULE, BOB_MAY.encode())
    container.run(["systemctl", "restart", "polkit"])
    try:
        yield
    finally:
        container.run(["rm", RULE])
        container.run(["systemctl", "restart", "polkit"])


@pytest.mark.usefixtures("alice")
def test_a_user_without_an_agent(container: Container, world: World) -> None:
    for caller, options in (("root", ("--user", "bob")), ("bob", ())):
        done = run(container, caller, "id", options=options)
        assert (done.status, done.stdout) == (125, "")
        assert "bob" in done.stderr
    world.wait_line("root -> bob: run 'id' .* no agent")


def test_each_run_is_in_the_journal(container: Container, unit: Unit, alice: XSession) -> None:
    run(container, "alice", "sh", "-c", "exit 3", stdin=b"secret")
    run(container, "root", "no-such", options=("--user", "alice", "--env", "A=secret"))
    run(container, "bob", "id", options=("--session", alice.id))
    run(container, "bob", "id")
    told = entries(container, unit)
    names = ("CALLER", "COMMAND_USER", "COMMAND", "EXEC_PATH", "EXEC_ARGUMENTS")
    exit3 = ("alice", "alice", "run", "'sh'", "['-c' 'exit 3']")
    assert [(*(it[name] for name in names), it["OUTCOME"].split(",")[0]) for it in told] == [
        (*exit3, "started"),
        (*exit3, "exit code 3"),
        ("root", "alice", "run", "'no-such'", "[]", "not started"),
        ("bob", "alice", "run", "'id'", "[]", "refused by polkit"),
        ("bob", "bob", "run", "'id'", "[]", "no agent"),
    ]
    assert told[0]["COMMAND_ID"] == told[1]["COMMAND_ID"]
    for it in told:
        assert (it["SYSLOG_IDENTIFIER"], it["PRIORITY"]) == ("spice-sessiond", "6")
        assert int(it["DURATION_MS"]) >= 0
        assert "secret" not in str(it)


def entries(container: Container, unit: Unit, direction: str = "local") -> list[dict[str, Any]]:
    """Return what the journal has of the commands that this daemon had run."""
    container.run(["journalctl", "--sync"])  # what was sent to it is there to be read
    wanted = ["--output=json", f"_PID={unit.show('MainPID')}", f"DIRECTION={direction}"]
    return [json.loads(line) for line in container.run(["journalctl", *wanted]).stdout.splitlines()]


@pytest.mark.usefixtures("alice")
def test_a_command_ends_with_its_caller(container: Container, world: World) -> None:
    caller, pid = begin(container, "alice", "trap '' HUP; sleep 1000; sleep 1000")
    assert hers(world) in container.read(f"/proc/{pid}/cgroup").decode()
    caller.kill(signal.SIGKILL)
    world.wait_end(pid)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.usefixtures("alice")
def test_a_command_ends_with_its_users_agent(
    container: Container, world: World, ending: signal.Signals
) -> None:
    """By the agent, or by its unit: there is nothing left of what it ran."""
    caller, pid = begin(container, "alice", "trap '' HUP TERM; sleep 1000; sleep 1000")
    # The oldest: it has a process that starts others.
    find = ["pgrep", "--oldest", "--uid=alice", "--full", "agent user$"]
    container.run(["kill", f"-{ending.value}", container.run(find).stdout.strip()])
    world.wait_end(pid)
    done = caller.wait()
    assert done.status == 125
    assert "agent has ended" in done.stderr


@pytest.mark.usefixtures("alice")
def test_a_command_ends_with_the_daemon(container: Container, world: World, unit: Unit) -> None:
    caller, pid = begin(container, "alice", "sleep 1000")
    unit.systemctl("restart", SERVICE)
    done = caller.wait()
    assert (done.status, "spice-sessiond has ended" in done.stderr) == (125, True)
    world.wait_end(pid)


# qrexec.


@pytest.fixture
def qrexec(container: Container, unit: Unit) -> Iterator[Host]:
    """Be the host of the daemon, which is a domain of its; Alice has an agent, and a service."""
    container.run(["install", "--directory", "--mode=1777", VCHANS])
    container.push(f"{SERVICES}/test.Echo", ECHO.encode(), mode=0o755)
    unit.configure(f"qrexec.domain = {AGENT}")
    unit.start()
    try:
        with agent_of(unit, "alice"), Host(container.outside(VCHANS)) as host:
            yield host.connect()
    finally:
        unit.close_sockets()
        unit.stop()
        container.run(["rm", "--recursive", VCHANS, SERVICES])


def served(host: Host, line: str, given: bytes = b"") -> Far:
    """Have it run to its end."""
    far = host.start(line)
    far.feed(given)
    far.end()
    host.finish(far)
    return far


def test_a_service_for_qrexecs_host(
    container: Container, world_uid: int, unit: Unit, qrexec: Host
) -> None:
    given = bytes(range(256)) * (BYTES // 256)
    far = served(qrexec, "alice:QUBESRPC test.Echo+x domX", given)
    assert (far.exit_code, far.stderr) == (3, b"said x for domX\n")
    assert far.stdout[: len(given)] == given
    found = place(far.stdout[len(given) :].decode().lstrip("\n"))
    assert (found.user, found.folder, found.capabilities) == ("alice", "/home/alice", NOTHING)
    assert found.cgroup.startswith(f"/user.slice/user-{world_uid}.slice/")
    told = entries(container, unit, "qrexec-to-guest")
    names = ("COMMAND_USER", "EXEC_PATH", "EXEC_ARGUMENTS")
    assert [tuple(it[name] for name in names) for it in told] == [
        ("alice", "'test.Echo+x'", "['domX']")
    ] * 2
    assert [it["OUTCOME"].split(",")[0] for it in told] == ["started", "exit code 3"]


@pytest.fixture
def world_uid(container: Container) -> int:
    """Give Alice's user id."""
    return int(container.run(["id", "-u", "alice"]).stdout)


def test_what_qrexecs_host_does_not_get(qrexec: Host) -> None:
    codes = {
        "alice:QUBESRPC test.Missing domX": 127,
        "alice:echo never": 126,  # a command, which no rule allows
        "bob:QUBESRPC test.Echo domX": 125,  # who has no agent
        "root:QUBESRPC test.Echo domX": 125,
    }
    for line, code in codes.items():
        far = served(qrexec, line, b"unread")
        assert far.messages == [
            Chunk(Stream.STDOUT, b""), Chunk(Stream.STDERR, b""), ExitCode(code)
        ], line  # fmt: skip


def test_a_user_calls_a_service_of_the_host(container: Container, qrexec: Host) -> None:
    argv = ["spice-session-agent", "qrexec-client", "--agent-socket", CALLS, "domX", "test.Far"]
    env = {"VCHAN_DOMAIN": str(AGENT), "VCHAN_SOCKET_DIR": VCHANS}
    for is_granted in (True, False):
        client = container.spawn(argv, user="alice", env=env)
        call = qrexec.wait_for(Trigger)
        assert (call.service, call.target) == (b"test.Far", b"domX")
        if is_granted:
            far = qrexec.grant(call)
            far.feed(b"from the host")
            far.end(Stream.STDOUT)
            far.say(ExitCode(9))
            qrexec.finish(far)
            done = client.wait()
            assert (done.status, done.stdout) == (9, "from the host")
        else:
            qrexec.refuse(call)
            assert client.wait().status == 126
