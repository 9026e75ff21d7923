"""The units themselves: what starts the daemon, what ends it, and what the sandbox leaves it."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Final

import pytest

from sessiond import scope
from tests.daemon.world import ALICE, wait_number, wait_reason
from tests.system.inside.confined import PRIVATE
from tests.system.root import PROJECT
from tests.system.unit import NAME, SERVICE, SOCKETS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon.world import World
    from tests.system.container import Container
    from tests.system.unit import Unit

HELPER, AGENT, KMS = SOCKETS
ROOT: Final = "/org/spice_space/Sessiond1"
MANAGER: Final = (NAME, ROOT, f"{NAME}.Manager")
DROP_INS: Final = f"/run/systemd/system/{SERVICE}.d"
# linux/capability.h
CAP_SYS_ADMIN: Final = 21
CAPABILITIES: Final = {
    "cap_kill": 5,
    "cap_setgid": 6,
    "cap_setuid": 7,
    "cap_setpcap": 8,
    "cap_sys_ptrace": 19,
}
# Connects, and returns at the end of the connection; to an abstract name, where it begins with @.
CONNECT: Final = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1].replace("@", chr(0)))
client.shutdown(socket.SHUT_WR)
client.recv(1)
"""
# Connects as the daemon does, and holds the connection until it is killed; or says why not.
HOLD: Final = """
import signal, socket, sys
client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
try:
    client.connect(sys.argv[1])
except OSError as error:
    sys.exit(error.strerror)
print("connected", flush=True)
signal.pause()
"""
TERMINAL: Final = """
import os, signal
master, slave = os.openpty()
print(os.ttyname(slave), flush=True)
signal.pause()
"""


def connect(address: str) -> list[str]:
    return ["python3", "-c", CONNECT, address]


@contextlib.contextmanager
def drop_in(container: Container, text: str) -> Iterator[None]:
    """Add to the service's [Service] for as long as this lasts."""
    container.push(f"{DROP_INS}/test.conf", f"[Service]\n{text}".encode())
    container.run(["systemctl", "daemon-reload"])
    try:
        yield
    finally:
        container.run(["rm", "--recursive", DROP_INS])
        container.run(["systemctl", "daemon-reload"])


def test_enabled_under_the_older_names_too(unit: Unit) -> None:
    older = ("spice-streaming-agent.service", "spice-streaming-agent.socket")
    assert unit.show("Id", older[0]) == SERVICE
    assert unit.show("Id", older[1]) == HELPER
    for each in SOCKETS:
        assert unit.systemctl("is-enabled", each) == "enabled"
        assert unit.systemctl("is-active", each) == "active"
    assert unit.show("ActiveState") == "inactive"


@pytest.mark.parametrize(
    "address", ["@spice-streaming-agent-daemon", "/run/spice-sessiond/agent.sock"]
)
def test_who_connects_starts_it_and_is_let_go(unit: Unit, address: str) -> None:
    unit.container.run(connect(address), user="bob")
    unit.wait_line("is open")
    unit.stop()
    # Nobody waits any more who would start it again; the sockets are still there.
    assert unit.show("ActiveState") == "inactive"
    unit.container.run(connect(address), user="bob")
    assert unit.show("NRestarts") == "0"


def test_who_asks_for_its_name_starts_it(unit: Unit) -> None:
    unit.configure(port="/dev/virtio-ports/there-is-none")
    get = ["busctl", "--json=short", "get-property", *MANAGER, "Reason"]
    said = unit.container.run(get, user="bob").stdout
    assert json.loads(said)["data"] == "port-missing", "the first answer is the right one"
    unit.stop()


def test_a_wrong_configuration_is_no_loop(unit: Unit) -> None:
    unit.configure(grace="long")
    failed = unit.container.run(["systemctl", "start", SERVICE], check=False)
    assert failed.status != 0
    assert (unit.show("Result"), unit.show("ExecMainStatus")) == ("exit-code", "2")
    assert (unit.show("ActiveState"), unit.show("NRestarts")) == ("failed", "0")
    unit.wait_line(r"config.toml:\d: stream.grace: 'long' is not seconds from 0 to 60")
    # A helper that waits starts it a few times more, and then no more.
    helper = unit.container.spawn(connect("@spice-streaming-agent-daemon"))
    helper.wait(20)
    assert unit.show("Result", HELPER) == "trigger-limit-hit"
    # Once it is right, one start makes all of it right.
    unit.configure()
    unit.start()
    assert unit.show("ActiveState", HELPER) == "active"
    unit.container.run(connect("@spice-streaming-agent-daemon"))


