"""The users' agents' socket: handed over by systemd, or made."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

import pytest

from sessiond.errors import SessiondError
from sessiond.transport.fds import OwnedFd
from sessiond.transport.listening import SocketInUseError
from sessiond.users.listener import NAME, take_listener

if TYPE_CHECKING:
    from pathlib import Path


def check(sock: socket.socket, path: Path) -> None:
    assert sock.getsockname() == str(path)
    assert not sock.getblocking()
    assert not sock.get_inheritable()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        sock.accept()[0].close()


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


def test_one_is_made_that_every_user_reaches(tmp_path: Path) -> None:
    path = tmp_path / "spice-sessiond" / "agent.sock"
    umask = os.umask(0o077)
    try:
        with take_listener(str(path), {}) as sock:
            check(sock, path)
            assert path.stat().st_mode & 0o777 == 0o666
            assert path.parent.stat().st_mode & 0o777 == 0o755
    finally:
        os.umask(umask)


def test_what_was_left_there_is_replaced(path: Path) -> None:
    listening(path).close()
    with take_listener(str(path), {}) as sock:
        check(sock, path)


def test_another_that_listens_there_is_left_alone(path: Path) -> None:
    text = f"agent.sock is in use: uid {os.getuid()}, pid {os.getpid()}, listens there"
    with listening(path) as other:
        with pytest.raises(SocketInUseError, match=text):
            take_listener(str(path), {})
        check_alive(other, path)


def check_alive(sock: socket.socket, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        sock.accept()[0].close()


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(SessiondError, match="is there already, and is no socket"):
        take_listener(str(path), {})
    assert path.read_text() == "mine"


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_a_folder_where_others_write_is_refused(path: Path, mode: int) -> None:
    path.parent.chmod(mode)
    with pytest.raises(SessiondError, match="other users can replace a socket"):
        take_listener(str(path), {})
    assert not path.exists()


def test_a_folder_where_nobody_can_replace_it_will_do(path: Path) -> None:
    path.parent.chmod(0o1777)
    with take_listener(str(path), {}) as sock:
        check(sock, path)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give a folder away")
def test_a_folder_of_another_user_is_refused(path: Path) -> None:
    os.chown(path.parent, 65534, -1)
    with pytest.raises(SessiondError, match="other users can replace a socket"):
        take_listener(str(path), {})


@pytest.mark.parametrize("name", ["missing/folder/agent.sock", "x" * 108])
def test_a_place_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(SessiondError, match="cannot be listened at: "):
        take_listener(str(tmp_path / name), {})


def test_systemds_is_taken_wherever_it_listens(path: Path, tmp_path: Path) -> None:
    given = OwnedFd(listening(path).detach())
    elsewhere = tmp_path / "other.sock"
    with take_listener(str(elsewhere), {NAME: given}) as sock:
        check(sock, path)
    with pytest.raises(ValueError, match="closed"):
        given.fileno()
    assert not elsewhere.exists()


def test_what_is_no_listener_is_left_alone(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = socket.socketpair()
    folder = OwnedFd(os.open(tmp_path, os.O_RDONLY))
    with ours, theirs, folder, socket.create_server(("127.0.0.1", 0)) as tcp:
        for fd in (ours.fileno(), tcp.fileno(), folder.fileno()):
            with OwnedFd(os.dup(fd)) as given:
                take_listener(str(path), {NAME: given}).close()
                os.fstat(given.fileno())
    said = [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]
    begin = "descriptor agent of systemd is left alone: it "
    assert said == [
        f"{begin}{why}" for why in ("does not listen", "is not a Unix socket", "is no socket")
    ]


def test_others_of_systemd_are_not_looked_at(path: Path) -> None:
    with OwnedFd(listening(path).detach()) as helper:
        with pytest.raises(SocketInUseError):
            take_listener(str(path), {"helper": helper})
        os.fstat(helper.fileno())
