"""The world of the tests of following, as it really is: logind, Xorg servers and consoles."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any, Final, Self

from tests.daemon.world import NUMBERS, WAIT_END, Desk, World
from tests.fixtures.drawing import SAMPLE
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.system.sessions import Login, XSession
from tests.vm.channel import GuestError

if TYPE_CHECKING:
    from tests.system.sessions import Seat
    from tests.system.unit import Unit

# Where each user's X server is: its display and its console.
PLACES: Final = {"alice": (2, 8), "bob": (3, 9), "greeter": (4, 11)}
CONSOLE_VT: Final = 10


class Container(World):
    """``World`` in a container: a context manager, entered with nobody at ``seat``.

    The daemon is ``unit``'s, on the system bus, and follows it; ``host`` is the one it streams to.
    """

    def __init__(self, seat: Seat, host: SpiceHost, unit: Unit) -> None:
        self._seat = seat
        self._container = seat.container
        self._host = host
        self._unit = unit
        self._probes: list[SpiceProbe] = []
        self._logins: dict[str, XSession] = {}

    def __enter__(self) -> Self:
        if self._seat.active():
            raise GuestError("somebody is at the seat")
        self._unit.start()
        self._unit.wait_line("is open")
        return self

    def __exit__(self, *_: object) -> None:
        for probe in self._probes:
            probe.close()
        self._unit.close_sockets()
        self._unit.stop()

    @property
    def runs_as_root(self) -> bool:
        return True

    def watch(self) -> SpiceProbe:
        probe = SpiceProbe(self._host.uri, sample=SAMPLE)
        self._probes.append(probe)
        self._host.wait_for("client-connected")
        return probe

    def log_in(self, user: str) -> Desk:
        display, vt = PLACES[user]
        login = self._seat.start_gdm(user, display=display, vt=vt, number=NUMBERS[user])
        return self._arrived(login, NUMBERS[user])

    def log_in_on_console(self, user: str) -> Desk:
        session = self._seat.start_console(user, vt=CONSOLE_VT)
        return Desk(session.id, user, CONSOLE_VT)

    def greet(self) -> Desk:
        display, vt = PLACES["greeter"]
        greeter = Login("greeter", NUMBERS["greeter"], "greeter")
        first = self._seat.start_lightdm(greeter, _next_at_greeter(), display=display, vt=vt)
        return self._arrived(first, greeter.number)

    def log_in_at_greeter(self, greeter: Desk, user: str) -> Desk:
        login = _next_at_greeter()
        assert login.user == user
        self._seat.end(greeter.id)
        next_one = self._seat.next_login(self._logins[greeter.id], login)
        return self._arrived(next_one, login.number)

    def switch(self, desk: Desk) -> None:
        self._seat.switch(desk.vt)
        self._seat.wait_active(desk.id)

    def activate(self, desk: Desk) -> None:
        self._seat.activate(desk.id)

    def log_out(self, desk: Desk) -> None:
        self._seat.end(desk.id)

    def kill_x(self, desk: Desk) -> None:
        self._seat.kill_server(self._logins[desk.id].server)
        self._seat.wait_gone(desk.id)

    def restart_logind(self) -> None:
        self._seat.restart_logind()

    def draw(self, desk: Desk, number: int) -> None:
        self._seat.draw(self._logins[desk.id].server, number)

    def uid(self, user: str) -> int:
        return int(self._container.run(["id", "-u", user]).stdout)

    def kill(self, pid: int) -> None:
        self._container.run(["kill", f"-{signal.SIGKILL.value}", str(pid)])

    def wait_end(self, pid: int) -> None:
        self._container.run(["python3", "-c", WAIT_END, str(pid)])

    def process_status(self, pid: int) -> dict[str, str]:
        lines = self._container.read(f"/proc/{pid}/status").decode().splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    def property(self, name: str) -> Any:  # noqa: ANN401 (the property's own type)
        command = [
            *("busctl", "--json=short", "get-property", "org.spice_space.Sessiond1"),
            *("/org/spice_space/Sessiond1", "org.spice_space.Sessiond1.Manager", name),
        ]
        return json.loads(self._container.run(command, user="bob").stdout)["data"]

    def now(self) -> int:
        return self._unit.now()

    def wait_line(self, pattern: str, *, after: int = -1) -> None:
        self._unit.wait_line(pattern, after=after)

    def _arrived(self, login: XSession, number: int) -> Desk:
        self._logins[login.id] = login
        self._seat.wait_active(login.id)
        return Desk(login.id, login.session.user, login.server.vt, number)


def _next_at_greeter() -> Login:
    return Login("alice", NUMBERS["alice"])
