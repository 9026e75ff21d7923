"""A channel on what a port can be: a Unix socket and a pty."""

import asyncio
import itertools
import os
import pty
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from sessiond.transport.channel import READS_AT_ONCE, WRITE_SIZE, Channel
from sessiond.transport.edge import EdgePoller
from sessiond.transport.fds import OwnedFd
from sessiond.transport.port import OpenPort, open_port
from tests.fixtures.loop import Signal, in_loop, turns

HUNG_UP = "the host hung up"
ZEROS = memoryview(bytes(1 << 20))


class Peer:
    """The other end: a descriptor of its own, without blocking."""

    def __init__(self, port: OpenPort, fd: int) -> None:
        self.port = port
        self.fd = OwnedFd(fd)
        os.set_blocking(fd, False)

    def write(self, data: bytes) -> None:
        assert os.write(self.fd.fileno(), data) == len(data)

    def drain(self) -> int:
        """Read what is there; return how much it was."""
        count = 0
        while select.select([self.fd.fileno()], [], [], 0)[0]:
            data = os.read(self.fd.fileno(), 1 << 20)
            if not data:
                break
            count += len(data)
        return count

    def close(self) -> None:
        self.fd.close()


def socket_peer(*, waits_for_host: bool = False) -> Peer:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    port = OpenPort(OwnedFd(ours.detach()), "socket", waits_for_host=waits_for_host)
    return Peer(port, theirs.detach())


def pty_peer() -> Peer:
    master, slave = pty.openpty()
    try:
        return Peer(open_port(os.ttyname(slave)), master)
    finally:
        os.close(slave)


class Handler:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.data = b""
        self.writable = 0
        self.lost: list[str] = []
        self.react: Callable[[], None] = lambda: None
        self._signal = Signal()

    async def until(self, condition: Callable[[], bool]) -> None:
        await self._signal.until(condition)

    def on_bytes(self, data: memoryview) -> None:
        self.data += data
        self.react()
        self._signal.happened()

    def on_writable(self) -> None:
        self.writable += 1
        self._signal.happened()

    def on_lost(self, reason: str) -> None:
        self.lost.append(reason)
        self._signal.happened()


@pytest.fixture(params=[socket_peer, pty_peer])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    made: Peer = request.param()
    with made.port.fd, made.fd:
        yield made


@pytest.fixture
def waiting() -> Iterator[Peer]:
    """Give a port whose host may come later, and its peer."""
    made = socket_peer(waits_for_host=True)
    with made.port.fd, made.fd:
        yield made


class Opened:
    """A channel, what hears of it and what it hangs on; to be made in a loop."""

    def __init__(self, peer: Peer) -> None:
        self._stack = ExitStack()
        self.poller = EdgePoller()
        self._stack.callback(self.poller.close)
        self.handler = Handler()
        self.channel = Channel(peer.port, self.poller, self.handler)
        self._stack.callback(self.channel.close)

    def __enter__(self) -> tuple[Channel, Handler]:
        return self.channel, self.handler

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @staticmethod
    def fill(channel: Channel) -> int:
        """Write until it would block; return how much that was."""
        count = 0
        while taken := channel.write_nowait(ZEROS):
            assert taken <= WRITE_SIZE
            count += taken
        return count


@in_loop
async def test_both_ways(peer: Peer) -> None:
    with Opened(peer) as (channel, handler):
        peer.write(b"from the host")
        await handler.until(lambda: handler.data == b"from the host")
        assert channel.write_nowait(memoryview(b"to the host")) == 11
        assert peer.drain() == 11
        assert not handler.lost


@in_loop
async def test_pieces(peer: Peer) -> None:
    with Opened(peer) as (channel, _):
        assert channel.write_pieces(ZEROS[:7], 3) == [3, 3, 1]
        assert channel.write_pieces(ZEROS[:0], 3) == []
        assert peer.drain() == 7