def test_a_reload_says_what_is_wrong(unit: Unit) -> None:
    unit.start()
    unit.configure(grace="long")
    failed = unit.container.run(["systemctl", "reload", SERVICE], check=False)
    assert failed.status != 0
    assert unit.show("ActiveState") == "active"
    said = unit.container.run(["journalctl", f"--unit={SERVICE}", "--output=cat"]).stdout
    assert "Call failed: /etc/spice-sessiond/config.toml" in said
    unit.configure(when_idle="close")
    unit.systemctl("reload", SERVICE)
    unit.stop()


def test_a_daemon_that_hangs_is_started_again(unit: Unit) -> None:
    with drop_in(unit.container, "WatchdogSec=2\nRestartSec=0\n"):
        unit.start()
        mark = unit.now()
        unit.systemctl("kill", "--kill-whom=main", "--signal=STOP", SERVICE)
        unit.wait_line("is open", after=mark)
        assert unit.show("NRestarts") != "0"
        unit.stop()


def test_the_older_programs_options_are_taken(unit: Unit) -> None:
    options = "/etc/sysconfig/spice-streaming-agent"
    older = "-c framerate=20 -c gst.codec=vp8 --log-categories=frames"
    unit.container.push(options, f'SPICE_STREAMING_EXTRA_ARGS="{older}"\n'.encode())
    try:
        unit.start()
        unit.wait_line("spice-streaming-agent that have no effect here: --log-categories")
        arguments = unit.container.read(f"/proc/{unit.show('MainPID')}/cmdline").decode()
        assert [*older.split(), "--debug"] == arguments.split("\0")[-len(older.split()) - 2 : -1]
        unit.stop()
    finally:
        unit.container.run(["rm", options])


def test_the_daemon_has_what_the_unit_says(unit: Unit, world: World) -> None:
    status = world.process_status(int(unit.show("MainPID")))
    allowed = sum(1 << CAPABILITIES[it] for it in unit.show("CapabilityBoundingSet").split())
    for kind in ("Prm", "Eff", "Bnd"):
        assert status[f"Cap{kind}"] == f"{allowed:016x}"
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_an_agent_has_limits_and_a_scope_of_ours(world: World, unit: Unit) -> None:
    world.log_in("alice")
    wait_number(world.watch(), ALICE)
    pid = world.property("AgentPID")
    scoped = f"spice-session-agent-{pid}.scope"
    assert unit.show("ActiveState", scoped) == "active"
    assert int(unit.show("MemoryMax", scoped)) == scope.MEMORY
    assert int(unit.show("TasksMax", scoped)) == scope.TASKS
    assert unit.show("TimeoutStopUSec", scoped) == "5s"
    assert scoped in unit.container.read(f"/proc/{pid}/cgroup").decode()
    status = world.process_status(pid)
    kinds = ("Inh", "Prm", "Eff", "Bnd", "Amb")
    assert {status[f"Cap{kind}"] for kind in kinds} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    mark = unit.now()
    world.switch(world.log_in_on_console("bob"))
    wait_reason(world, "text-console", after=mark)
    unit.stop()
    world.wait_end(pid)


CARDS: Final = "/run/cards"  # where the daemon believes that there is one


def test_the_card_is_read_by_a_unit_of_its_own(unit: Unit) -> None:
    """There is none here; but who would read it starts in its sandbox, and answers."""
    unit.container.run(["mkdir", "--parents", CARDS])
    unit.container.push(f"{CARDS}/card0", b"")
    unit.configure(f'capture.cards = "{CARDS}"')
    unit.start()
    unit.wait_line("there is no KMS helper: no card can be looked at: there is no card in /dev/dri")
    unit.stop()
    unit.container.run(["rm", "--recursive", CARDS])


def test_who_reads_the_card_has_what_the_unit_says(unit: Unit, world: World) -> None:
    hold = ["python3", "-c", HOLD, "/run/spice-sessiond/kms.sock"]
    refused = unit.container.run(hold, user="bob", check=False)
    assert refused.status != 0
    holder = unit.container.spawn(hold)
    holder.wait_for_output("connected")
    names = unit.systemctl("list-units", "--plain", "--no-legend", "spice-sessiond-kms@*")
    [name] = [line.split()[0] for line in names.splitlines()]
    unit.systemctl("start", name)  # which it was already; returns when the program runs
    pid = int(unit.show("MainPID", name))
    status = world.process_status(pid)
    for kind in ("Prm", "Eff", "Bnd"):
        assert status[f"Cap{kind}"] == f"{1 << CAP_SYS_ADMIN:016x}"
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    holder.kill()
    holder.wait(10)
    world.wait_end(pid)


