"""The listening socket: inherited, handed over, or made."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sessiond.errors import UsageError
from sessiond.helper.listener import SocketTakenError, take_listener
from sessiond.transport.fds import OwnedFd
from sessiond.transport.listening import SocketInUseError
from sessiond.wire.helper import NAME
from tests.sessiond.helper.peers import NOBODY, ROOT, address, fresh_name, peer, wait_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ACTIVATE = shutil.which("systemd-socket-activate")

# What a daemon that was started by inetd or systemd does, and what it finds then.
STARTED = """
import os, sys
from sessiond.helper.listener import take_listener
from sessiond.notify import Notifier
given = Notifier().take_stored()
sock = take_listener(sys.argv[1], given)
print(sorted(given), sock.fileno() > 2, sock.getblocking(), sock.get_inheritable(),
      sock.getsockname() == sys.argv[1].replace("@", chr(0)).encode(),
      os.readlink("/proc/self/fd/0"), flush=True)
sock.setblocking(True)
client, _ = sock.accept()
client.sendall(client.recv(100))
"""

LISTEN = """
sock.bind(sys.argv[1].replace("@", chr(0), 1))
sock.listen()
print("listening", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def name() -> str:
    return fresh_name()


def listening(at: bytes | str, backlog: int = 128) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(at)
    sock.listen(backlog)
    return sock


def given(sock: socket.socket) -> OwnedFd:
    return OwnedFd(sock.detach())


def check(sock: socket.socket, name: str) -> None:
    assert sock.getsockname() == address(name)
    assert not sock.getblocking()
    assert not sock.get_inheritable()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address(name))
        sock.accept()[0].close()


def test_one_is_made(name: str) -> None:
    with take_listener(name, {}) as sock:
        check(sock, name)


def test_the_default_name_is_31_bytes_of_address() -> None:
    at = address("@spice-streaming-agent-daemon")
    assert at == NAME
    assert 2 + len(at) == 31


@pytest.mark.parametrize("wrong", ["", "@", "/run/helper", "name"])
def test_only_abstract_names(wrong: str) -> None:
    with pytest.raises(UsageError, match="abstract"):
        take_listener(wrong, {})


def test_a_name_in_use(name: str) -> None:
    words = f"{name} is in use: another spice-sessiond, or a"
    with listening(address(name)), pytest.raises(SocketInUseError, match=words) as raised:
        take_listener(name, {})
    assert raised.type is SocketInUseError


@pytest.mark.parts
@pytest.mark.skipif(os.getuid() != 0, reason="without root everybody is us")
def test_a_name_that_another_user_has_taken(name: str) -> None:
    with peer(name, LISTEN, uid=NOBODY) as other:
        assert wait_line(other) == b"listening\n"
        words = f"{name} was taken by uid {NOBODY}, pid {other.pid}: end that program"
        with pytest.raises(SocketTakenError, match=words):
            take_listener(name, {})


def test_who_listens_is_not_waited_for(name: str) -> None:
    with listening(address(name), backlog=0), socket.socket(socket.AF_UNIX) as first:
        first.connect(address(name))  # one is one more than the queue takes in
        with pytest.raises(SocketTakenError, match="does not say whose it is: end that program"):
            take_listener(name, {})


@pytest.mark.parametrize("given_name", ["helper", "spice-streaming-agent.socket", "unknown"])
def test_systemds_is_taken_by_name_or_address(name: str, given_name: str) -> None:
    ours = listening(address(name))
    inode = os.fstat(ours.fileno()).st_ino
    inherited = {"port": OwnedFd(os.open(os.devnull, os.O_RDONLY)), given_name: given(ours)}
    with take_listener(name, inherited) as sock:
        assert os.fstat(sock.fileno()).st_ino == inode
        check(sock, name)
    inherited["port"].fileno()
    with pytest.raises(ValueError, match="closed"):
        inherited[given_name].fileno()


def not_unix(_at: bytes, _folder: Path) -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def datagrams(at: bytes, _folder: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(at)  # names of one type are not those of another
    return sock


def padded(at: bytes, _folder: Path) -> socket.socket:
    return listening(at.ljust(108, b"\0"))


def shorter(at: bytes, _folder: Path) -> socket.socket:
    return listening(at[:-1])


def at_a_path(_at: bytes, folder: Path) -> socket.socket:
    return listening(str(folder / "socket"))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (not_unix, "it is not a Unix socket"),
        (datagrams, "it is not a stream socket"),
        (padded, "its address is"),
        (shorter, "its address is"),
        (at_a_path, "its address is"),
    ],
)
def test_a_wrong_one_is_left_alone(
    make: Callable[[bytes, Path], socket.socket],
    why: str,
    name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        given(make(address(name), tmp_path)) as wrong,
        take_listener(name, {"helper": wrong}) as it,
    ):
        check(it, name)
        assert os.get_blocking(wrong.fileno())
    assert f"descriptor helper of systemd is left alone: {why}" in caplog.text


def test_one_that_does_not_listen_is_left_alone(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    deaf = socket.socket(socket.AF_UNIX)
    deaf.bind(address(name))
    with given(deaf) as wrong:
        with pytest.raises(SocketTakenError):
            take_listener(name, {"helper": wrong})
        assert "is left alone: it does not listen" in caplog.text
        wrong.fileno()


def start(*argv: str, stdin: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdin=stdin.fileno(), stdout=subprocess.PIPE, cwd=ROOT)


@pytest.mark.parts
def test_inetds_is_taken_and_no_longer_standard_input(name: str) -> None:
    with (
        listening(address(name)) as ours,
        start(sys.executable, "-c", STARTED, name, stdin=ours) as child,
        socket.socket(socket.AF_UNIX) as client,
    ):
        ours.close()
        assert child.stdout
        assert child.stdout.readline() == b"[] True False False True /dev/null\n"
        client.connect(address(name))
        client.sendall(b"heard")
        assert client.recv(100) == b"heard"


@pytest.mark.parts
def test_another_socket_as_standard_input_stays(name: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, start(sys.executable, "-c", STARTED, name, stdin=theirs) as child:
        assert child.stdout
        assert b" True False False True socket:[" in child.stdout.readline()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address(name))
            client.sendall(b"heard")
            assert client.recv(100) == b"heard"


@pytest.mark.parts
@pytest.mark.skipif(not ACTIVATE, reason="systemd-socket-activate is missing")
@pytest.mark.parametrize("given_name", ["helper", "other"])
def test_systemd_hands_it_over(name: str, given_name: str) -> None:
    assert ACTIVATE
    options = (f"--listen={name}", f"--fdname={given_name}")
    with subprocess.Popen(
        [ACTIVATE, *options, sys.executable, "-c", STARTED, name],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as child:
        assert child.stdout
        assert child.stderr
        assert b"Listening on" in child.stderr.readline()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address(name))
            client.sendall(b"heard")
            said = child.stdout.readline().decode()
            assert said == f"['{given_name}'] True False False True /dev/null\n"
            assert client.recv(100) == b"heard"


def test_nothing_is_said_of_standard_input_that_is_no_socket(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    take_listener(name, {}).close()
    assert "descriptor 0" not in caplog.text
