"""A guest: QEMU with the cached image, a stream port, a SPICE server, and a way to run commands.

Owns QEMU and its three connections (the command channel, the monitor, the console's log). What is
inside the image is ``tests.vm.image``'s. The image is never written: all that a guest writes is
gone with it, so each starts from the same state.

    with Guest(cached_or_built("trixie"), directory=tmp_path) as guest:
        guest.run(["loginctl", "list-sessions"]).stdout
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import socket
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from PIL import Image as Picture

from tests.vm.channel import PATIENCE, Channel, GuestError
from tests.vm.commanded import Commanded
from tests.vm.qmp import Monitor, MonitorError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.vm.image import Image

STREAM_PORT: Final = "org.spice-space.stream.0"
STREAM_DEVICE: Final = "stream-port"
# Emulated on two noisy cores; a quiet machine takes a tenth of it.
BOOT_PATIENCE: Final = 240.0
# Where the project's tree is put in the guest.
PROJECT: Final = "/opt/spice-sessiond"
# Not the project's source: what tools leave in a checkout.
LITTER: Final = ("build", "dist", "__pycache__", "node_modules")

# The commands that a guest needs on the host, and the Debian packages that bring them.
COMMANDS: Final = {
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware of a guest."""

    memory_mib: int = 2048
    cpus: int = 2
    # QEMU's -vga: "virtio" is a DRM card and the client's display 0; the stream is then display 1.
    vga: str = "virtio"
    # Emulated unless asked for, so that every machine tests the same thing.
    kvm: bool = False
    # Whether a reboot of the guest boots it again; else it ends QEMU, as a panic does.
    reboots: bool = False
    # More arguments for QEMU and for the guest's kernel.
    devices: tuple[str, ...] = ()
    kernel_arguments: tuple[str, ...] = ()


def machine_from_environment() -> Machine:
    """Return the default machine; SPICE_SESSIOND_KVM=1 asks for KVM where it can be had."""
    wanted = os.environ.get("SPICE_SESSIOND_KVM") == "1"
    return Machine(kvm=wanted and os.access("/dev/kvm", os.R_OK | os.W_OK))


def missing() -> list[str]:
    """Tell what this machine lacks for running a guest, in words; empty if nothing."""
    return [
        f"{command} (apt-get install {package})"
        for command, package in COMMANDS.items()
        if shutil.which(command) is None
    ]


