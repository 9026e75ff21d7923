"""Taking connections, and when that is not possible."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest

from sessiond.transport import accept
from sessiond.transport.accept import ACCEPTS_AT_ONCE, Acceptor
from sessiond.transport.drops import Drops
from sessiond.transport.fds import OwnedFd
from tests.fixtures.loop import Clock, in_loop, turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Door:
    """A socket at which everybody is let go at once, and how many were."""

    def __init__(self, folder: Path) -> None:
        self._path = str(folder / "socket")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(self._path)
        sock.listen(128)
        sock.setblocking(False)
        self.taken: list[tuple[bool, bool]] = []
        self.drops = Drops()
        self.acceptor = Acceptor(sock, self.drops, self._take, what="visitor")

    def _take(self, sock: socket.socket) -> None:
        self.taken.append((sock.getblocking(), sock.get_inheritable()))
        self.drops.close(sock)

    def knock(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(self._path)
        client.setblocking(False)
        return client


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path


@contextlib.contextmanager
def door(place: Path) -> Iterator[Door]:
    it = Door(place)
    try:
        yield it
    finally:
        it.acceptor.close()
        it.acceptor.close()


async def let_go(client: socket.socket) -> None:
    with client:
        assert await asyncio.get_running_loop().sock_recv(client, 1) == b""


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Let no further descriptor be opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with OwnedFd(os.open(os.devnull, os.O_RDONLY)) as lowest:
        free = lowest.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@in_loop
async def test_who_waits_and_who_comes(place: Path) -> None:
    with door(place) as it:
        early = it.knock()
        await turns(3)
        assert not it.taken
        it.acceptor.listen()
        it.acceptor.listen()
        await let_go(early)
        await let_go(it.knock())
        assert it.taken == [(False, False)] * 2


@in_loop
async def test_so_many_in_one_turn(place: Path) -> None:
    with door(place) as it:
        clients = [it.knock() for _ in range(2 * ACCEPTS_AT_ONCE)]
        it.acceptor.listen()
        while not it.taken:
            await turns(1)
        assert len(it.taken) == ACCEPTS_AT_ONCE
        for client in clients:
            await let_go(client)


@in_loop
async def test_a_pause_keeps_them_waiting(place: Path) -> None:
    with door(place) as it:
        it.acceptor.listen()
        it.acceptor.pause()
        client = it.knock()
        await turns(3)
        assert not it.taken
        it.acceptor.listen()
        await let_go(client)


@in_loop
async def test_after_the_end_nobody_is_taken(place: Path) -> None:
    with door(place) as it:
        it.acceptor.close()
        it.acceptor.listen()
        assert not it.acceptor.is_listening
        with pytest.raises(ConnectionRefusedError), contextlib.closing(socket.socket(1)) as client:
            client.connect(str(place / "socket"))


@in_loop
async def test_without_a_descriptor_left_it_looks_away(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with door(place) as it:
        clock = Clock()
        client = it.knock()
        with no_descriptors():
            it.acceptor.listen()
            for _ in range(3):
                await turns(5)
                assert not it.acceptor.is_listening
                clock.advance(accept.RETRY)
            await turns(5)
            it.acceptor.listen()
            assert not it.acceptor.is_listening, "not before its time"
        assert caplog.messages == [f"no visitor can be heard now: {os.strerror(errno.EMFILE)}"]
        clock.advance(accept.RETRY)
        await let_go(client)


@pytest.mark.parametrize("end", [Acceptor.close, Acceptor.pause])
@in_loop
async def test_the_end_while_it_looks_away(place: Path, end: Callable[[Acceptor], None]) -> None:
    with door(place) as it:
        clock = Clock()
        with it.knock():
            with no_descriptors():
                it.acceptor.listen()
                await turns(5)
            end(it.acceptor)
            clock.advance(accept.RETRY)
            await turns(5)
            assert not it.taken