@pytest.mark.parametrize("size", [1000, WRITE_SIZE])
@in_loop
async def test_pieces_until_it_would_block(peer: Peer, size: int) -> None:
    with Opened(peer) as (channel, _):
        taken = channel.write_pieces(ZEROS, size)
        assert channel.is_blocked
        assert 0 < sum(taken) < len(ZEROS)
        assert max(taken) <= size
        assert channel.write_pieces(ZEROS, size) == []
        received = 0
        while received < sum(taken):
            received += peer.drain()
        assert received == sum(taken)


@in_loop
async def test_what_came_before_the_channel_is_read(peer: Peer) -> None:
    peer.write(b"early")
    with Opened(peer) as (_, handler):
        await handler.until(lambda: handler.data == b"early")


@in_loop
async def test_reads_while_blocked(peer: Peer) -> None:
    with Opened(peer) as (channel, handler):
        assert Opened.fill(channel) > 0
        assert channel.is_blocked
        for text in (b"stop", b"stop start"):
            peer.write(text[len(handler.data) :])
            await handler.until(lambda text=text: handler.data == text)  # type: ignore[misc]


@in_loop
async def test_writable_again_when_the_peer_has_read(peer: Peer) -> None:
    with Opened(peer) as (channel, handler):
        for count in (1, 2, 3):
            sent = Opened.fill(channel)
            assert handler.writable == count - 1
            received = 0
            while handler.writable < count or received < sent:
                received += peer.drain()
                await turns(1)
            assert not channel.is_blocked
            assert received == sent


@in_loop
async def test_peer_hangs_up(peer: Peer) -> None:
    with Opened(peer) as (channel, handler):
        number = peer.port.fd.fileno()
        peer.write(b"last words")
        peer.close()
        await handler.until(lambda: bool(handler.lost))
        await turns(20)
        assert handler.lost == [HUNG_UP]
        assert channel.write_nowait(ZEROS) == 0
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


@in_loop
async def test_last_words_are_heard() -> None:
    peer = socket_peer()
    with Opened(peer) as (_, handler):
        peer.write(b"last words")
        peer.close()
        await handler.until(lambda: handler.lost == [HUNG_UP])
        assert handler.data == b"last words"


@in_loop
async def test_writing_to_nobody_is_a_loss(peer: Peer) -> None:
    with Opened(peer) as (channel, handler):
        peer.close()
        assert channel.write_nowait(ZEROS) == 0
        assert not handler.lost  # not from within our own call
        await handler.until(lambda: bool(handler.lost))
        await turns(20)
        assert handler.lost == [HUNG_UP]


@in_loop
async def test_host_that_is_not_there_yet(waiting: Peer) -> None:
    sock = socket.socket(fileno=os.dup(waiting.fd.fileno()))
    with sock, Opened(waiting) as (_, handler):
        sock.shutdown(socket.SHUT_WR)  # we read an end of file, as on a port without its host
        await turns(100)
        assert not handler.lost


@in_loop
async def test_host_that_was_there_and_leaves(waiting: Peer) -> None:
    with Opened(waiting) as (_, handler):
        waiting.write(b"x")
        await handler.until(lambda: handler.data == b"x")
        waiting.close()
        await handler.until(lambda: handler.lost == [HUNG_UP])


@in_loop
async def test_each_read_gives_one_of_the_hosts_messages() -> None:
    # As on a virtio port, though there is more: of both together there is one edge.
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    peer = Peer(OpenPort(OwnedFd(ours.detach()), "port", waits_for_host=True), theirs.detach())
    with peer.fd, Opened(peer) as (_, handler):
        for text in (b"capabilities", b"start", b"stop"):
            peer.write(text)
        await handler.until(lambda: bool(handler.data))
        await turns(20)
        assert handler.data == b"capabilitiesstartstop"


@in_loop
async def test_flood_leaves_the_loop_its_turns() -> None:
    peer = socket_peer()
    with peer.fd, Opened(peer) as (_, handler):
        loop = asyncio.get_running_loop()
        reads, reads_at_turn = 0, [0]

        def refill() -> None:
            nonlocal reads
            reads += 1
            if reads < 20 * READS_AT_ONCE:
                peer.write(b"more")

        def turn() -> None:
            reads_at_turn.append(reads)
            if reads < 20 * READS_AT_ONCE:
                loop.call_soon(turn)

        handler.react = refill
        peer.write(b"more")
        loop.call_soon(turn)
        await handler.until(lambda: reads >= 20 * READS_AT_ONCE)
        steps = [b - a for a, b in itertools.pairwise(reads_at_turn)]
        assert max(steps) <= READS_AT_ONCE
        assert len(handler.data) == 4 * reads


