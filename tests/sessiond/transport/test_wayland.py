"""A connection to a compositor: a socket pair whose other end the test holds."""

import array
import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sessiond.errors import DisplayError
from sessiond.transport.fds import OwnedFd
from sessiond.transport.wayland import CHUNK, MAX_UNSENT, Connection, shared_memory
from sessiond.wire.wayland import CALLBACK, SHM, SHM_POOL

NAME = "/run/user/7/wayland-0"
REFUSAL = struct.pack("=IIIII", 1, 24 << 16, 1, 9, 4) + b"bad\0"


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with closing(Connection(ours, NAME)) as connection, theirs:
        theirs.settimeout(10)
        yield connection, theirs


def done(number: int) -> bytes:
    return struct.pack("=III", number, 12 << 16, 0)


def test_a_round_trip(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    theirs.sendall(done(2))
    connection.round_trip(10)
    assert theirs.recv(100) == struct.pack("=III", 1, 12 << 16, 2)


def test_a_round_trip_has_a_limit(pair: tuple[Connection, socket.socket]) -> None:
    connection, _ = pair
    with pytest.raises(DisplayError, match=f"{NAME} did not answer in 0.01 s"):
        connection.round_trip(0.01)


def test_who_wakes_us(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    heard = list[int]()
    connection.client.make(connection.client.display, "sync", CALLBACK, on={"done": heard.append})
    with OwnedFd(os.eventfd(1, os.EFD_CLOEXEC)) as wake:
        assert not connection.wait(wake.fileno())
        theirs.sendall(done(2))
        assert connection.wait(wake.fileno())
    assert heard == [0]
    assert not connection.wait(-1, 0.0)
    connection.read()


def test_memory_is_handed_on_with_its_request(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    shm = connection.client.make(connection.client.display, "get_registry", SHM)
    fd, view = shared_memory(8192)
    connection.client.make(shm, "create_pool", SHM_POOL, fd, 8192)
    connection.flush()
    data, ancillary, _, _ = theirs.recvmsg(12, socket.CMSG_SPACE(64))  # get_registry alone
    assert (len(data), ancillary) == (12, [])
    data, ((_, _, numbers),), _, _ = theirs.recvmsg(100, socket.CMSG_SPACE(64))
    assert data == struct.pack("=IIII", 2, 16 << 16, 3, 8192)
    (received,) = array.array("i", numbers)
    with OwnedFd(received), mmap.mmap(received, 8192) as memory:
        memory[:3] = b"abc"
    assert bytes(view[:4]) == b"abc\0"


def test_nobody_takes_the_memory_away() -> None:
    """Who made it smaller would end us by SIGBUS."""
    fd, view = shared_memory(4096)
    with OwnedFd(fd):
        for size in (0, 8192):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert len(view) == 4096


@pytest.mark.parametrize("size", [0, -1, 1 << 62])
def test_memory_that_cannot_be(size: int) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(DisplayError, match=f"no shared memory of {size} bytes"):
        shared_memory(size)
    assert len(os.listdir("/proc/self/fd")) <= len(before)


def test_a_compositor_that_reads_nothing(pair: tuple[Connection, socket.socket]) -> None:
    connection, _ = pair
    registry = connection.registry({})

    def ask() -> None:
        for _ in range(MAX_UNSENT):
            connection.client.ask(registry, "bind", 1, "x" * 3000, 1, registry)
            connection.flush()

    with pytest.raises(DisplayError, match="reads nothing of what we send"):
        ask()


def test_the_end(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    theirs.close()
    for use in (connection.read, lambda: connection.wait(-1), lambda: connection.round_trip(1)):
        with pytest.raises(DisplayError, match=f"{NAME} has gone away"):
            use()


def test_last_words(pair: tuple[Connection, socket.socket]) -> None:
    """Why it hung up is told, although it reads no more of what we send."""
    connection, theirs = pair
    connection.client.make(connection.client.display, "sync", CALLBACK)
    theirs.sendall(REFUSAL)
    theirs.close()
    with pytest.raises(DisplayError, match=r"hung up: .* refuses what was asked of .*: bad \(9\)"):
        connection.flush()


def test_a_refusal(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    theirs.sendall(REFUSAL)
    for _ in range(2):
        with pytest.raises(DisplayError, match=r"bad \(9\)"):
            connection.wait(-1)
        theirs.sendall(done(2))


def test_descriptors_for_nobody(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    with OwnedFd(os.memfd_create("foreign")) as fd:
        socket.send_fds(theirs, [done(2)], [fd.fileno()] * 3)
    with pytest.raises(DisplayError, match="descriptors, for which nobody asked"):
        connection.wait(-1)


def test_one_chunk_at_a_time(pair: tuple[Connection, socket.socket]) -> None:
    """However much there is, whoever wakes us is looked at in between."""
    connection, theirs = pair
    heard = list[int]()
    connection.client.make(connection.client.display, "sync", SHM, on={"format": heard.append})
    theirs.sendall(struct.pack("=III", 2, 12 << 16, 7) * (2 * CHUNK // 12))
    assert connection.wait(-1)
    assert len(heard) <= CHUNK // 12


def test_a_socket_where_nobody_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "wayland-0")
    with pytest.raises(DisplayError, match=f"no compositor answers at {path}"):
        Connection.open(path, 1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        with pytest.raises(DisplayError, match=f"no compositor answers at {path}"):
            Connection.open(path, 1)
        listener.listen()
        Connection.open(path, 1).close()
