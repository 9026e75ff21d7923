"""The daemon on a real logind, real consoles, real Xorg servers and a real SPICE client."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from tests.fixtures.drawing import SAMPLE, bits_of
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.system.root import PROJECT, SHARED
from tests.vm.channel import GuestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.system.container import Container
    from tests.system.sessions import Seat
    from tests.vm.channel import Process

ALICE: Final = 1  # the number that her screen shows
BOB: Final = 2
POLICY: Final = "org.spice_space.Sessiond1.conf"
AGENT: Final = ["/usr/bin/env", f"PYTHONPATH={PROJECT}", "python3", "-m", "agent"]


@pytest.fixture
def host(container: Container) -> Iterator[SpiceHost]:
    with SpiceHost(multi=True, directory=container.shared) as made:
        yield made


@pytest.fixture
def daemon(container: Container, host: SpiceHost, seat: Seat) -> Iterator[Process]:
    """The daemon as root on the container's system bus."""
    assert seat.active() == ""
    container.run(["cp", f"{PROJECT}/dbus/{POLICY}", f"/etc/dbus-1/system.d/{POLICY}"])
    container.run(
        [
            *("busctl", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus"),
            *("org.freedesktop.DBus", "ReloadConfig"),
        ]
    )
    settings = (
        f'stream.port="{SHARED}/{host.socket_path.name}"',
        f"stream.agent={json.dumps(AGENT)}",
    )
    argv = ["python3", "-m", "sessiond", "--debug"]
    for setting in settings:
        argv += ["--set", setting]
    process = container.spawn(argv, cwd=PROJECT)
    process.wait_for_output("is open", stream="stderr")
    yield process
    process.kill()
    assert process.wait(10).status == 0


@pytest.fixture
def probe(host: SpiceHost) -> Iterator[SpiceProbe]:
    with SpiceProbe(host.uri, sample=SAMPLE) as client:
        yield client


def status(container: Container, name: str) -> object:
    done = container.run(
        [
            *("busctl", "--json=short", "get-property", "org.spice_space.Sessiond1"),
            *("/org/spice_space/Sessiond1", "org.spice_space.Sessiond1.Manager", name),
        ],
        user="bob",  # reading is everybody's
    )
    return json.loads(done.stdout)["data"]


def wait_number(probe: SpiceProbe, daemon: Process, number: int) -> None:
    try:
        probe.wait_for("invalidate", 15.0, bits=bits_of(number))
    except TimeoutError as error:
        said = daemon.output("stderr").decode(errors="replace")
        raise GuestError(f"{error}\nthe daemon said:\n{said[-4000:]}") from error


def test_the_picture_follows_who_is_at_the_screen(
    container: Container, seat: Seat, daemon: Process, probe: SpiceProbe
) -> None:
    alice = seat.start_gdm("alice", display=2, vt=8, number=ALICE)
    seat.wait_active(alice.id)
    wait_number(probe, daemon, ALICE)
    assert status(container, "ActiveSession")[0] == alice.id  # type: ignore[index]
    assert status(container, "Reason") == "ok"

    bob = seat.start_gdm("bob", display=3, vt=9, number=BOB)
    seat.wait_active(bob.id)
    wait_number(probe, daemon, BOB)

    for step in range(3):
        # Once by the console, once by logind: both are the same to us.
        if step % 2:
            seat.activate(bob.id)
        else:
            seat.switch(8)
        wait_number(probe, daemon, ALICE if step % 2 == 0 else BOB)

    mark = probe.now()
    assert seat.active() == alice.id
    seat.end(alice.id)
    seat.wait_gone(alice.id)
    seat.activate(bob.id)
    wait_number(probe, daemon, BOB)
    assert not [e for e in probe.events[mark + 1 :] if e["event"] == "disconnected"]


def test_the_agent_is_its_users_and_has_no_privilege(
    container: Container, seat: Seat, daemon: Process, probe: SpiceProbe
) -> None:
    alice = seat.start_gdm("alice", display=2, vt=8, number=ALICE)
    seat.wait_active(alice.id)
    wait_number(probe, daemon, ALICE)
    pid = status(container, "AgentPID")
    text = container.run(["cat", f"/proc/{pid}/status"]).stdout
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    uid = container.run(["id", "-u", "alice"]).stdout.strip()
    assert fields["Uid"].split() == [uid] * 4
    assert fields["NoNewPrivs"] == "1"
    assert {fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    scope = f"spice-session-agent-{pid}.scope"
    container.run(["systemctl", "is-active", scope])
    assert scope in container.run(["cat", f"/proc/{pid}/cgroup"]).stdout


def test_a_console_a_killed_server_and_a_restarted_logind(
    seat: Seat, daemon: Process, probe: SpiceProbe
) -> None:
    alice = seat.start_gdm("alice", display=2, vt=8, number=ALICE)
    seat.wait_active(alice.id)
    wait_number(probe, daemon, ALICE)

    console = seat.start_console("bob", vt=10)
    seat.switch(10)
    seat.wait_active(console.id)
    daemon.wait_for_output("(text-console)", stream="stderr")
    seat.switch(8)
    wait_number(probe, daemon, ALICE)

    seat.restart_logind()
    seat.switch(10)
    seat.switch(8)
    seat.wait_active(alice.id)
    seat.draw(alice.server, BOB)
    wait_number(probe, daemon, BOB)

    seat.kill_server(alice.server)
    seat.wait_gone(alice.id)
    assert daemon.maybe_status is None


def test_a_restart_keeps_the_port_and_the_clients_picture(
    container: Container, seat: Seat, host: SpiceHost, probe: SpiceProbe
) -> None:
    """The descriptor store holds the port: the host does not notice the restart."""
    container.run(["cp", f"{PROJECT}/dbus/{POLICY}", f"/etc/dbus-1/system.d/{POLICY}"])
    container.run(["systemctl", "reload", "dbus"])
    port = f"{SHARED}/{host.socket_path.name}"
    argv = [
        *("systemd-run", "--unit=sessiond-test", "--property=Type=notify"),
        *("--property=FileDescriptorStoreMax=8", f"--property=WorkingDirectory={PROJECT}"),
        *("python3", "-m", "sessiond", "--debug", "--set", f'stream.port="{port}"'),
        *("--set", f"stream.agent={json.dumps(AGENT)}"),
    ]
    container.run(argv)
    try:
        alice = seat.start_gdm("alice", display=2, vt=8, number=ALICE)
        seat.wait_active(alice.id)
        probe.wait_for("invalidate", 15.0, bits=bits_of(ALICE))
        mark, seen = host.now(), probe.now()
        container.run(["systemctl", "restart", "sessiond-test"])
        seat.draw(alice.server, BOB)
        probe.wait_for("invalidate", 15.0, after=seen, bits=bits_of(BOB))
        assert not [e for e in host.events[mark + 1 :] if e["event"] == "guest-closed"]
        assert not [e for e in probe.events[seen + 1 :] if e["event"] == "primary-destroy"]
    finally:
        container.run(["systemctl", "stop", "sessiond-test"])
    host.wait_for("guest-closed")  # a stop is not a restart: the store goes with the unit
