"""A real GNOME compositor without a screen: mutter, PipeWire and WirePlumber on a bus of their own.

They refuse to be shared by users, and some refuse to be root: where the tests are root's, all of
it is nobody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import selectors
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from Xlib.error import ConnectionClosedError

from agent.capture.x11.display import connect_display
from sessiond.transport.bus import Bus, Call
from tests.fixtures.bus import PrivateBus
from tests.fixtures.processes import DIE_WITH_PARENT, FixtureError, end_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from Xlib.display import Display

PATIENCE: Final = 20.0  # seconds until it is up
LOG_SHOWN: Final = 8192  # bytes of a log in an error message

# mutter ends with its program, and that with us: mutter gives it no stdin.
_PROGRAM: Final = 'echo "$WAYLAND_DISPLAY $DISPLAY $XAUTHORITY"; exec cat "$XDG_RUNTIME_DIR/stay"'
# As systemd hands a socket on: what connects before PipeWire reads is not refused. By bash, for
# dash knows no descriptor above 9.
_WITH_SOCKET: Final = "exec 3<&{}; LISTEN_FDS=1 LISTEN_PID=$$ exec pipewire"
# Links between streams, and no devices: those ask logind, which is not there.
_CONFIG: Final = (
    "org.gnome.Mutter.DisplayConfig",
    "/org/gnome/Mutter/DisplayConfig",
    "org.gnome.Mutter.DisplayConfig",
)
_REMOTE: Final = (
    "org.gnome.Mutter.RemoteDesktop",
    "/org/gnome/Mutter/RemoteDesktop",
    "org.gnome.Mutter.RemoteDesktop",
)
_POLICY: Final = ("wireplumber", "-c", "policy.conf")


class Mutter:
    """A compositor that takes clients, and may be recorded, when the constructor returns.

    MONITORS are the sizes of its virtual monitors in pixels, from left to right. ``run`` stands
    for ``/run``: ``runtime``, the runtime directory of ``uid``, is in it, with the sockets of the
    message bus (``bus``), of PipeWire (``pipewire-0``) and of mutter (``wayland``). ``display`` is
    Xwayland's, which starts when somebody connects; ``xauthority`` its cookie file.
    """

    def __init__(
        self, *monitors: tuple[int, int], wireplumber: bool = True, pipewire: bool = True
    ) -> None:
        self._resources = contextlib.ExitStack()
        self.monitors = monitors or ((1280, 720),)
        nobody = pwd.getpwnam("nobody")
        self.uid = os.getuid() or nobody.pw_uid
        self.run = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="run-")))
        self.run.chmod(0o755)
        self.runtime = self.run / "user" / str(self.uid)
        self.runtime.mkdir(parents=True)
        self.runtime.chmod(0o700)
        become = (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
        os.mkfifo(self.runtime / "stay")
        stay = os.open(self.runtime / "stay", os.O_RDWR | os.O_CLOEXEC)
        self._resources.callback(os.close, stay)
        self._remote = ""
        self._prefix = (*DIE_WITH_PARENT, *(() if os.getuid() else become))
        self._log = os.memfd_create("mutter-log")
        self._resources.callback(os.close, self._log)
        try:
            bus = self._resources.enter_context(PrivateBus())
            self._bus = self._connect(bus.address)
            path = bus.address.partition("path=")[2].partition(",")[0]
            (self.runtime / "bus").symlink_to(path)
            if pipewire:
                self._start_pipewire()
            if wireplumber:
                self.wireplumber = self.start(_POLICY)
            self._give_away()
            self.start_mutter()
        except BaseException:
            self._resources.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def environment(self) -> dict[str, str]:
        """What its programs have in their environment."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.runtime),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.runtime}/bus",
            "GSETTINGS_BACKEND": "memory",
        }

    @property
    def pid(self) -> int:
        """The compositor's process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """The last that its programs wrote to their logs."""
        size = os.fstat(self._log).st_size
        return os.pread(self._log, LOG_SHOWN, max(0, size - LOG_SHOWN)).decode(errors="replace")

    @contextlib.contextmanager
    def as_its_user(self) -> Iterator[None]:
        """Be the user ``uid``, with every thread; also by the real id, which a bus is told."""
        real, effective, saved = os.getresuid()
        os.setresuid(self.uid, self.uid, effective)
        try:
            yield
        finally:
            os.setresuid(real, effective, saved)

    @contextlib.contextmanager
    def x_display(self) -> Iterator[Display]:
        """Connect to Xwayland."""
        before = os.environ.get("XAUTHORITY")
        os.environ["XAUTHORITY"] = self.xauthority
        try:
            display = connect_display(self.display)
        finally:
            del os.environ["XAUTHORITY"]
            if before is not None:
                os.environ["XAUTHORITY"] = before
        try:
            yield display
        finally:
            with contextlib.suppress(ConnectionClosedError):  # it ends with mutter
                display.close()

    def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        fds: Sequence[int] = (),
    ) -> subprocess.Popen[bytes]:
        """Start COMMAND as ``uid``; it ends with this object at the latest."""
        try:
            process = subprocess.Popen(
                [*self._prefix, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**self.environment, **(environment or {})},
                pass_fds=fds,
            )
        except OSError as error:
            raise FixtureError(f"cannot start {command[0]}: {error}") from error
        self._resources.callback(_end, process)
        return process

    def start_mutter(self) -> None:
        """Start the compositor; one that was there has ended."""
        monitors = [f"--virtual-monitor={width}x{height}" for width, height in self.monitors]
        command = ("mutter", "--headless", "--wayland", *monitors, "--", "sh", "-c", _PROGRAM)
        self.process = self.start(command)
        answer = self._read_answer().split()
        if len(answer) != 3:
            raise FixtureError(f"mutter did not start: {self.log}")
        self.wayland = str(self.runtime / answer[0])
        self.display, self.xauthority = answer[1:]
        # Each name is taken by itself, some time later.
        for name in (_CONFIG[0], _REMOTE[0], "org.gnome.Mutter.ScreenCast"):
            self._loop.run_until_complete(self._wait_owner(name))

    def kill_mutter(self) -> None:
        """End the compositor as a crash would, and wait until it is gone."""
        self.process.kill()
        _end(self.process)

    def call(self, call: Call) -> list[Any]:
        """Return what somebody on the session's bus answers."""
        return self._loop.run_until_complete(self._bus.call(call))

    def arrange(self, *monitors: tuple[int, int, int]) -> None:
        """Switch on these monitors, and no others: number, x, and quarter turns."""
        serial, known, _, _ = self.call(Call(*_CONFIG, "GetCurrentState"))
        modes = {names[0]: modes[0][0] for names, modes, _ in known}
        shown = [
            [x, 0, 1.0, turns, not x, [[f"Meta-{number}", modes[f"Meta-{number}"], {}]]]
            for number, x, turns in monitors
        ]
        body = [serial, 1, shown, {}]
        signature = "uua(iiduba(ssa{sv}))a{sv}"
        self.call(Call(*_CONFIG, "ApplyMonitorsConfig", signature, body))

    def move_pointer(self, x: int, y: int) -> None:
        """Move the pointer, as somebody does who controls the session remotely."""
        if not self._remote:
            [self._remote] = self.call(Call(*_REMOTE, "CreateSession"))
            self.call(Call(_REMOTE[0], self._remote, f"{_REMOTE[2]}.Session", "Start"))
        for to in ((-20000, -20000), (x, y)):
            move = "NotifyPointerMotionRelative"
            self.call(Call(_REMOTE[0], self._remote, f"{_REMOTE[2]}.Session", move, "dd", to))

    def close(self) -> None:
        """End everything."""
        self._resources.close()

    def _connect(self, address: str) -> Bus:
        self._loop = asyncio.new_event_loop()
        self._resources.callback(self._loop.close)
        bus = self._loop.run_until_complete(Bus.connect(address))

        async def close() -> None:
            bus.close()

        self._resources.callback(lambda: self._loop.run_until_complete(close()))
        return bus

    async def _wait_owner(self, name: str) -> None:
        owned = asyncio.Event()

        def on_owner(owner: str) -> None:
            if owner:
                owned.set()

        self._bus.watch_owner(name, on_owner)
        try:
            async with asyncio.timeout(PATIENCE):
                await owned.wait()
        except TimeoutError:
            raise FixtureError(f"mutter does not become {name}: {self.log}") from None
        self._bus.unwatch_owner(name, on_owner)

    def _start_pipewire(self) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.runtime / "pipewire-0"))
            listener.listen()
            script = _WITH_SOCKET.format(listener.fileno())
            self._give_away()
            self.pipewire = self.start(("bash", "-c", script), fds=(listener.fileno(),))

    def _give_away(self) -> None:
        for path in (self.runtime, *self.runtime.iterdir()):
            os.chown(path, self.uid, -1, follow_symlinks=False)

    def _read_answer(self) -> str:
        assert self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            # One line, written at once.
            ready = selector.select(PATIENCE)
        return os.read(self.process.stdout.fileno(), 512).decode() if ready else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End PROCESS if it runs, and close its ends."""
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    if process.poll() is None:
        process.terminate()
    end_process(process)
    process.stdout.close()