class Guest(Commanded):
    """A context manager: entered, the guest has booted and takes commands.

    ``directory`` is an existing directory for the console's log, which outlives the guest.
    A failed start leaves nothing running. Everything raises the errors of ``tests.vm.channel``.
    """

    def __init__(self, image: Image, *, directory: Path, machine: Machine | None = None) -> None:
        self.image = image
        self.machine = machine or machine_from_environment()
        self.console_log = directory / "console.log"
        self._qemu_log = directory / "qemu.log"
        self._directory = directory
        self._resources = contextlib.ExitStack()
        self._monitor: Monitor
        self._qemu: subprocess.Popen[bytes]
        self._spice_port = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as rollback:
            self._start_qemu(rollback)
            self.channel.wait_ready(BOOT_PATIENCE)
            # Drivers load beside the boot: without this the graphics card may come later.
            self.run(["udevadm", "settle"])
            self._resources = rollback.pop_all()
        return self

    @property
    def pid(self) -> int:
        """QEMU's process id on the host."""
        return self._qemu.pid

    @property
    def spice_uri(self) -> str:
        """Where a SPICE client connects; no password."""
        return f"spice://127.0.0.1:{self._spice_port}"

    def push_tree(self, source: Path, path: str = PROJECT) -> None:
        """Copy a directory of the host into the guest, owned by root, without hidden files."""
        self.run(["install", "-d", path])
        self.run(["tar", "--extract", "--no-same-owner"], cwd=path, stdin=_tar(source))

    def wait_for_path(self, path: str, timeout: float = PATIENCE) -> None:
        """Wait until a path exists in the guest."""
        self.wait_for(["test", "-e", path], timeout=timeout)

    def wait_for(
        self, argv: Sequence[str], *, user: str = "root", timeout: float = PATIENCE
    ) -> None:
        """Wait until a command of the guest, which is repeated, succeeds."""
        # Repeated inside: what is waited for has no event of its own, and one command is cheaper
        # than a frame and a process for each try.
        loop = f"until {shlex.join(argv)} >/dev/null 2>&1; do sleep 0.1; done"
        self.run(["sh", "-c", loop], user=user, timeout=timeout)

    def wait_booted(self, timeout: float = BOOT_PATIENCE) -> str:
        """Wait until systemd has nothing left to start: "running"; "degraded" if a unit failed."""
        command = ["systemctl", "is-system-running", "--wait"]
        return self.run(command, check=False, timeout=timeout).stdout.strip()

    def reboot(self) -> None:
        """Boot anew, the disk as it was left; on return commands are taken again.

        The machine's ``reboots`` allows it. What ran is gone, and whoever waits for it is told; so
        are commands that were started after this call and before the new boot.
        """
        # Not its end: it may be ended itself before it can tell.
        before = self.channel.boots
        self.spawn(["systemctl", "reboot"])
        self.channel.wait_ready(BOOT_PATIENCE, boots=before + 1)
        self.run(["udevadm", "settle"])

    def unplug_stream_port(self) -> None:
        """Take the stream port out of the running guest, as a change of its hardware."""
        self.qmp("device_del", id=STREAM_DEVICE)

    def plug_stream_port(self) -> None:
        """Put the stream port in again, on the same channel of the host's."""
        self.qmp("device_add", **_stream_device())

    def qmp(self, command: str, /, **arguments: object) -> object:
        """Run a command of QEMU's monitor. Raises GuestError."""
        try:
            return self._monitor.execute(command, **arguments)
        except MonitorError as error:
            raise GuestError(f"{error}; {self._epitaph()}") from error

    def press(self, *keys: str) -> None:
        """Press keys together on the guest's keyboard, by QEMU's names: "ctrl", "f2", "ret"."""
        self.qmp("send-key", keys=[{"type": "qcode", "data": key} for key in keys])

    def type_line(self, text: str) -> None:
        """Type lower-case letters and Enter on the guest's keyboard, one key at a time."""
        for key in (*text, "ret"):
            self.press(key)

    def screenshot(self) -> Picture.Image:
        """Return what the guest's VGA head shows, the picture that a person before it would see."""
        target = self._directory / "screen.ppm"
        self.qmp("screendump", filename=str(target))
        with Picture.open(target) as picture:
            picture.load()
        target.unlink()
        return picture.copy()

    def _start_qemu(self, resources: contextlib.ExitStack) -> None:
        ours = [socket.socketpair() for _ in range(2)]
        with contextlib.ExitStack() as ends:
            channel, monitor = (ends.enter_context(pair[1]) for pair in ours)
            for pair in ours:
                resources.callback(pair[0].close)
            self._spice_port = _free_port()
            log = ends.enter_context(self._qemu_log.open("wb"))
            self._qemu = subprocess.Popen(
                # QEMU ends with the thread that started it, however that ends.
                ["setpriv", "--pdeathsig", "KILL", *self._arguments(channel, monitor)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(channel.fileno(), monitor.fileno()),
                start_new_session=True,
            )
        resources.callback(self._stop_qemu)
        self._monitor = Monitor(ours[1][0])
        resources.callback(self._monitor.close)
        self.channel = resources.enter_context(Channel(ours[0][0], self._epitaph))

    def _stop_qemu(self) -> None:
        # There is nothing in it to save: no disk that is kept, no file of the host.
        self._qemu.kill()
        self._qemu.wait()

    def _epitaph(self) -> str:
        """Tell what the host knows of the guest's state, for the texts of errors."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._qemu.wait(0.2)
        status = self._qemu.returncode
        state = "QEMU is running" if status is None else f"QEMU has ended with status {status}"
        return (
            f"{state}; {self._qemu_log}:\n{_tail(self._qemu_log)}\n"
            f"--- {self.console_log} ends with\n{_tail(self.console_log)}"
        )

    def _arguments(self, channel: socket.socket, monitor: socket.socket) -> list[str]:
        image, machine = self.image, self.machine
        kernel = (
            "root=/dev/vda rw rootfstype=ext4 rootflags=noatime",
            "console=ttyS0 quiet panic=-1 mitigations=off",
            *machine.kernel_arguments,
        )
        return [
            *("qemu-system-x86_64", "-nodefaults", "-no-user-config"),
            *(() if machine.reboots else ("-no-reboot",)),
            *("-machine", "pc", "-m", f"{machine.memory_mib}M", "-smp", str(machine.cpus)),
            *(("-accel", "kvm", "-cpu", "host") if machine.kvm else ("-accel", "tcg,thread=multi")),
            *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
            *("-append", " ".join(kernel)),
            # snapshot: writes go to a file without a name
            *("-drive", f"file={image.root},format=raw,if=virtio,snapshot=on,cache=unsafe"),
            *("-device", "virtio-rng-pci"),
            *("-display", "none", "-vga", machine.vga),
            *("-spice", f"addr=127.0.0.1,port={self._spice_port},disable-ticketing=on"),
            *("-device", "virtio-serial-pci"),
            *("-chardev", f"spiceport,id=stream,name={STREAM_PORT}"),
            *("-device", ",".join(f"{key}={value}" for key, value in _stream_device().items())),
            *("-chardev", f"socket,id=commands,fd={channel.fileno()}"),
            *("-device", "virtserialport,chardev=commands,name=org.spice-space.test.0"),
            *("-chardev", f"socket,id=monitor,fd={monitor.fileno()}"),
            *("-mon", "chardev=monitor,mode=control"),
            *("-serial", f"file:{self.console_log}"),
            *machine.devices,
        ]


def _stream_device() -> dict[str, str]:
    return {
        "driver": "virtserialport",
        "id": STREAM_DEVICE,
        "chardev": "stream",
        "name": STREAM_PORT,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(path: Path, lines: int = 30) -> str:
    try:
        text = path.read_text(errors="replace").replace("\r", "")
    except FileNotFoundError:
        return "(none)"
    return "\n".join(text.splitlines()[-lines:])


def _tar(source: Path) -> bytes:
    def unless_litter(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        name = Path(member.name).name
        if name.startswith(".") or name.endswith(".egg-info") or name in LITTER:
            return None
        return member

    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for entry in sorted(source.iterdir()):
            tar.add(entry, entry.name, filter=unless_litter)
    return output.getvalue()
