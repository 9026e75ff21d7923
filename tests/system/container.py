"""A container with systemd, D-Bus, logind and Xorg of its own, on the kernel's real consoles.

Owns systemd-nspawn, its cgroup and the command channel. What is inside is ``tests.system.root``'s.
The root is never written: all that a container writes is gone with it, so each starts from the same
state. The consoles belong to the machine: one container at a time has them all.

    with Container(cached_or_built(), directory=tmp_path) as container:
        container.run(["loginctl", "list-sessions"]).stdout

The project's tree is in it, read-only, as PROJECT; ``container.shared`` on the host is SHARED in
it, so that a Unix socket which one side listens at can be reached from the other.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Final, Self

from sessiond.transport.peer import peer_of
from tests.system import consoles
from tests.system.cgroup import CgroupError, own_cgroup
from tests.system.root import PROJECT, SHARED
from tests.vm.channel import Channel, GuestError, GuestGoneError, GuestTimeoutError
from tests.vm.commanded import Commanded

TREE: Final = Path(__file__).resolve().parents[2]
# Under a second on a quiet machine.
BOOT_PATIENCE: Final = 60.0
# For what takes milliseconds.
PATIENCE: Final = 20.0
# How long another run may have the consoles.
QUEUE_PATIENCE: Final = 600.0

# The commands that a container needs on the host, and the Debian packages that bring them.
COMMANDS: Final = {
    "systemd-nspawn": "systemd-container",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "flock": "util-linux",
}


def missing() -> list[str]:
    """Tell what this machine lacks for running a container, in words; empty if nothing."""
    lacks = [
        f"{command} (apt-get install {package})"
        for command, package in COMMANDS.items()
        if shutil.which(command) is None
    ]
    if os.geteuid() != 0:
        lacks.append("root")
    return lacks + consoles.missing()


class Container(Commanded):
    """A context manager: entered, it has booted, logind answers, and it takes commands.

    ``directory`` is an existing directory for the console's log, which outlives the container, and
    for ``shared``; its path is short, for it stands in those of sockets. The container ends with
    the thread that entered it. A failed start leaves nothing running. Everything raises the errors
    of ``tests.vm.channel``.
    """

    patience = PATIENCE

    def __init__(self, root: Path, *, directory: Path) -> None:
        self.root = root
        self.shared = directory / "shared"
        self.console_log = directory / "console.log"
        self._resources = contextlib.ExitStack()
        self._nspawn: subprocess.Popen[bytes]
        self._commander: int

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as rollback:
            try:
                self._start(rollback)
            except (consoles.ConsolesError, CgroupError) as error:
                raise GuestError(f"cannot start a container: {error}") from error
            self._resources = rollback.pop_all()
        return self

    @property
    def pid(self) -> int:
        """The process on the host whose end is the container's."""
        return self._nspawn.pid

    def outside(self, path: str) -> Path:
        """Return where a file of the container is on the host, for as long as the container is."""
        # proc(5): the root of a process of its.
        return Path(f"/proc/{self._commander}/root{path}")

    def enter_command(self, user: str = "root") -> list[str]:
        """Return the start of an argv of the host's; the rest is run inside, as ``user``.

        It keeps the terminal that it is started on, which is the host's.
        """
        return [
            *("nsenter", f"--target={self._commander}", "--all", "--root", "--wd"),
            *("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"),
        ]

    def journal(self, *arguments: str) -> str:
        """Return what the container's journal holds, all of it or what the arguments select."""
        return self.run(["journalctl", "--no-pager", "--output=short-monotonic", *arguments]).stdout

    def _start(self, resources: contextlib.ExitStack) -> None:
        self.shared.mkdir()
        listener = resources.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
        listener.bind(str(self.shared / "commands"))
        listener.listen(1)
        resources.enter_context(consoles.reserved(QUEUE_PATIENCE))
        cgroup = resources.enter_context(own_cgroup())
        with self.console_log.open("wb") as log:
            self._nspawn = subprocess.Popen(
                [*cgroup.enter_command(), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                start_new_session=True,
            )
        resources.callback(self._stop)
        connection = self._accept(listener, BOOT_PATIENCE)
        self._commander = peer_of(connection).pid
        self.channel = resources.enter_context(Channel(connection, self._epitaph))
        self.channel.wait_ready(BOOT_PATIENCE)
        # Asked a property, dbus-daemon starts logind and answers when that has its name.
        self.run(["loginctl", "show-seat", "seat0"], timeout=BOOT_PATIENCE)

    def _command(self) -> list[str]:
        return [
            # All of it ends with unshare, which ends with the thread that started it. The end of
            # systemd-nspawn alone is not that of what it has booted.
            *("setpriv", "--pdeathsig", "KILL"),
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"),
            *(f"--directory={self.root}", "--volatile=overlay", "--machine=container"),
            *("--private-network", "--capability=all", "--console=read-only"),
            f"--bind-ro={TREE}:{PROJECT}",
            f"--bind={self.shared}:{SHARED}",
            "--setenv=PYTHONDONTWRITEBYTECODE=1",
        ]

    def _stop(self) -> None:
        # There is nothing in it to save: no disk that is kept, no file of the host.
        self._nspawn.kill()
        self._nspawn.wait()

    def _accept(self, listener: socket.socket, timeout: float) -> socket.socket:
        """Wait for the commander inside, and for the end of the boot if that comes first."""
        pidfd = os.pidfd_open(self._nspawn.pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.register(listener, select.POLLIN)
            began = time.monotonic()
            ready = {fd for fd, _ in poll.poll(timeout * 1000)}
        finally:
            os.close(pidfd)
        if listener.fileno() in ready:
            return listener.accept()[0]
        took = time.monotonic() - began
        fault = f"the container did not start its commander ({took:.1f} s); {self._epitaph()}"
        raise GuestGoneError(fault) if ready else GuestTimeoutError(fault)

    def _epitaph(self) -> str:
        """Tell what the host knows of the container's state, for the texts of errors."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._nspawn.wait(0.2)
        status = self._nspawn.returncode
        state = "systemd-nspawn runs" if status is None else f"systemd-nspawn ended: {status}"
        tail = "\n".join(self.console().splitlines()[-30:])
        return f"{state}; {self.console_log} ends with\n{tail}"