@in_loop
async def test_closed_by_its_handler(peer: Peer) -> None:
    with Opened(peer) as (channel, handler):
        handler.react = channel.close
        peer.write(b"one")
        await handler.until(lambda: handler.data == b"one")
        peer.close()
        await turns(20)
        assert (handler.data, handler.lost) == (b"one", [])


@in_loop
async def test_close_says_nothing(peer: Peer) -> None:
    with Opened(peer) as (channel, handler):
        channel.close()
        channel.close()
        assert channel.write_nowait(ZEROS) == 0
        await turns(20)
        assert not handler.lost


@in_loop
async def test_paused_channel_reads_nothing_until_it_goes_on(peer: Peer) -> None:
    with Opened(peer) as (channel, handler):
        handler.react = channel.pause
        peer.write(b"first")
        await handler.until(lambda: bool(handler.data))
        peer.write(b"second")
        await turns(5)
        assert handler.data == b"first"
        channel.resume()
        await handler.until(lambda: handler.data == b"firstsecond")
        assert not handler.lost


@in_loop
async def test_paused_channel_loses_its_peer_with_what_it_said(peer: Peer) -> None:
    with Opened(peer) as (channel, handler):
        channel.pause()
        peer.write(b"unheard")
        await turns(5)
        peer.close()
        await handler.until(lambda: handler.lost == [HUNG_UP])
        assert not handler.data
        channel.resume()


@in_loop
async def test_peer_that_has_only_ended_its_half_is_still_written_to() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    port = OpenPort(OwnedFd(ours.detach()), "socket", waits_for_host=False)
    poller, handler, ends = EdgePoller(), Handler(), list[str]()
    with theirs:
        channel = Channel(port, poller, handler, lambda: ends.append("half"))
        theirs.sendall(b"last")
        theirs.shutdown(socket.SHUT_WR)
        while not ends:
            await turns(1)
        assert handler.data == b"last"
        assert not handler.lost
        assert channel.write_nowait(memoryview(b"answer")) == 6
        assert theirs.recv(10) == b"answer"
    await handler.until(lambda: handler.lost == [HUNG_UP])
    poller.close()


@in_loop
async def test_peer_that_has_gone_is_lost_whoever_waits_for_half_an_end() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    port = OpenPort(OwnedFd(ours.detach()), "socket", waits_for_host=False)
    poller, handler, ends = EdgePoller(), Handler(), list[str]()
    Channel(port, poller, handler, lambda: ends.append("half"))
    theirs.close()
    await handler.until(lambda: handler.lost == [HUNG_UP])
    assert not ends
    poller.close()


@in_loop
async def test_host_of_a_virtio_port_goes_as_a_whole() -> None:
    # By the time that poll(2) is asked the next one may be there: that is no half of an end.
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    port = OpenPort(OwnedFd(ours.detach()), "port", waits_for_host=True)
    poller, handler, ends = EdgePoller(), Handler(), list[str]()
    with theirs:
        Channel(port, poller, handler, lambda: ends.append("half"))
        theirs.send(b"last")
        theirs.send(b"")
        theirs.send(b"another's")
        await handler.until(lambda: handler.lost == [HUNG_UP])
    assert (handler.data, ends) == (b"last", [])
    poller.close()


@in_loop
async def test_paused_virtio_port_keeps_nothing_for_the_next_host() -> None:
    peer = socket_peer(waits_for_host=True)
    with (
        peer.fd,
        OwnedFd(os.dup(peer.port.fd.fileno())) as kept,
        Opened(peer) as (channel, handler),
    ):
        channel.pause()
        peer.write(b"unheard")
        await turns(5)
        peer.close()
        await handler.until(lambda: handler.lost == [HUNG_UP])
        assert os.read(kept.fileno(), 10) == b""
