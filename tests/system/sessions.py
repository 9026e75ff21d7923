"""Logind sessions in a container, as the display managers and a console make them.

Owns the units that it starts and what becomes of them; leaves what is in a session's processes to
``tests.system.inside``. Each function returns when its effect can be seen: drawn, active, gone.
"""

from __future__ import annotations

import contextlib
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from tests.system.container import PATIENCE
from tests.system.root import PROJECT
from tests.system.signals import Signals
from tests.vm.channel import GuestError
from tests.vm.sessions import session_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.system.container import Container
    from tests.vm.channel import Process

FIRST_VT: Final = 1
INSIDE: Final = ("/usr/bin/python3", "-m")


@dataclass(frozen=True, slots=True)
class Session:
    """What logind says of a session, at the time of asking."""

    id: str
    user: str
    vt: int  # 0 for none
    display: str
    kind: str  # logind's Type
    role: str  # logind's Class
    state: str
    is_active: bool
    leader: int
    scope: str


@dataclass(frozen=True, slots=True)
class XServer:
    """An X server, and how ``user`` reaches it."""

    display: str
    vt: int
    user: str
    authority: str
    pid: int

    @property
    def env(self) -> dict[str, str]:
        """What a client needs, beside being ``user``."""
        return {"DISPLAY": self.display, "XAUTHORITY": self.authority}


@dataclass(frozen=True, slots=True)
class XSession:
    """A session and the server that it shows; ``process`` ends with what started it."""

    session: Session
    server: XServer
    process: Process

    @property
    def id(self) -> str:
        """The session's id."""
        return self.session.id


@dataclass(frozen=True, slots=True)
class Login:
    """A login on a display manager's server: its program shows the numbered picture."""

    user: str
    number: int
    role: str = "user"


