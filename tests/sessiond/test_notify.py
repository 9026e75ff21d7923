"""systemd's side of sd_notify(3) is a datagram socket: what arrives there is what was told."""

import array
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sessiond.notify import Notifier
from sessiond.transport.fds import OwnedFd

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "FDSTORE")
PATIENCE = 10.0  # seconds


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


@pytest.mark.parts
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


# The descriptor store.


def told(systemd: socket.socket) -> tuple[str, int]:
    """Return the next message and the descriptor that came with it, -1 for none."""
    assert select.select([systemd], [], [], PATIENCE)[0], "nothing is told"
    flags = socket.MSG_CMSG_CLOEXEC
    data, ancillary, _, _ = systemd.recvmsg(4096, socket.CMSG_SPACE(4), flags)
    fds = array.array("i", ancillary[0][2]) if ancillary else [-1]
    return data.decode(), fds[0]


def hear_until_the_barrier(systemd: socket.socket, messages: list[tuple[str, int]]) -> None:
    """Add what is told before the barrier, and then let that go, as systemd does."""
    while True:
        text, fd = told(systemd)
        if text == "BARRIER=1":
            os.close(fd)
            return
        messages.append((text, fd))


@pytest.mark.parametrize("even_hung_up", [False, True])
def test_what_is_stored_has_arrived_on_return(
    systemd: socket.socket, *, even_hung_up: bool
) -> None:
    ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    fds = {"one": OwnedFd(theirs), "other": OwnedFd(os.dup(theirs))}
    messages = list[tuple[str, int]]()
    with ThreadPoolExecutor(1) as thread, OwnedFd(ours):
        heard = thread.submit(hear_until_the_barrier, systemd, messages)
        Notifier().store(fds, even_hung_up=even_hung_up)
        poll = "\nFDPOLL=0" if even_hung_up else ""
        texts = [text for text, _ in messages]
        assert texts == [f"FDSTORE=1\nFDNAME={name}{poll}" for name in fds]
        for _, fd in messages:
            os.write(fd, b".")
            os.close(fd)
        assert os.read(ours, 3) == b".."
        assert os.read(ours, 1) == b"", "ours are closed"
        heard.result()


def test_nothing_to_store_is_not_worth_a_word(systemd: socket.socket) -> None:
    Notifier().store({})
    with pytest.raises(BlockingIOError):
        systemd.recv(1)


def test_without_systemd_what_was_to_be_stored_is_closed() -> None:
    ours, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    Notifier().store({"one": OwnedFd(theirs)})
    with OwnedFd(ours):
        assert os.read(ours, 1) == b""


def test_what_is_dropped_is_named(systemd: socket.socket) -> None:
    Notifier().drop_stored(["one", "other"])
    for name in ("one", "other"):
        assert systemd.recv(4096) == f"FDSTOREREMOVE=1\nFDNAME={name}".encode()


@pytest.mark.parametrize(("value", "expected"), [(None, False), ("128", True)])
def test_a_systemd_that_has_this_closes_beside_its_work(
    value: str | None, monkeypatch: pytest.MonkeyPatch, *, expected: bool
) -> None:
    if value:
        monkeypatch.setenv("FDSTORE", value)
    assert Notifier().may_close_slowly is expected
    assert "FDSTORE" not in os.environ
