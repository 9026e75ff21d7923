"""The host channel over a real virtio port, as QEMU has it: a socket that the host connects to.

The tests are chapters, in this order, in one guest without a stream port.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import time
from typing import TYPE_CHECKING, Any, Final, Self

import pytest

from tests.fixtures.host_channel import HostClient
from tests.fixtures.host_exec import output_of
from tests.fixtures.screen import Screen
from tests.vm.channel import GuestError, GuestTimeoutError
from tests.vm.desktop import SLOW, install
from tests.vm.guest import Guest, machine_from_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.vm.image import Image

pytestmark = pytest.mark.vm

SERVICE: Final = "spice-sessiond.service"
PORT: Final = "org.spice-space.sessiond.0"
DEVICE: Final = {
    "driver": "virtserialport",
    "id": "host-channel",
    "chardev": "host-channel",
    "name": PORT,
}
# A terminal whose other end the host has: /dev/hvc0 while it is plugged in.
CONSOLE: Final = {"driver": "virtconsole", "id": "console", "chardev": "console"}
HVC: Final = "/dev/hvc0"
CONFIG: Final = "/etc/spice-sessiond/config.toml"
AGENT: Final = "spice-session-agent@alice.service"
RESIZED: Final = "VIRTAGENT_TERMINAL_RESIZED"
SYNC_PATIENCE: Final = 5.0  # seconds, libvirt's
SYNCS: Final = 12


class Libvirt:
    """The host as libvirt is it (qemu_agent.c): a line, then the line that answers it; no ids."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes that nobody has to answer."""
        self._socket.sendall(data)

    def ask(self, line: str) -> str:
        """Send a line; return the next one that comes."""
        self.send(f"{line}\n".encode())
        return self.line()

    def line(self, timeout: float = SLOW) -> str:
        """Wait for a line. Raises TimeoutError."""
        self._socket.settimeout(timeout)
        while b"\n" not in self._rest:
            data = self._socket.recv(1 << 16)
            assert data, "QEMU has hung up"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return f"{line.decode()}\n"

    def sync(self) -> None:
        """Find out that somebody answers, and to us: other lines are the host's before.

        So may an answer of ours be, where the guest has only then seen that one go.
        """
        for _ in range(SYNCS):
            number = time.time_ns() // 1_000_000
            request = {"execute": "guest-sync", "arguments": {"id": number}}
            self.send(f"{json.dumps(request)}\n".encode())
            with contextlib.suppress(TimeoutError):
                while self.line(SYNC_PATIENCE) != f'{{"return": {number}}}\n':
                    pass
                return
        raise GuestTimeoutError("guest-sync is not answered")

    def value(self, command: str, **arguments: object) -> Any:  # noqa: ANN401 -- JSON
        """Return what a command returns."""
        answer = json.loads(self.ask(json.dumps({"execute": command, "arguments": arguments})))
        assert set(answer) == {"return"}, answer
        return answer["return"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the socket on the host, QEMU's end of the port."""
    return tmp_path_factory.mktemp("host-channel") / "socket"


@pytest.fixture(scope="module")
def guest(guest_image: Image, path: Path) -> Iterator[Guest]:
    """Give a guest whose stream port was taken out, and that has no host channel yet."""
    devices = (
        *("-chardev", f"socket,id={DEVICE['chardev']},path={path},server=on,wait=off"),
        *("-chardev", f"socket,id={CONSOLE['chardev']},path={path}.console,server=on,wait=off"),
    )
    machine = dataclasses.replace(machine_from_environment(), devices=devices)
    with Guest(guest_image, directory=path.parent, machine=machine) as booted:
        booted.unplug_stream_port()
        yield booted


def add(guest: Guest, device: Mapping[str, str]) -> None:
    deadline = time.monotonic() + SLOW
    while True:
        try:
            guest.qmp("device_add", **device)
        except GuestError as error:
            # QEMU lets go of the name and of the socket a moment after the guest has of the port.
            if not any(it in str(error) for it in ("in use", "Duplicate")):
                raise
            if time.monotonic() > deadline:
                raise
        else:
            return


def plug(guest: Guest) -> None:
    add(guest, DEVICE)
    guest.wait_for_path(f"/dev/virtio-ports/{PORT}", SLOW)


def unplug(guest: Guest) -> None:
    guest.qmp("device_del", id=DEVICE["id"])
    guest.wait_for(["test", "!", "-e", f"/dev/virtio-ports/{PORT}"], timeout=SLOW)


@contextlib.contextmanager
def console(guest: Guest, path: Path) -> Iterator[Screen]:
    """Plug the console in, with somebody at it."""
    add(guest, CONSOLE)
    # The first one of all brings the names of eight, which stay.
    guest.wait_for(["stty", "-F", HVC], timeout=SLOW)
    with socket.socket(socket.AF_UNIX) as terminal:
        terminal.connect(f"{path}.console")
        yield Screen(terminal.fileno(), patience=SLOW)
    guest.qmp("device_del", id=CONSOLE["id"])


def resize(guest: Guest, columns: int, rows: int) -> None:
    guest.run(["stty", "-F", HVC, "cols", str(columns), "rows", str(rows)])


def wait_resized(host: HostClient, columns: int, rows: int) -> None:
    size = {"columns": columns, "rows": rows, "x-pixels": 0, "y-pixels": 0}
    wanted = {"event": RESIZED, "data": {"terminal": HVC, **size}}
    host.wait(lambda it: wanted.items() <= it.items(), SLOW)


def wait_said(guest: Guest, text: str, times: int = 1) -> None:
    """Wait until the daemon has said that so often."""
    look = f"journalctl --boot --unit={SERVICE} --output=cat | grep --count --fixed-strings"
    guest.wait_for(["sh", "-c", f'[ "$({look} "$0")" -ge {times} ]', text], timeout=SLOW)


def wait_active(guest: Guest) -> None:
    guest.wait_for(["systemctl", "is-active", SERVICE], timeout=SLOW)


@contextlib.contextmanager
def alices_agent(guest: Guest) -> Iterator[None]:
    guest.run(["systemctl", "start", AGENT], timeout=SLOW)
    try:
        yield
    finally:
        guest.run(["systemctl", "stop", AGENT], timeout=SLOW)


def test_a_port_that_is_there_is_found_by_the_installation(
    guest: Guest, package: Path, path: Path
) -> None:
    plug(guest)
    install(guest, package)
    wait_active(guest)
    mode = guest.run(["stat", "--dereference", "--format=%a %U %G", f"/dev/virtio-ports/{PORT}"])
    assert mode.stdout == "600 root root\n"
    with Libvirt(path) as host:
        host.sync()


def test_a_ports_arrival_starts_the_daemon(guest: Guest, path: Path) -> None:
    unplug(guest)
    guest.run(["systemctl", "stop", SERVICE], timeout=SLOW)
    assert guest.run(["systemctl", "is-active", SERVICE], check=False).stdout == "inactive\n"
    plug(guest)
    wait_active(guest)
    with Libvirt(path) as host:
        host.sync()


def test_what_libvirt_asks_is_answered_line_by_line(guest: Guest, path: Path) -> None:
    with Libvirt(path) as host:
        host.sync()
        assert host.ask('{"execute": "guest-ping"}') == '{"return": {}}\n'
        names = {it["name"] for it in host.value("guest-info")["supported_commands"]}
        assert {"guest-ping", "guest-exec", "virtagent-call"} <= names
        assert host.value("guest-get-host-name") == {"host-name": "guest"}
        kernel = guest.run(["uname", "--kernel-release"]).stdout.strip()
        assert host.value("guest-get-osinfo")["kernel-release"] == kernel
        assert host.value("guest-get-users") == []
        assert abs(host.value("guest-get-time") / 1e9 - time.time()) < 3600
        assert host.value("virtagent-get-status")["reason"] == "port-missing"
        assert host.ask('{"execute": "guest-file-open", "arguments": {"path": "/x"}}') == (
            '{"error": {"class": "CommandNotFound", '
            '"desc": "The command guest-file-open has not been found"}}\n'
        )
        assert host.ask("'no request'") == (
            '{"error": {"class": "GenericError", "desc": "QMP input must be a JSON object"}}\n'
        )
        host.sync()


def test_a_user_is_reached(guest: Guest, path: Path) -> None:
    with HostClient(path) as host:
        assert host.ask("virtagent-set-capabilities", events=True)["events"]
        with alices_agent(guest):
            assert host.wait(lambda it: "event" in it, SLOW)["event"] == "VIRTAGENT_USER_CONNECTED"
            assert output_of(host, "alice", "id", "-un") == "alice\n"
    # The next host hears no events, and names the user as libvirt can. It comes so fast that the
    # guest may not have seen that the other one was gone; hence it begins as libvirt does.
    with Libvirt(path) as host, contextlib.ExitStack() as stack:
        host.sync()
        stack.enter_context(alices_agent(guest))
        while not host.value("virtagent-list-users"):
            pass
        inner = {"username": "alice", "execute": "guest-exec"}
        pid = host.value("virtagent-call", **inner, arguments={"path": "false"})["pid"]
        status: dict[str, Any] = {"exited": False}
        inner = {"username": "alice", "execute": "guest-exec-status"}
        while not status["exited"]:
            status = host.value("virtagent-call", **inner, arguments={"pid": pid})
        assert status == {"exited": True, "exitcode": 1}


def test_half_a_request_harms_nobody(path: Path) -> None:
    with Libvirt(path) as host:
        host.sync()
        host.send(b'{"execute": "virtagent-activate-session", "arguments": {"ses')
    with Libvirt(path) as host:
        # So fast, the guest may not have seen that the other one was gone; hence the 0xFF.
        host.send(b"\xff")
        answer = host.ask('{"execute": "guest-sync", "arguments": {"id": 7}}')
        while answer.startswith('{"error"'):
            answer = host.line()
        assert answer == '{"return": 7}\n'


def test_hosts_may_come_and_go(path: Path) -> None:
    for _ in range(50):  # the next one is there before the guest has seen the last one go
        with Libvirt(path) as host:
            host.sync()


def test_a_host_that_reads_nothing_is_answered_later(path: Path) -> None:
    count = 2000  # of more than a KiB each: beyond what the daemon, QEMU and the sockets hold
    with Libvirt(path) as host:
        host.sync()
        host.send(b'{"execute": "guest-info"}' * count)
        for _ in range(count):
            assert host.line().startswith('{"return": {"version": ')
        host.sync()


def test_a_restart_is_nothing_to_the_host(guest: Guest, path: Path) -> None:
    with Libvirt(path) as host:
        host.sync()
        guest.run(["systemctl", "restart", SERVICE], timeout=SLOW)
        host.sync()
        assert guest.run(["systemctl", "--failed", "--plain", "--no-legend"]).stdout == ""


def test_a_users_shell_on_a_console(guest: Guest, path: Path) -> None:
    """Root's program has the console; the shell has a terminal of its own, as big as that one."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(alices_agent(guest))
        with Libvirt(path) as host:
            host.sync()
            while not host.value("virtagent-list-users"):
                pass
        screen = stack.enter_context(console(guest, path))
        on_console = (
            f"exec setsid --ctty --wait spice-sessionctl shell --user alice <>{HVC} >&0 2>&0"
        )
        caller = guest.spawn(["sh", "-c", on_console], env={"TERM": "vt220"})
        screen.wait(rb"\$ $")
        screen.type(b"PS1='inner> '; stty -echo; bind 'set enable-bracketed-paste off'\r")
        screen.wait(rb"[\r\n]inner> $")

        def answer(script: bytes) -> list[bytes]:
            mark = len(screen.shown)
            screen.type(script + b"\r")
            return screen.wait(rb"(?s)(.*\r\n)inner> $", mark)[1].splitlines()

        # Nobody has said the console's size yet.
        name, term, tty, size, owner = answer(
            b"whoami; echo $0 $TERM; tty; stty size; stat -c %U $(tty)"
        )
        assert (name, term, size, owner) == (b"alice", b"-bash vt220", b"24 80", b"alice")
        assert tty.startswith(b"/dev/pts/")
        resize(guest, 100, 40)
        assert answer(b"until [ \"$(stty size)\" = '40 100' ]; do :; done; echo now") == [b"now"]
        mark = len(screen.shown)
        # Said by the job itself: a key that comes before there is one is the shell's, and lost.
        screen.type(b"sh -c 'echo begun; exec sleep 1000'\r")
        screen.wait(rb"begun\r\n", mark)
        screen.type(b"\x1a")
        screen.wait(rb"Stopped +sh -c .*\r\ninner> $", mark)
        mark = len(screen.shown)
        screen.type(b"fg\r")
        screen.wait(rb"sleep 1000'\r\n", mark)
        screen.type(b"\x03")
        screen.wait(rb"[\r\n]inner> $", mark)
        screen.type(b"exit 9\r")
        assert caller.wait(SLOW).status == 9


def test_a_console_that_comes_and_goes_is_watched(guest: Guest, path: Path) -> None:
    guest.push(CONFIG, f'terminals.watch = ["{HVC}"]\n'.encode())
    guest.run(["systemctl", "restart", SERVICE], timeout=SLOW)
    nowhere = f"a terminal is not watched: {HVC}: No such device"
    wait_said(guest, nowhere)
    with HostClient(path) as host:
        assert host.ask("virtagent-set-capabilities", events=True)["events"]
        for times, columns in ((1, 132), (2, 133)):
            with console(guest, path):
                wait_said(guest, f"{HVC} is watched", times)
                resize(guest, columns, 43)
                wait_resized(host, columns, 43)
            wait_said(guest, f"{HVC} is not listened to any more", times)
            wait_said(guest, nowhere, times + 1)


def test_a_port_that_is_unplugged_is_taken_again(guest: Guest, path: Path) -> None:
    unplug(guest)
    plug(guest)
    with Libvirt(path) as host:
        host.sync()
    said = guest.run(["journalctl", "--boot", f"--unit={SERVICE}", "--output=cat"]).stdout
    assert "Traceback" not in said
