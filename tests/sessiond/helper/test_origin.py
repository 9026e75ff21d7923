"""Who connected, on real sockets and real processes."""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from sessiond.errors import ProtocolError
from sessiond.helper import origin
from sessiond.helper.listener import take_listener
from sessiond.helper.origin import (
    Origin,
    PeerGoneError,
    Stat,
    origin_of,
    parse_stat,
    start_of,
    vt_of,
)
from sessiond.transport.peer import Peer, peer_of
from tests.sessiond.helper.peers import NOBODY, accept, address, fresh_name, peer, wait_line

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.parts

TAIL = b" 5751 0 -1 4194304 104 0 0 0 1 2 3 4 20 0 1 0 777 2621440 224 18446744073709551615\n"

WAIT = "; print('connected', flush=True); sys.stdin.read()"


@pytest.fixture(params=["pidfd of the socket", "pidfd of the number"])
def either_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pidfd of the number":
        monkeypatch.setattr(origin, "_SO_PEERPIDFD", 9999)
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, origin._SO_PEERPIDFD))
        except OSError as error:
            if error.errno == errno.ENOPROTOOPT:
                pytest.skip("the kernel has no SO_PEERPIDFD")


@pytest.fixture
def name() -> str:
    return fresh_name()


@pytest.fixture
def listener(name: str) -> Iterator[socket.socket]:
    with take_listener(name, {}) as sock:
        yield sock


@pytest.mark.parametrize(
    ("tty_nr", "vt"),
    [
        (1025, 1),
        (1087, 63),
        (0, 0),
        (1024, 0),  # tty0
        (1088, 0),  # ttyS0
        (34816, 0),  # pts/0
        (1083436, 0),  # pts/300
        (-1, 0),
        (1025 | 1 << 20, 0),  # 4:257
        (1025 - (1 << 32), 1),
    ],
)
def test_terminals(tty_nr: int, vt: int) -> None:
    assert vt_of(tty_nr) == vt


@pytest.mark.parametrize(
    "begin", [b"16573 (x) S 1 1 1 1025) S 16412 16411", b"1 () Z 0 0", b"1 (a\nb) S) R -1 -1"]
)
def test_what_follows_the_last_bracket_counts(begin: bytes) -> None:
    assert parse_stat(begin + TAIL) == Stat(session=5751, tty=0, start=777)


@pytest.mark.parametrize(
    "text", [b"", b"1 (sh) S 1 1 5751 0 -1", b"1 sh S 1 1" + TAIL, b"1 (sh) S 1 1 x" + TAIL[5:]]
)
def test_what_no_kernel_writes_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError, match="nothing sensible"):
        parse_stat(text)


@pytest.mark.usefixtures("either_kernel")
def test_a_living_process_is_found(name: str, listener: socket.socket) -> None:
    code = "os.setsid(); connect()" + WAIT
    with peer(name, code) as child, accept(listener) as sock:
        wait_line(child)
        start = start_of(child.pid)
        assert 0 < start <= time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
        expected = Origin(os.getuid(), os.getgid(), child.pid, start, 0, child.pid, start)
        assert origin_of(sock) == expected


@pytest.mark.usefixtures("either_kernel")
def test_a_pseudo_terminal_is_no_vt(name: str, listener: socket.socket) -> None:
    ours, theirs = os.openpty()
    code = f"os.setsid(); fcntl.ioctl({theirs}, termios.TIOCSCTTY, 0); connect(){WAIT}"
    with peer(name, code, fds=(theirs,)) as child, accept(listener) as sock:
        os.close(theirs)
        wait_line(child)
        stat = origin._look_up(child.pid)[1]
        assert stat.tty >> 8 & 0xFFF == 136
        assert origin_of(sock).vt == 0
    os.close(ours)


@pytest.mark.usefixtures("either_kernel")
def test_a_name_that_looks_like_fields_is_a_name(name: str, listener: socket.socket) -> None:
    code = "ctypes.CDLL(None).prctl(15, b'x) S 1 1 1 1025'); os.setsid(); connect()" + WAIT
    with peer(name, code) as child, accept(listener) as sock:
        wait_line(child)
        with open(f"/proc/{child.pid}/stat", "rb") as file:
            assert b"(x) S 1 1 1 1025) " in file.read()
        found = origin_of(sock)
        assert (found.vt, found.leader) == (0, child.pid)


@pytest.mark.usefixtures("either_kernel")
def test_a_process_that_has_ended_is_gone(name: str, listener: socket.socket) -> None:
    with peer(name, "connect()") as child, accept(listener) as sock:
        child.wait()
        assert peer_of(sock) == Peer(child.pid, os.getuid(), os.getgid())
        with pytest.raises(PeerGoneError, match="its process has ended"):
            origin_of(sock)


@pytest.mark.usefixtures("either_kernel")
def test_one_that_nobody_has_waited_for_is_still_known(name: str, listener: socket.socket) -> None:
    with peer(name, "os.setsid(); connect()") as child, accept(listener) as sock:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        found = origin_of(sock)
        assert (found.uid, found.pid, found.leader) == (os.getuid(), child.pid, child.pid)


@pytest.mark.usefixtures("either_kernel")
def test_one_that_ends_while_it_is_looked_up_is_gone(
    name: str, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = origin._look_up
    with peer(name, "connect()" + WAIT) as child, accept(listener) as sock:

        def look_up_and_kill(pid: int) -> tuple[int, Stat]:
            found = look_up(pid)
            child.kill()
            child.wait()
            return found

        monkeypatch.setattr(origin, "_look_up", look_up_and_kill)
        with pytest.raises(PeerGoneError):
            origin_of(sock)


def test_a_younger_process_of_the_same_number_is_not_it(
    name: str, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with peer(name, "connect()" + WAIT) as child, accept(listener) as sock:
        wait_line(child)
        monkeypatch.setattr(time, "clock_gettime", lambda _clock: 1.0)
        with pytest.raises(PeerGoneError, match="another has its number"):
            origin_of(sock)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give it up")
@pytest.mark.usefixtures("either_kernel")
def test_a_process_of_another_user_now_is_refused(name: str, listener: socket.socket) -> None:
    code = f"connect(); os.setuid({NOBODY}){WAIT}"
    with peer(name, code) as child, accept(listener) as sock:
        wait_line(child)
        with pytest.raises(ProtocolError, match=f"belongs to uid {NOBODY} now"):
            origin_of(sock)


def test_a_process_that_we_cannot_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "peer_of", lambda _sock: Peer(0, 1000, 1000))
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ProtocolError, match="PID namespace"):
        origin_of(ours)


def test_nothing_is_left_open(name: str, listener: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address(name))
        with accept(listener) as sock:
            before = os.listdir("/proc/self/fd")
            origin_of(sock)
            assert len(os.listdir("/proc/self/fd")) <= len(before)
