"""Bytes with descriptors on their way, through a real socket, and how descriptors are let go."""

from __future__ import annotations

import array
import contextlib
import errno
import gc
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from sessiond.transport.passing import MOST_CLOSING, Outgoing, Passed, close_aside

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


class Pipe:
    """One whose writing end is passed."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()

    @property
    def inode(self) -> int:
        return os.fstat(self.read).st_ino

    def wait_closed(self) -> None:
        """Wait until nobody has the writing end any more."""
        assert select.select([self.read], [], [], 10)[0], "somebody still has it"
        assert os.read(self.read, 1) == b""
        os.close(self.read)


def receive(sock: socket.socket, size: int = 100) -> tuple[bytes, list[int]]:
    """Return bytes, and the inodes of the pipes that came with them."""
    room = socket.CMSG_SPACE(16 * 4)
    data, ancillary, flags, _ = sock.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    assert not flags & socket.MSG_CTRUNC
    fds = array.array("i")
    for _level, _kind, part in ancillary:
        fds.frombytes(part)
    inodes = [os.fstat(fd).st_ino for fd in fds]
    for fd in fds:
        os.close(fd)
    return data, inodes


def test_descriptors_come_with_their_own_first_byte(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    pipes = [Pipe() for _ in range(3)]
    outgoing = Outgoing()
    outgoing.add(b"before;")
    outgoing.add(b"two;", Passed([pipes[0].write, pipes[1].write]))
    outgoing.add(b"between;")
    outgoing.add(b"one;", Passed([pipes[2].write]))
    outgoing.add(b"none", Passed([]))
    assert len(outgoing) == 27
    while len(outgoing):
        outgoing.send(ours, 100)
    got = list[tuple[bytes, list[int]]]()
    while sum(len(data) for data, _ in got) < 27:
        got.append(receive(theirs))
    assert b"".join(data for data, _ in got) == b"before;two;between;one;none"
    with_fds = [(data, inodes) for data, inodes in got if inodes]
    assert [inodes for _, inodes in with_fds] == [
        [pipes[0].inode, pipes[1].inode], [pipes[2].inode],
    ]  # fmt: skip
    for pipe in pipes:
        pipe.wait_closed()


def test_descriptors_go_once_though_their_bytes_go_in_parts(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    pipe, outgoing = Pipe(), Outgoing()
    data = bytes(range(256)) * 4096  # more than a socket takes
    outgoing.add(data, Passed([pipe.write]))
    outgoing.add(b"end")
    got, inodes = b"", []
    while len(outgoing) or len(got) < len(data) + 3:
        try:
            outgoing.send(ours, 1 << 20)
        except BlockingIOError:
            part, of_part = receive(theirs, 1 << 20)
            got += part
            inodes += of_part
        if not len(outgoing):
            part, of_part = receive(theirs, 1 << 20)
            got += part
            inodes += of_part
    assert got == data + b"end"
    assert inodes == [pipe.inode]
    pipe.wait_closed()


def test_what_is_not_sent_is_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    pipes = [Pipe(), Pipe()]
    outgoing = Outgoing()
    outgoing.add(b"x", Passed([pipes[0].write]))
    outgoing.clear()
    pipes[0].wait_closed()
    outgoing.add(b"y", Passed([pipes[1].write]))
    outgoing.send(ours, 1)
    assert receive(theirs) == (b"y", [pipes[1].inode])
    pipes[1].wait_closed()


def test_what_is_withdrawn_before_it_is_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    """Bytes without the descriptors that they tell of would be a wrong line."""
    ours, theirs = pair
    pipes, outgoing = [Pipe() for _ in range(3)], Outgoing()
    all_passed = [Passed([pipe.write]) for pipe in pipes]
    outgoing.add(b"one;", all_passed[0])
    outgoing.add(b"two;")
    outgoing.add(b"three;", all_passed[1])
    outgoing.add(b"four;", all_passed[2])
    outgoing.send(ours, 2)
    assert receive(theirs) == (b"on", [pipes[0].inode])
    for passed in all_passed:
        passed.close()
    while len(outgoing):
        outgoing.send(ours, 100)
    assert receive(theirs) == (b"e;two;", [])
    for pipe in pipes:
        pipe.wait_closed()


def test_peer_that_has_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    pipe, outgoing = Pipe(), Outgoing()
    outgoing.add(b"x", Passed([pipe.write]))
    theirs.close()
    with pytest.raises(BrokenPipeError):
        outgoing.send(ours, 1)
    outgoing.clear()
    pipe.wait_closed()


class Refusing:
    """A socket that passes no descriptors. Not the kernel, which does so after a thousand."""

    def __init__(self, sock: socket.socket) -> None:
        self.send = sock.send

    def sendmsg(self, *_: object) -> int:
        raise OSError(errno.ETOOMANYREFS, "Too many references")


def test_kernel_that_passes_no_more(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    pipe, outgoing = Pipe(), Outgoing()
    refused: list[OSError] = []
    outgoing.add(b"one;")
    outgoing.add(b"two;", Passed([pipe.write]), refused.append)
    outgoing.add(b"three;")
    sock: Any = Refusing(ours)
    while len(outgoing):
        outgoing.send(sock, 100)
    assert [error.errno for error in refused] == [errno.ETOOMANYREFS]
    assert theirs.recv(100) == b"one;three;"
    pipe.wait_closed()


def test_what_nobody_has_closed_is() -> None:
    pipe = Pipe()
    passed = Passed([pipe.write])
    assert passed.fds == (pipe.write,)
    del passed
    gc.collect()
    pipe.wait_closed()


def test_closing_again_closes_nothing() -> None:
    pipe = Pipe()
    passed = Passed([pipe.write])
    passed.close()
    pipe.wait_closed()
    assert passed.fds == ()
    again = os.pipe()  # has the same numbers
    passed.close()
    os.write(again[1], b"x")
    for fd in again:
        os.close(fd)


def test_one_that_is_slow_to_close_keeps_no_other_waiting() -> None:
    """A TCP socket that lingers: its peer reads nothing of what was sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        slow = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
        slow.setblocking(False)
        fill(slow)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, array.array("i", [1, 60]))
        pipe = Pipe()
        slow.setblocking(True)
        close_aside([slow.detach()])
        close_aside([pipe.write])
        pipe.wait_closed()
        assert "closer" in {it.name for it in threading.enumerate()}, "the slow one is on its way"
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, array.array("i", [1, 0]))
        peer.close()  # which resets the connection


def fill(sock: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(b"x" * 65536)


def test_kernel_that_has_no_threads_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be closed meanwhile is closed with the next."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pipes = [Pipe() for _ in range(MOST_CLOSING + 1)]
    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        for each in pipes[1:]:
            close_aside([each.write])
    close_aside([pipes[0].write])
    for each in pipes:
        each.wait_closed()
