"""The world of the tests of following, of stand-ins: a login1 that plays, Xvfb for Xorg.

Each way to switch takes another way through login1: the console changes and login1 tells, or
login1 is asked.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.daemon.scene import UIDS, Scene
from tests.daemon.world import NUMBERS, WAIT_END, Desk, World
from tests.fixtures.login1_session import LOGIN1, path_of

if TYPE_CHECKING:
    from tests.fixtures.spice import SpiceProbe

VTS: Final = {"alice": 7, "bob": 8}
GREETER_VT: Final = 9
CONSOLE_VT: Final = 3
PATIENCE: Final = 10.0


class StandIn(World):
    """``World`` around a ``Scene``, whose screens its users get."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._login1 = scene.stage.login1
        self._count = 0

    @property
    def runs_as_root(self) -> bool:
        return os.geteuid() == 0

    def watch(self) -> SpiceProbe:
        return self._scene.watch()

    def log_in(self, user: str) -> Desk:
        desk = Desk(self._next(), user, VTS[user], NUMBERS[user])
        self._add(desk, display=self._scene.servers[desk.number].display)
        return desk

    def log_in_on_console(self, user: str) -> Desk:
        desk = Desk(self._next(), user, CONSOLE_VT)
        self._add(desk, type="tty", front=False)
        return desk

    def greet(self) -> Desk:
        desk = Desk(f"c{self._next()}", "greeter", GREETER_VT, NUMBERS["greeter"])
        display = self._scene.servers[NUMBERS["alice"]].display  # the one that is hers later
        self._show("alice", desk.number)
        self._add(desk, display=display, cls="greeter")
        return desk

    def log_in_at_greeter(self, greeter: Desk, user: str) -> Desk:
        desk = Desk(self._next(), user, greeter.vt, NUMBERS[user])
        ids = {"id": desk.id, "user": user, "uid": UIDS[user], "gid": UIDS[user]}
        self._login1.do("log_in", greeter=greeter.id, **ids)
        self._show("alice", desk.number)
        return desk

    def switch(self, desk: Desk) -> None:
        self._login1.do("switch_to_vt", vt=desk.vt)

    def activate(self, desk: Desk) -> None:
        mark = self._login1.now()
        address = f"--address={self._scene.stage.bus.address}"
        call = (LOGIN1, path_of(desk.id), f"{LOGIN1}.Session", "Activate")
        subprocess.run(["busctl", address, "--quiet", "call", *call], check=True)
        self._login1.wait_for("active", after=mark, id=desk.id)

    def log_out(self, desk: Desk) -> None:
        self._login1.do("remove_session", id=desk.id)

    def kill_x(self, desk: Desk) -> None:
        self._scene.servers[desk.number].kill()
        self._login1.do("remove_session", id=desk.id)

    def restart_logind(self) -> None:
        # In between nobody has the name, and the daemon knows it: a real restart takes 0.1 s.
        mark = self.now()
        self._login1.do("stop")
        self.wait_line("logind is not there", after=mark)
        self._login1.do("start")
        self.wait_line("logind is there", after=mark)

    def draw(self, desk: Desk, number: int) -> None:
        self._show(desk.user, number)

    def uid(self, user: str) -> int:
        return UIDS[user]

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def wait_end(self, pid: int) -> None:
        subprocess.run([sys.executable, "-c", WAIT_END, str(pid)], check=True, timeout=PATIENCE)

    def process_status(self, pid: int) -> dict[str, str]:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    def property(self, name: str) -> Any:  # noqa: ANN401 (the property's own type)
        return self._scene.daemon.property(name)

    def now(self) -> int:
        return self._scene.daemon.now()

    def wait_line(self, pattern: str, *, after: int = -1) -> None:
        self._scene.daemon.wait_line(pattern, after=after)

    def _next(self) -> str:
        self._count += 1
        return str(self._count)

    def _add(self, desk: Desk, **properties: object) -> None:
        uid = UIDS[desk.user]
        known = {"id": desk.id, "user": desk.user, "vt": desk.vt, "uid": uid, "gid": uid}
        self._login1.do("add_session", **(known | properties))

    def _show(self, user: str, number: int) -> None:
        self._scene.screens[NUMBERS[user]].show_number(number)
