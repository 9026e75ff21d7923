"""Opening a port by its path, and one line about each way in which that fails."""

import os
import pty
import re
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sessiond.errors import PortError
from sessiond.transport.fds import OwnedFd
from sessiond.transport.port import open_port

NOBODY = 65534


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "port"))
        yield sock


@contextmanager
def refusal(path: Path | str, reason: str) -> Iterator[None]:
    with pytest.raises(PortError, match=f"^port {re.escape(str(path))} is {reason}$"):
        yield


def flags_are_right(fd: OwnedFd) -> bool:
    return not os.get_blocking(fd.fileno()) and not os.get_inheritable(fd.fileno())


def test_unix_socket(listener: socket.socket) -> None:
    listener.listen()
    port = open_port(listener.getsockname())
    peer, _ = listener.accept()
    with port.fd, peer:
        assert port.path == listener.getsockname()
        assert not port.waits_for_host
        assert flags_are_right(port.fd)
        os.write(port.fd.fileno(), b"there")
        assert peer.recv(9) == b"there"


def test_pty_is_raw() -> None:
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    with OwnedFd(master), OwnedFd(slave), open_port(name).fd as fd:
        assert flags_are_right(fd)
        assert not open_port(name).waits_for_host
        local_modes = termios.tcgetattr(fd.fileno())[3]
        assert not local_modes & (termios.ECHO | termios.ICANON | termios.ISIG)
        os.write(master, b"\x03\r\n\x04\x7f")
        assert os.read(fd.fileno(), 9) == b"\x03\r\n\x04\x7f"
        os.write(fd.fileno(), b"\n\x00\xff")
        assert os.read(master, 9) == b"\n\x00\xff"


def test_other_devices_wait_for_their_host() -> None:
    port = open_port("/dev/random")
    with port.fd:
        assert port.waits_for_host
        assert flags_are_right(port.fd)


def test_device_that_nobody_can_wait_for() -> None:
    # What else somebody may write who wants no port.
    with refusal("/dev/null", "no port: the kernel cannot wait for anything there"):
        open_port("/dev/null")


def test_link_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "org.spice-space.stream.0"
    link.symlink_to("/dev/random")
    with open_port(str(link)).fd:
        pass


def test_missing(tmp_path: Path) -> None:
    with refusal(tmp_path / "none", "missing: no such file"):
        open_port(str(tmp_path / "none"))


def test_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "none")
    with refusal(tmp_path / "link", "missing: no such file"):
        open_port(str(tmp_path / "link"))


@pytest.mark.parametrize("kind", ["directory", "file", "fifo"])
def test_wrong_kind(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    make: dict[str, Callable[[], None]] = {
        "directory": path.mkdir,
        "file": path.touch,
        "fifo": lambda: os.mkfifo(path),
    }
    make[kind]()
    with refusal(path, "neither a character device nor a socket"):
        open_port(str(path))


def test_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with refusal(tmp_path / "file/port", "not usable: Not a directory"):
        open_port(str(tmp_path / "file/port"))


def test_nobody_listens(listener: socket.socket) -> None:
    path = listener.getsockname()
    with refusal(path, "not served: nobody listens on this socket"):
        open_port(path)


def test_listener_is_busy(listener: socket.socket) -> None:
    listener.listen(0)
    path = listener.getsockname()
    with ExitStack() as others, refusal(path, "busy: its listener takes no more connections"):
        for _ in range(10):
            others.enter_context(open_port(path).fd)


def test_path_too_long_for_a_socket(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as sock:
        here = os.open(directory, os.O_PATH)
        with OwnedFd(here):
            sock.bind(f"/proc/self/fd/{here}/port")
        with refusal(directory / "port", "not usable: AF_UNIX path too long"):
            open_port(str(directory / "port"))


def test_not_allowed(listener: socket.socket) -> None:
    listener.listen()
    path = listener.getsockname()
    Path(path).chmod(0)
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    try:
        with refusal(path, "not accessible: permission denied"):
            open_port(path)
    finally:
        os.seteuid(was)


@pytest.mark.parts
def test_device_without_hardware() -> None:
    # A process without a controlling terminal gets from /dev/tty what an unplugged port gives.
    code = "from sessiond.transport.port import open_port; open_port('/dev/tty')"
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert process.stderr.endswith("port /dev/tty is gone: the device was unplugged\n")
