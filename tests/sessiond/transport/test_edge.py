"""Waiting for changes, not for states."""

import asyncio
import select
import socket
from collections.abc import Iterator

import pytest

from sessiond.transport.edge import READABLE, WRITABLE, EdgePoller
from tests.fixtures.loop import Signal, in_loop, turns

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, peers = socket.socketpair()
    with ours, peers:
        ours.setblocking(False)
        yield ours, peers


class Watcher:
    """Keeps what was reported for one descriptor."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.signal = Signal()

    def __call__(self, events: int) -> None:
        self.seen.append(events)
        self.signal.happened()

    async def next(self) -> int:
        count = len(self.seen)
        await self.signal.until(lambda: len(self.seen) > count)
        return self.seen[-1]


@in_loop
async def test_state_at_registration_is_reported(pair: Pair) -> None:
    poller, watcher = EdgePoller(), Watcher()
    pair[1].send(b"x")
    poller.watch(pair[0].fileno(), watcher)
    assert await watcher.next() == select.EPOLLIN
    poller.close()


@in_loop
async def test_writable_is_told_to_who_waits_for_it(pair: Pair) -> None:
    poller, watcher = EdgePoller(), Watcher()
    fd = pair[0].fileno()
    poller.watch(fd, watcher)
    await turns(20)
    assert not watcher.seen
    poller.watch_writable(fd, wanted=True)
    assert await watcher.next() & WRITABLE
    poller.watch_writable(fd, wanted=False)
    pair[0].send(b"x")
    pair[1].recv(1)  # which makes room
    await turns(20)
    assert len(watcher.seen) == 1
    poller.close()


@in_loop
async def test_each_change_is_reported_once(pair: Pair) -> None:
    poller, watcher = EdgePoller(), Watcher()
    poller.watch(pair[0].fileno(), watcher)
    for expected in (1, 2):
        pair[1].send(b"unread")
        assert await watcher.next() & select.EPOLLIN
        await turns(100)  # still readable, and not a change
        assert len(watcher.seen) == expected
    poller.close()


@in_loop
async def test_hang_up_does_not_spin(pair: Pair) -> None:
    poller, watcher = EdgePoller(), Watcher()
    poller.watch(pair[0].fileno(), watcher)
    pair[1].close()
    assert await watcher.next() & READABLE & select.EPOLLHUP
    count = len(watcher.seen)
    await turns(100)
    assert len(watcher.seen) == count
    poller.close()


@in_loop
async def test_forgotten_by_another_handler(pair: Pair) -> None:
    poller, calls = EdgePoller(), list[str]()
    first, second = (s.fileno() for s in pair)

    def handler(own: str, other: int) -> None:
        calls.append(own)
        poller.forget(other)

    for end in pair:
        end.send(b"x")
    poller.watch(first, lambda _: handler("first", second))
    poller.watch(second, lambda _: handler("second", first))
    await turns(20)
    assert len(calls) == 1
    poller.close()


@in_loop
async def test_forgotten_may_be_watched_again(pair: Pair) -> None:
    poller, one, other = EdgePoller(), Watcher(), Watcher()
    poller.watch(pair[0].fileno(), one)
    poller.forget(pair[0].fileno())
    poller.watch(pair[0].fileno(), other)
    pair[1].send(b"x")
    await other.next()
    assert not one.seen
    poller.close()


@in_loop
async def test_close_leaves_the_descriptors_alone(pair: Pair) -> None:
    poller, watcher = EdgePoller(), Watcher()
    poller.watch(pair[0].fileno(), watcher)
    poller.close()
    pair[1].send(b"x")
    await turns(20)
    assert not watcher.seen
    assert await asyncio.get_running_loop().sock_recv(pair[0], 1) == b"x"