class Seat:
    """seat0 of a container, and all that happens on it. A context manager.

    Entered, it hears every signal (``signals``); left, all sessions are ended, what it started is
    gone, and the first console is in front again.
    """

    def __init__(self, container: Container) -> None:
        self.container = container
        self.signals = Signals(container)
        self._units: dict[str, Process] = {}

    def __enter__(self) -> Self:
        self.signals.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.clear()
        finally:
            self.signals.__exit__()

    # What is

    def sessions(self) -> list[Session]:
        """Return the sessions that there are."""
        query = "loginctl list-sessions --no-legend | while read id _; do echo $id; done"
        found = self.container.run(["sh", "-c", query]).stdout.split()
        shown = (self._maybe_session(id_) for id_ in found)
        return [session for session in shown if session is not None]

    def active(self) -> str:
        """Return the id of the session that is in front, empty for none."""
        query = ["loginctl", "show-seat", "seat0", "--value", "--property=ActiveSession"]
        return self.container.run(query).stdout.strip()

    def session(self, id_: str) -> Session:
        """Return what logind says of a session. Raises GuestError when there is none."""
        found = self._maybe_session(id_)
        if found is None:
            raise GuestError(f"there is no session {id_}")
        return found

    def wait_session(self, user: str, vt: int) -> Session:
        """Wait until ``user`` has a session on a console that is not closing; return it."""
        found: list[Session] = []

        def there() -> bool:
            found[:] = [
                session
                for session in self.sessions()
                if (session.user, session.vt) == (user, vt) and session.state != "closing"
            ]
            return bool(found)

        self.signals.wait_until(there, f"a session of {user} on VT {vt}")
        return found[0]

    def wait_active(self, id_: str) -> None:
        """Wait until that session is in front; none, for an empty id."""
        self.signals.wait_until(lambda: self.active() == id_, f"session {id_!r} in front")

    def wait_gone(self, id_: str) -> None:
        """Wait until logind has forgotten a session."""
        self.signals.wait_until(lambda: self._maybe_session(id_) is None, f"session {id_} gone")

    # What begins

    def start_gdm(
        self,
        user: str,
        *,
        display: int,
        vt: int,
        number: int,
        kind: str = "x11",
        program: str = "client",
    ) -> XSession:
        """Start a session in GDM's way: the server is the user's own, Display stays empty.

        With ``kind`` "tty" it is a startx on a console, but for where the cookie is. ``program``
        is a module of ``tests.system.inside``.
        """
        # The user's server opens the console itself, for want of a card that logind would hand it.
        self.container.run(["chown", user, f"/dev/tty{vt}"])
        command = [
            *session_command(user, vt, kind=kind),
            "--property=AmbientCapabilities=CAP_SYS_TTY_CONFIG",
            f"--unit=gdm-{vt}",
            f"--property=WorkingDirectory={PROJECT}",
            *(*INSIDE, "tests.system.inside.gdm_session", str(display), str(vt), str(number)),
            program,
        ]
        process = self._start(f"gdm-{vt}", command)
        process.wait_for_output(f"drawn {number}\n", timeout=PATIENCE)
        uid = self.container.run(["id", "-u", user]).stdout.strip()
        authority = f"/run/user/{uid}/gdm/Xauthority"
        # Xserver(1): the server's own lock file.
        pid = int(self.container.read(f"/tmp/.X{display}-lock"))  # noqa: S108
        server = XServer(f":{display}", vt, user, authority, pid)
        return XSession(self.wait_session(user, vt), server, process)

    def start_without_logind(self, user: str, *, display: int, vt: int, number: int) -> Process:
        """Start what ``start_gdm`` does, on a console that login(1) gave away: no PAM, no session.

        Its program is ``helped``; the process ends with the user's kernel session.
        """
        # As login(1) leaves it; and XDG_RUNTIME_DIR is logind's to make.
        runtime = f"/run/without-logind-{user}"
        self.container.run(["chown", user, f"/dev/tty{vt}"])
        self.container.run(["install", "-d", f"--owner={user}", "--mode=700", runtime])
        command = [
            *("systemd-run", "--quiet", "--collect", "--wait", "--pipe", f"--unit=bare-{vt}"),
            *(f"--property=User={user}", f"--setenv=XDG_RUNTIME_DIR={runtime}"),
            "--property=AmbientCapabilities=CAP_SYS_TTY_CONFIG",
            f"--property=WorkingDirectory={PROJECT}",
            # systemd has made it a session's leader, and what it opens first is its terminal.
            *("sh", "-c", f'exec "$@" < /dev/tty{vt}', "sh"),
            *(*INSIDE, "tests.system.inside.gdm_session", str(display), str(vt), str(number)),
            "helped",
        ]
        process = self._start(f"bare-{vt}", command)
        process.wait_for_output(f"drawn {number}\n", timeout=PATIENCE)
        return process

    def start_lightdm(self, *logins: Login, display: int, vt: int) -> XSession:
        """Start a display manager in LightDM's way, and wait for the first login.

        The server is root's and outlives the logins: each of ``logins`` comes when the one before
        has ended (see ``next_login``), and the server ends after the last. Display is set.
        """
        command = [
            *("systemd-run", "--quiet", "--collect", "--wait", "--pipe"),
            f"--unit=lightdm-{vt}",
            f"--property=WorkingDirectory={PROJECT}",
            *(*INSIDE, "tests.system.inside.display_manager", f":{display}", str(vt)),
            *(f"{login.user}:{login.role}:{login.number}" for login in logins),
        ]
        process = self._start(f"lightdm-{vt}", command)
        said = process.wait_for_output("\n", timeout=PATIENCE)
        pid = int(said.partition("\n")[0].removeprefix("server "))
        return self._logged_in(process, logins[0], (display, vt, pid))

    def next_login(self, before: XSession, login: Login) -> XSession:
        """Wait for the login after ``before``, which has ended, on the same server."""
        display = int(before.server.display.removeprefix(":"))
        return self._logged_in(
            before.process, login, (display, before.server.vt, before.server.pid)
        )

    def start_console(self, user: str, *, vt: int) -> Session:
        """Log ``user`` in on a text console, by agetty and login; it does not come to the front."""
        command = [
            *("systemd-run", "--quiet", "--collect", "--wait", f"--unit=console-{vt}"),
            *(f"--property=TTYPath=/dev/tty{vt}", "--property=StandardInput=tty"),
            *("--property=StandardOutput=tty", "--property=TTYReset=yes"),
            *("--property=TTYVHangup=yes", "--property=SendSIGHUP=yes"),
            *("/sbin/agetty", "--autologin", user, "--noclear", f"tty{vt}", "linux"),
        ]
        self._start(f"console-{vt}", command)
        return self.wait_session(user, vt)

    # What changes

    def switch(self, vt: int) -> None:
        """Bring a console to the front by chvt(1); the kernel has done it when this returns."""
        self.container.run(["chvt", str(vt)])

    def activate(self, id_: str) -> None:
        """Bring a session to the front by ``loginctl activate``; return when it is."""
        self.container.run(["loginctl", "activate", id_])
        self.wait_active(id_)

    def draw(self, server: XServer, number: int) -> None:
        """Show the numbered picture; the server has it when this returns, in front or not."""
        self._inside(server, "client", str(number), "--leave")

    def shown(self, server: XServer) -> int:
        """Return which numbered picture a server has, -1 for none.

        Of one that has its console: while another is in front, a server gives nothing to read.
        """
        return int(self._inside(server, "shown"))

    def watch_has_vt(self, server: XServer) -> Process:
        """Start telling XFree86_has_VT: a line ``... = 0`` or ``... = 1``, now and each time."""
        watch = ["xprop", "-root", "-spy", "XFree86_has_VT"]
        return self.container.spawn(watch, user=server.user, env=server.env)

    def end(self, id_: str) -> None:
        """Log a session out; return when logind has forgotten it.

        The session is ended and not its unit: what would be left in the scope keeps the session
        closing, and its console.
        """
        self.container.run(["loginctl", "terminate-session", id_])
        self.wait_gone(id_)

    def kill_server(self, server: XServer) -> None:
        """End an X server as a crash would."""
        self.container.run(["kill", f"-{signal.SIGKILL.value}", str(server.pid)])

    def restart_logind(self) -> None:
        """Restart logind; it answers again when this returns."""
        self.container.run(["systemctl", "restart", "systemd-logind.service"])
        self.active()

    def clear(self) -> None:
        """End all that this seat has started and every session; VT 1 is in front again.

        Raises what a wait raises that comes to nothing.
        """
        for session in self.sessions():
            # It may go by itself meanwhile.
            self.container.run(["loginctl", "terminate-session", session.id], check=False)
        for unit, process in self._units.items():
            self.container.run(["systemctl", "stop", f"{unit}.service"], check=False)
            process.wait(PATIENCE)
        self._units.clear()
        self.signals.wait_until(lambda: not self.sessions(), "no session")
        self.switch(FIRST_VT)

    def _start(self, unit: str, command: Sequence[str]) -> Process:
        process = self.container.spawn(command)
        self._units[unit] = process
        return process

    def _logged_in(self, process: Process, login: Login, place: tuple[int, int, int]) -> XSession:
        display, vt, pid = place
        process.wait_for_output(f"drawn {login.number}\n", timeout=PATIENCE)
        home = self.container.run(["sh", "-c", f"echo ~{login.user}"]).stdout.strip()
        server = XServer(f":{display}", vt, login.user, f"{home}/.Xauthority", pid)
        return XSession(self.wait_session(login.user, vt), server, process)

    def _inside(self, server: XServer, module: str, *arguments: str) -> str:
        command = [*INSIDE, f"tests.system.inside.{module}", *arguments]
        return self.container.run(command, user=server.user, env=server.env, cwd=PROJECT).stdout

    def _maybe_session(self, id_: str) -> Session | None:
        shown = self.container.run(["loginctl", "show-session", id_], check=False)
        if shown.status != 0:
            return None
        found: dict[str, str] = {}
        for line in shown.stdout.splitlines():
            name, _, value = line.partition("=")
            found[name] = value
        with contextlib.suppress(KeyError):  # logind has left some out: the session is going
            return Session(
                id=found["Id"],
                user=found["Name"],
                vt=int(found["VTNr"]),
                display=found.get("Display", ""),
                kind=found["Type"],
                role=found["Class"],
                state=found["State"],
                is_active=found["Active"] == "yes",
                leader=int(found["Leader"]),
                scope=found["Scope"],
            )
        return None
