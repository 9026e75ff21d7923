"""systemd's side of sd_notify(3) is a datagram socket: what arrives there is what was told."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessiond.notify import Notifier

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is put back, however the test leaves it
        monkeypatch.delenv(name)


@pytest.fixture(params=["path", "abstract"])
def systemd(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        address = str(tmp_path / "notify")
        if request.param == "abstract":
            address = f"@spice-sessiond-test-{os.getpid()}"
        sock.bind(address.replace("@", "\0", 1))
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield sock


def test_assignments_arrive(systemd: socket.socket) -> None:
    notifier = Notifier()
    notifier.send(READY=1, STATUS="streaming: Session 3 is shown.")
    assert systemd.recv(4096) == b"READY=1\nSTATUS=streaming: Session 3 is shown."
    notifier.send(STOPPING=1)
    assert systemd.recv(4096) == b"STOPPING=1"


def test_text_cannot_add_an_assignment(systemd: socket.socket) -> None:
    Notifier().send(STATUS="the host said\nMAINPID=1\r\nX")
    assert systemd.recv(4096) == b"STATUS=the host said MAINPID=1 X"


def test_environment_is_cleared(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier()
    notifier.send(READY=1)
    code = f"import os; print([name for name in {VARIABLES} if name in os.environ])"
    seen = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert seen.stdout == b"[]\n"
    assert not set(VARIABLES) & os.environ.keys()
    assert systemd.recv(4096) == b"READY=1"


def test_without_systemd_nobody_is_told() -> None:
    Notifier().send(READY=1)


def test_systemd_that_is_gone_is_no_error(systemd: socket.socket) -> None:
    notifier = Notifier()
    systemd.close()
    notifier.send(READY=1)
    assert "NOTIFY_SOCKET" not in os.environ


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("", "", 0),
        ("3000000", "", 1.5),
        ("3000000", "ours", 1.5),
        ("3000000", "1", 0),
        ("soon", "ours", 0),
        ("-5", "ours", 0),
    ],
)
def test_watchdog(usec: str, pid: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    if usec:
        monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "ours" else pid)
    assert Notifier().watchdog == seconds