def test_logind_and_polkit_obey_it_as_root(world: World, unit: Unit) -> None:
    """Both decide by its uid: it has no capability that they would ask for."""
    alice = world.log_in("alice")
    world.log_in("bob")
    call = ["busctl", "call", *MANAGER]
    denied = unit.container.run([*call, "ActivateSession", "s", alice.id], user="bob", check=False)
    assert denied.status != 0
    unit.container.run([*call, "ActivateSession", "s", alice.id])
    wait_number(world.watch(), ALICE)


def test_an_x_server_of_roots_is_found_with_its_cookie(world: World) -> None:
    """It takes a look at a process of root's, by /proc/PID/exe."""
    world.greet()
    world.wait_line(r"shows :4 \(x-server\)")


@pytest.fixture
def terminal(installed: Container) -> Iterator[str]:
    """A pseudoterminal of root's; its path."""
    holder = installed.spawn(["python3", "-c", TERMINAL])
    yield holder.wait_for_output("\n").strip()
    holder.kill()
    holder.wait(10)


def test_what_listens_to_resizes_has_its_own_sandbox_inside(
    unit: Unit, world: World, terminal: str
) -> None:
    unit.configure(f'terminals.watch = ["{terminal}"]')
    unit.systemctl("restart", SERVICE)
    unit.wait_line(f"{terminal} is watched")
    daemon = int(unit.show("MainPID"))
    listener = int(unit.container.run(["pgrep", "--full", "sigwinch.py"]).stdout)
    filters = [int(world.process_status(pid)["Seccomp_filters"]) for pid in (daemon, listener)]
    assert filters[1] == filters[0] + 1
    unit.stop()
    assert unit.container.run(["pgrep", "--full", "sigwinch.py"], check=False).status == 1


@pytest.fixture
def held(installed: Container) -> Iterator[dict[str, int]]:
    """Files that root and a user have open, and the pids."""
    with contextlib.ExitStack() as stack:
        pids = dict[str, int]()
        for user in ("root", "bob"):
            path = f"/tmp/held-by-{user}"  # noqa: S108 (the container's)
            command = ["sh", "-c", f"exec 3<>{path}; echo $$; exec sleep 1000"]
            holder = installed.spawn(command, user=user)
            stack.callback(installed.run, ["rm", path])
            stack.callback(holder.wait, 10)
            stack.callback(holder.kill)
            pids[path] = int(holder.wait_for_output("\n"))
        yield pids


@pytest.fixture
def private(installed: Container) -> Iterator[str]:
    """A file that alice alone may read; what is in it."""
    installed.push(PRIVATE, b"hers", mode=0o600, user="alice")
    yield "hers"
    installed.run(["rm", PRIVATE])


def test_the_sandbox(unit: Unit, held: dict[str, int], private: str) -> None:
    """What is tried in the daemon's place, and what comes of it."""
    probe = f"/usr/bin/python3 -m tests.system.inside.confined {' '.join(held)}"
    instead = f"""\
Type=oneshot
Restart=no
SyslogIdentifier=spice-sessiond
WorkingDirectory={PROJECT}
ExecStart=
ExecStart={probe}
"""
    with drop_in(unit.container, instead):
        unit.start()
    unit.wait_line("{")
    [line] = [line for line in unit.said() if line.startswith("{")]
    assert json.loads(line) == {
        "write to /etc": "EROFS",
        "write to /usr": "EROFS",
        "write to /tmp": "EROFS",
        "write to /root": "EROFS",
        "write to /proc/sys": "EROFS",
        "write to a control group": "EROFS",
        "read a user's own": "EACCES",
        "own a file": "EPERM",
        "make a device": "EPERM",
        "a TCP socket": "EAFNOSUPPORT",
        "a netlink socket": "EAFNOSUPPORT",
        "a user namespace": "EPERM",
        "a mount": "EPERM",
        "another root": "EPERM",
        "real time": "EPERM",
        "a nicer self": "EPERM",
        "another personality": "EPERM",
        "code at run time": "EPERM",
        "the kernel's log": "EPERM",
        "trace another": "EPERM",
        "the holders": [*held.values()],
        "become alice": private,
    }
    written = unit.container.run(["test", "-e", "/home/alice/written"], check=False)
    assert written.status == 1
