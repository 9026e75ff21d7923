"""Helpers of the older protocol on real terminals: with a real logind, and on a machine without."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import TYPE_CHECKING

from sessiond.bus.paths import ROOT, session_path
from tests.daemon.world import ALICE, BOB, wait_number, wait_reason
from tests.fixtures.drawing import bits_of
from tests.system.root import PROJECT
from tests.system.unit import SERVICE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon.world import World
    from tests.system.container import Container
    from tests.system.sessions import Seat, XSession
    from tests.system.unit import Unit

NAME = "org.spice_space.Sessiond1"
LOGIND = ("systemd-logind.service", "dbus-org.freedesktop.login1.service")


def test_a_helpers_word_is_the_first_that_counts(
    container: Container, seat: Seat, world: World
) -> None:
    probe = world.watch()
    alice = seat.start_gdm("alice", display=2, vt=8, number=ALICE, program="helped")
    assert "helper 0" in alice.process.output().decode(), alice.process.output().decode()
    seat.wait_active(alice.id)
    wait_number(probe, ALICE)
    # By then an agent had found the display by itself; the next one is told first.
    mark = world.now()
    container.run(["busctl", "call", NAME, ROOT, f"{NAME}.Manager", "RestartAgent"])
    world.wait_line(r"shows :2 \(helper\)", after=mark)
    assert source(container, alice) == "helper"


def source(container: Container, login: XSession) -> str:
    """Return which rule has found the session's display."""
    path = (NAME, session_path(login.id), f"{NAME}.Session")
    said = container.run(["busctl", "--json=short", "get-property", *path, "EnvSource"]).stdout
    return str(json.loads(said)["data"])


def test_a_helper_of_another_user_on_that_vt_is_refused(
    container: Container, seat: Seat, world: World
) -> None:
    alice = seat.start_gdm("alice", display=2, vt=8, number=ALICE)
    seat.wait_active(alice.id)
    mark = world.now()
    # Bob's process gets Alice's console as its controlling terminal from root, who may do that.
    words = "python3 -m agent.helper --display :2 --xauthority /run/x"
    bob = "setpriv --reuid=bob --regid=bob --clear-groups"
    container.run(["sh", "-c", f"exec setsid --wait --ctty {bob} {words} < /dev/tty8"], cwd=PROJECT)
    world.wait_line(r"VT 8 belongs to uid", after=mark)


@contextlib.contextmanager
def no_logind(container: Container) -> Iterator[None]:
    """Take logind away, and keep the bus from starting it."""
    container.run(["systemctl", "mask", "--runtime", "--now", *LOGIND], check=False)
    try:
        yield
    finally:
        container.run(["systemctl", "unmask", "--runtime", *LOGIND], check=False)
        container.run(["systemctl", "start", LOGIND[0]])


def test_without_logind_the_helpers_and_the_consoles_are_enough(
    container: Container, seat: Seat, unit: Unit, world: World
) -> None:
    probe = world.watch()
    with no_logind(container):
        wait_reason(world, "logind-missing")
        seat.switch(8)
        alice = seat.start_without_logind("alice", display=2, vt=8, number=ALICE)
        wait_number(probe, ALICE)
        assert world.property("Reason") == "ok"
        bob = seat.start_without_logind("bob", display=3, vt=9, number=BOB)
        seat.switch(9)
        wait_number(probe, BOB)
        for vt, number in ((8, ALICE), (9, BOB)):
            seen = probe.now()
            seat.switch(vt)
            probe.wait_for("invalidate", 15.0, after=seen, bits=bits_of(number))
        unit.systemctl("restart", SERVICE)  # nobody tells it again
        seen = probe.now()
        seat.switch(8)
        probe.wait_for("invalidate", 15.0, after=seen, bits=bits_of(ALICE))
        mark = world.now()
        seat.switch(1)
        wait_reason(world, "text-console", after=mark)
        # The record goes with the kernel session's leader, and not with the helper.
        mark = world.now()
        for process, name in ((alice, "bare-8"), (bob, "bare-9")):
            container.run(["systemctl", "stop", f"{name}.service"])
            process.wait(15)
        wait_reason(world, "logind-missing", after=mark)


def can_refuse_descriptors() -> bool:
    """Whether the kernel knows SO_PASSRIGHTS, since Linux 6.16."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.getsockopt(socket.SOL_SOCKET, 83)
        except OSError:
            return False
        return True


def test_what_was_told_and_who_is_not_done_outlive_a_restart(
    container: Container, seat: Seat, unit: Unit, world: World
) -> None:
    bob = seat.start_gdm("bob", display=3, vt=9, number=BOB, program="helped")
    world.wait_line(f"session {bob.id}: a helper names display :3")
    alice = seat.start_gdm("alice", display=2, vt=8, number=ALICE)
    words = ["python3", "-m", "tests.system.inside.halting", ":2", alice.server.authority]
    half_told = container.spawn(words, user="alice", cwd=PROJECT)  # of her only session
    pid = half_told.wait_for_output("\n").strip()
    mark = world.now()
    unit.systemctl("restart", SERVICE)
    if can_refuse_descriptors():  # else this systemd is too old to be left with connections
        world.wait_line("connections of helpers that were kept: 1", after=mark)
        container.run(["kill", "-USR1", pid])
        half_told.wait(15, check=True)
        world.wait_line(f"session {alice.id}: a helper names display :2", after=mark)
    mark = world.now()
    world.watch()
    seat.switch(9)
    seat.wait_active(bob.id)
    world.wait_line(r"shows :3 \(helper\)", after=mark)
    assert unit.show("NFileDescriptorStore") == "0", "what is in use is ours alone"


def test_what_was_told_of_a_session_that_ended_during_the_restart_is_forgotten(
    container: Container, seat: Seat, unit: Unit, world: World
) -> None:
    probe = world.watch()
    before = seat.start_gdm("bob", display=3, vt=9, number=BOB, program="helped")
    world.wait_line("a helper names display :3")
    is_there = f"loginctl session-status {before.id}"
    end = f"loginctl terminate-session {before.id}; while {is_there}; do :; done"
    drop_in = f"/run/systemd/system/{SERVICE}.d/ended-meanwhile.conf"
    container.push(drop_in, f"[Service]\nExecStartPre=+/bin/sh -c '{end}'\n".encode())
    try:
        unit.systemctl("daemon-reload")
        unit.systemctl("restart", SERVICE)
    finally:
        container.run(["rm", drop_in])
        unit.systemctl("daemon-reload")
    mark, seen = world.now(), probe.now()
    after = seat.start_gdm("bob", display=3, vt=9, number=ALICE)
    probe.wait_for("invalidate", 15.0, after=seen, bits=bits_of(ALICE))
    world.wait_line("shows :3", after=mark)
    assert source(container, after) not in {"", "helper"}
