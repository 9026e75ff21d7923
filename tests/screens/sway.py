"""A real wlroots compositor without a screen: sway on the headless back-end.

It refuses to run as root: there it runs as nobody, and what it makes is nobody's.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import selectors
import socket
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tests.fixtures.processes import DIE_WITH_PARENT, FixtureError, end_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

PATIENCE: Final = 10.0  # seconds until it is up, and for each answer
LOG_SHOWN: Final = 8192  # bytes of its log in an error message

# No bar, no Xwayland, no borders; and a line that says that it is up.
_CONFIG: Final = """\
xwayland disable
default_border none
{outputs}
exec echo "$WAYLAND_DISPLAY $SWAYSOCK"
"""
_IPC: Final = struct.Struct("=6sII")  # sway-ipc(7)
_RUN_COMMAND: Final = 0
_GET_OUTPUTS: Final = 3


class Sway:
    """A compositor that takes clients when the constructor returns.

    SIZES are its outputs' in pixels, from left to right: HEADLESS-1 and so on. ``run`` stands for
    ``/run``: ``runtime``, the runtime directory of ``uid``, is in it, with the socket ``wayland``.
    ``prefix`` is put in front of its command line.
    """

    def __init__(self, *sizes: tuple[int, int], prefix: Sequence[str] = ()) -> None:
        self._resources = contextlib.ExitStack()
        self.sizes = sizes or ((1280, 720),)
        nobody = pwd.getpwnam("nobody")
        self.uid = os.getuid() or nobody.pw_uid
        self.run = Path(self._resources.enter_context(tempfile.TemporaryDirectory(prefix="run-")))
        self.run.chmod(0o755)
        self.runtime = self.run / "user" / str(self.uid)
        self.runtime.mkdir(parents=True)
        self.runtime.chmod(0o700)
        os.chown(self.runtime, self.uid, -1)
        self._log = os.memfd_create("sway-log")
        self._resources.callback(os.close, self._log)
        become = (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
        self._command = [*DIE_WITH_PARENT, *prefix, *(() if os.getuid() else become)]
        try:
            self.start()
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
        """What it has in its environment."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.runtime),
            "XDG_RUNTIME_DIR": str(self.runtime),
            "WLR_BACKENDS": "headless",
            "WLR_RENDERER": "pixman",
            "WLR_LIBINPUT_NO_DEVICES": "1",
            "WLR_HEADLESS_OUTPUTS": str(len(self.sizes)),
        }

    @property
    def pid(self) -> int:
        """The compositor's process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """The last that it wrote to its log."""
        size = os.fstat(self._log).st_size
        return os.pread(self._log, LOG_SHOWN, max(0, size - LOG_SHOWN)).decode(errors="replace")

    @contextlib.contextmanager
    def as_its_user(self) -> Iterator[None]:
        """Be the user ``uid``, with every thread."""
        before = os.geteuid()
        os.seteuid(self.uid)
        try:
            yield
        finally:
            os.seteuid(before)

    def start(self) -> None:
        """Start it; one that was there has ended."""
        config = self.runtime / "config"
        config.write_text(_CONFIG.format(outputs="\n".join(self._outputs())))
        try:
            self.process = subprocess.Popen(
                [*self._command, "sway", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=self.environment,
            )
        except OSError as error:
            raise FixtureError(f"cannot start sway: {error}") from error
        self._resources.callback(_end, self.process)
        answer = self._read_answer().split()
        if len(answer) != 2:
            raise FixtureError(f"sway did not start: {self.log}")
        self.wayland, self._socket = str(self.runtime / answer[0]), answer[1]

    def kill(self) -> None:
        """End it as a crash would, and wait until it is gone; its socket's file stays."""
        self.process.kill()
        _end(self.process)

    def command(self, text: str) -> None:
        """Let it run a command of sway(5), and of sway-output(5)."""
        for answer in self._ask(_RUN_COMMAND, text):
            if not answer["success"]:
                raise FixtureError(f"sway: {text}: {answer}")

    def outputs(self) -> list[dict[str, Any]]:
        """Return what it tells of its outputs (sway-ipc(7), GET_OUTPUTS)."""
        answer: list[dict[str, Any]] = self._ask(_GET_OUTPUTS)
        return answer

    def close(self) -> None:
        """End it."""
        self._resources.close()

    def _outputs(self) -> Iterator[str]:
        x = 0
        for number, (width, height) in enumerate(self.sizes, 1):
            yield f"output HEADLESS-{number} mode {width}x{height} position {x} 0"
            x += width

    def _ask(self, kind: int, text: str = "") -> Any:  # noqa: ANN401 (JSON)
        payload = text.encode()
        with socket.socket(socket.AF_UNIX) as sock, sock.makefile("rb") as answers:
            sock.settimeout(PATIENCE)
            sock.connect(self._socket)
            sock.sendall(_IPC.pack(b"i3-ipc", len(payload), kind) + payload)
            _, size, _ = _IPC.unpack(answers.read(_IPC.size))
            return json.loads(answers.read(size))

    def _read_answer(self) -> str:
        assert self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            # One line, written at once.
            ready = selector.select(PATIENCE)
        return os.read(self.process.stdout.fileno(), 512).decode() if ready else ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End PROCESS if it runs, and close its ends."""
    assert process.stdout
    if process.poll() is None:
        process.terminate()
    end_process(process)
    process.stdout.close()
