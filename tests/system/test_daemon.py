"""The daemon on a real systemd and a real logind: what a stand-in cannot play."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.daemon.world import ALICE, BOB, wait_number, wait_reason
from tests.fixtures.drawing import bits_of
from tests.system.root import PROJECT
from tests.system.unit import SERVICE

if TYPE_CHECKING:
    from tests.daemon.world import World
    from tests.fixtures.spice import SpiceHost
    from tests.system.container import Container
    from tests.system.sessions import Seat
    from tests.system.unit import Unit


def test_startx_on_a_console_is_shown_and_its_end_is_a_console(world: World, seat: Seat) -> None:
    """The session's type stays tty: only the display on its own VT tells what it is."""
    probe = world.watch()
    console = seat.start_console("bob", vt=10)
    seat.switch(10)
    seat.wait_active(console.id)
    wait_reason(world, "text-console")
    assert world.property("AgentPID") == 0, "no X server runs in it: not worth an agent"
    alice = seat.start_gdm("alice", display=2, vt=8, number=ALICE, kind="tty")
    seat.wait_active(alice.id)
    wait_number(probe, ALICE)
    assert seat.session(alice.id).kind == "tty"
    assert world.property("ActiveSession")[0] == alice.id
    assert world.property("Reason") == "ok"
    mark = world.now()
    seat.switch(10)
    wait_reason(world, "text-console", after=mark)
    seen = probe.now()
    seat.activate(alice.id)
    probe.wait_for("invalidate", 15.0, after=seen, bits=bits_of(ALICE))
    mark = world.now()
    seat.kill_server(alice.server)
    wait_reason(world, "text-console", after=mark)


def test_a_restart_keeps_the_port_and_the_clients_picture(
    seat: Seat, host: SpiceHost, unit: Unit, world: World
) -> None:
    """The descriptor store holds the port: the host does not notice the restart."""
    alice = seat.start_gdm("alice", display=2, vt=8, number=ALICE)
    seat.wait_active(alice.id)
    probe = world.watch()
    wait_number(probe, ALICE)
    wait_reason(world, "ok")
    assert {"SESSION": alice.id, "SESSION_USER": "alice", "REASON": "ok"} in fields(unit.container)
    mark, seen = host.now(), probe.now()
    unit.systemctl("restart", SERVICE)
    seat.draw(alice.server, BOB)
    probe.wait_for("invalidate", 15.0, after=seen, bits=bits_of(BOB))
    assert not [e for e in host.events[mark + 1 :] if e["event"] == "guest-closed"]
    assert not [e for e in probe.events[seen + 1 :] if e["event"] == "primary-destroy"]
    unit.stop()
    host.wait_for("guest-closed")  # a stop is not a restart: the store goes with the unit


def fields(container: Container) -> list[dict[str, str]]:
    """Return the fields of the daemon's entries in the journal that say what is shown and why."""
    names = ("SESSION", "SESSION_USER", "REASON")
    container.run(["journalctl", "--sync"])  # what was sent to it is there to be read
    lines = container.run(["journalctl", f"--unit={SERVICE}", "--output=json"]).stdout
    entries = map(json.loads, lines.splitlines())
    return [{name: entry[name] for name in names} for entry in entries if names[-1] in entry]


def test_a_drop_in_that_cannot_be_read_is_named(container: Container) -> None:
    drop_in = "/etc/spice-sessiond/config.toml.d/50-local.toml"
    container.run(["mkdir", "--parents", drop_in])  # a folder: not even root can read it as a file
    try:
        done = container.run(["python3", "-m", "sessiond"], cwd=PROJECT, check=False)
    finally:
        container.run(["rmdir", drop_in])
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr == f"spice-sessiond: {drop_in}: cannot be read: Is a directory\n"
