"""vchan's sockets, against a peer in another process that has only plain ones."""

import asyncio
import os
import select
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessiond.errors import ChannelError
from sessiond.transport.duplex import MAX_UNSENT, Duplex, Listener, wait_readable, wait_writable
from sessiond.transport.vchan import DIRECTORY, Vchan
from tests.fixtures.loop import in_loop
from tests.fixtures.plain_peer import PlainPeer

pytestmark = pytest.mark.parts

LONG = 10_000  # milliseconds; nothing waits as long


@pytest.fixture
def peer() -> Iterator[PlainPeer]:
    with PlainPeer() as peer:
        yield peer


@pytest.fixture
def vchan(tmp_path: Path) -> Vchan:
    return Vchan(42, tmp_path)


def wait(of: Duplex | Listener, event: int = select.POLLIN) -> None:
    poll = select.poll()
    poll.register(of.fileno(), event)
    assert poll.poll(LONG)


def read(connection: Duplex, size: int) -> bytes:
    """Return SIZE bytes, or fewer before the end."""
    data = b""
    while len(data) < size:
        wait(connection)
        piece = connection.read(size - len(data))
        if piece == b"":
            break
        data += piece or b""
    return data


def accepted(listener: Listener) -> Duplex:
    wait(listener)
    connection = listener.accept()
    assert connection
    return connection


def connected(vchan: Vchan, peer: PlainPeer, path: Path) -> Duplex:
    """Return a connection to PEER, which serves 43 and has accepted."""
    peer.do(f"listen({str(path / 'vchan.43.42.1024.sock')!r})")
    connection = vchan.try_connect(43, 1024)
    assert connection
    peer.do("accept()")
    return connection


def test_names_of_both_roles(tmp_path: Path, peer: PlainPeer, vchan: Vchan) -> None:
    with vchan.listen(0, 512) as listener:
        assert [path.name for path in tmp_path.iterdir()] == ["vchan.42.0.512.sock"]
        assert peer.do(f"connect('{tmp_path}/vchan.42.0.512.sock')") == "None"
        with accepted(listener) as connection:
            peer.do("s.sendall(b'to the server')")
            assert read(connection, 13) == b"to the server"
            connection.send(b"to the client")
            assert peer.do("receive(13)") == "b'to the client'"
    with connected(vchan, peer, tmp_path) as connection:
        connection.send(b"to the server")
        assert peer.do("receive(13)") == "b'to the server'"


def test_environment(tmp_path: Path) -> None:
    vchan = Vchan.from_environment({"VCHAN_DOMAIN": "7", "VCHAN_SOCKET_DIR": str(tmp_path)})
    with vchan.listen(3, 9), vchan.listen(-1, 0):
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["vchan.7.-1.0.sock", "vchan.7.3.9.sock"]
    default = Vchan.from_environment({})
    assert default._path(0, 5, 512) == DIRECTORY / "vchan.0.5.512.sock"
    assert str(DIRECTORY) == "/var/run/vchan"
    with pytest.raises(ChannelError, match="VCHAN_DOMAIN is 'dom0'"):
        Vchan.from_environment({"VCHAN_DOMAIN": "dom0"})


def test_it_is_a_socket_that_is_not_inherited(tmp_path: Path, vchan: Vchan) -> None:
    with vchan.listen(0, 512) as listener:
        assert stat.S_ISSOCK((tmp_path / "vchan.42.0.512.sock").stat().st_mode)
        client = Vchan(0, tmp_path).try_connect(42, 512)
        assert client
        with client, accepted(listener) as server:
            for end in (client, server):
                assert not os.get_inheritable(end.fileno())
                assert not os.get_blocking(end.fileno())


def test_nobody_serves_it(tmp_path: Path, vchan: Vchan) -> None:
    assert vchan.try_connect(43, 1024) is None
    (tmp_path / "vchan.43.42.1024.sock").touch()  # no socket, or nobody behind it
    assert vchan.try_connect(43, 1024) is None


def test_what_waiting_does_not_make_better(tmp_path: Path) -> None:
    for directory in (tmp_path / "file" / "x", tmp_path / ("long" * 60)):
        (tmp_path / "file").touch()
        vchan = Vchan(42, directory)
        with pytest.raises(ChannelError, match=f"vchan {directory}"):
            vchan.try_connect(43, 1)
        with pytest.raises(ChannelError, match=f"vchan {directory}"):
            vchan.listen(43, 1)


@in_loop
async def test_connecting_waits_for_the_server(tmp_path: Path) -> None:
    attempted = asyncio.Event()

    class Counting(Vchan):
        def try_connect(self, domain: int, port: int) -> Duplex | None:
            attempted.set()
            return super().try_connect(domain, port)

    with PlainPeer() as peer:
        async with asyncio.TaskGroup() as tasks:
            connecting = tasks.create_task(Counting(42, tmp_path).wait_connected(43, 1024))
            await attempted.wait()  # one at least has failed
            peer.do(f"listen({str(tmp_path / 'vchan.43.42.1024.sock')!r})")
        peer.do("accept()")
        with connecting.result() as connection:
            connection.send(b"x")
            assert peer.do("receive(1)") == "b'x'"


def test_old_path_goes_away(tmp_path: Path, peer: PlainPeer, vchan: Vchan) -> None:
    path = tmp_path / "vchan.42.0.512.sock"
    peer.do(f"listen({str(path)!r})")
    with vchan.listen(0, 512) as listener:  # takes the name, though it is served
        client = Vchan(0, tmp_path).try_connect(42, 512)
        assert client
        with client, accepted(listener):
            pass
    peer.vanish()
    path.touch()
    vchan.listen(0, 512).close()
    assert not path.exists()


def test_successor_keeps_its_path(tmp_path: Path, vchan: Vchan) -> None:
    first = vchan.listen(0, 512)
    with vchan.listen(0, 512):
        first.close()
        first.close()
        assert (tmp_path / "vchan.42.0.512.sock").exists()


def test_exactly_one_is_accepted(tmp_path: Path, peer: PlainPeer, vchan: Vchan) -> None:
    path = str(tmp_path / "vchan.42.0.512.sock")
    listener = vchan.listen(0, 512)
    assert listener.accept() is None
    peer.do(f"connect({path!r})")
    with PlainPeer() as second:
        second.do(f"connect({path!r})")  # it waits to be accepted, which it never is
        with accepted(listener) as connection:
            assert listener.fileno() == -1
            assert second.do("s.recv(1)") in {"b''", "'ConnectionResetError'"}
            assert second.do(f"connect({path!r})") == "'FileNotFoundError'"
            peer.do("s.sendall(b'first')")
            assert read(connection, 5) == b"first"


@pytest.mark.parametrize("how", ["vanish", "close", "half"])
def test_what_was_sent_is_read_after_the_peers_end(
    tmp_path: Path, peer: PlainPeer, vchan: Vchan, how: str
) -> None:
    with connected(vchan, peer, tmp_path) as connection:
        assert connection.read() is None
        peer.do("s.sendall(b'a' * 70000)")
        if how == "vanish":
            peer.vanish()
        else:
            peer.do("s.close()" if how == "close" else "s.shutdown(socket.SHUT_WR)")
        assert read(connection, 1 << 20) == b"a" * 70000
        assert [connection.read(), connection.read()] == [b"", b""]
        connection.send(b"half")
        assert connection.can_send is (how == "half")
        if how == "half":
            assert peer.do("receive(4)") == "b'half'"
        connection.send(b"again")
        assert connection.flush()


@pytest.mark.parametrize("is_known", [False, True])
def test_answer_is_read_though_sending_failed(
    tmp_path: Path, peer: PlainPeer, vchan: Vchan, is_known: bool
) -> None:
    with connected(vchan, peer, tmp_path) as connection:
        peer.do("s.sendall(b'exit code')")
        peer.do("s.close()")
        if is_known:
            wait(connection)
        connection.send(b"more", b"input")
        assert not connection.can_send
        assert not connection.is_blocked
        assert read(connection, 100) == b"exit code"


def test_unread_bytes_of_a_peer_that_is_killed_do_not_hide_its_own(
    tmp_path: Path, peer: PlainPeer, vchan: Vchan
) -> None:
    with connected(vchan, peer, tmp_path) as connection:
        connection.send(b"never read")
        peer.do("s.sendall(b'last words')")
        peer.vanish()  # the kernel says ECONNRESET
        assert read(connection, 100) == b"last words"
        assert connection.read() == b""


@pytest.mark.parametrize("size", [50_000, 10_000_000])
def test_our_end_is_an_end_for_the_peer_whatever_we_left_unread(
    tmp_path: Path, peer: PlainPeer, vchan: Vchan, size: int
) -> None:
    connection = connected(vchan, peer, tmp_path)
    peer.begin(f"s.sendall(bytes({size}))")
    wait(connection)
    connection.send(b"last words")
    connection.close()
    connection.close()
    assert connection.fileno() == -1
    assert peer.result() == ("None" if size < 100_000 else "'BrokenPipeError'")
    assert peer.do("receive(100)") == "b'last words'"
    assert peer.do("s.recv(1)") == "b''"  # and not ECONNRESET
    assert peer.do("s.send(b'x')") == "'BrokenPipeError'"


def test_sender_is_held_up_while_we_do_not_read(
    tmp_path: Path, peer: PlainPeer, vchan: Vchan
) -> None:
    size = 10_000_000
    with connected(vchan, peer, tmp_path) as connection:
        peer.begin(f"s.sendall(bytes({size}))")
        wait(connection)
        assert not peer.has_result
        assert read(connection, size) == bytes(size)
        assert peer.result() == "None"


def test_we_are_held_up_while_the_peer_does_not_read(
    tmp_path: Path, peer: PlainPeer, vchan: Vchan
) -> None:
    header, body = b"header: ", bytes(range(256)) * 256
    with connected(vchan, peer, tmp_path) as connection:
        sent = 0
        while not connection.is_blocked:
            connection.send(header, body)
            sent += 1
        size = sent * len(header + body)
        peer.do(f"globals().update(got=receive({size // 2}))")
        connection.send(b"the end")  # there is room again, but it has to keep its place
        whole = f"({header!r} + bytes(range(256)) * 256) * {sent} + b'the end'"
        peer.begin(f"got + receive({size - size // 2 + 7}) == {whole}")
        while not connection.flush():
            wait(connection, select.POLLOUT)
        assert peer.result() == "True"
        assert not connection.is_blocked


def test_peer_that_vanishes_while_we_are_held_up(
    tmp_path: Path, peer: PlainPeer, vchan: Vchan
) -> None:
    with connected(vchan, peer, tmp_path) as connection:
        while not connection.is_blocked:
            connection.send(bytes(65536))
        peer.vanish()
        wait(connection, select.POLLOUT)
        assert connection.flush()
        assert not connection.can_send
        assert connection.read() == b""


def test_what_may_wait_is_bounded(tmp_path: Path, peer: PlainPeer, vchan: Vchan) -> None:
    with connected(vchan, peer, tmp_path) as connection:
        while not connection.is_blocked:
            connection.send(bytes(65536))
        with pytest.raises(ChannelError, match="over 1048576 bytes unread"):
            connection.send(bytes(MAX_UNSENT))


def test_socket_can_be_handed_on(tmp_path: Path, peer: PlainPeer, vchan: Vchan) -> None:
    connection = connected(vchan, peer, tmp_path)
    copy = Duplex(socket.socket(fileno=os.dup(connection.fileno())))
    connection.detach().close()  # no hang-up for who has the other one
    peer.do("s.sendall(b'x')")
    with copy:
        assert read(copy, 1) == b"x"
        copy.send(b"y")
        assert peer.do("receive(1)") == "b'y'"


@in_loop
async def test_in_a_loop(tmp_path: Path) -> None:
    server, client = Vchan(42, tmp_path), Vchan(0, tmp_path)
    async with asyncio.TaskGroup() as tasks:
        connecting = tasks.create_task(client.wait_connected(42, 512))
        await asyncio.sleep(0)  # the first attempt fails
        assert not connecting.done()
        with server.listen(0, 512) as listener:
            await wait_readable(listener)
            accepted = listener.accept()
            assert accepted
            with accepted as connection, await connecting as peer:
                await exchange(connection, peer)


async def exchange(connection: Duplex, peer: Duplex) -> None:
    async def send() -> None:
        while not connection.is_blocked:
            connection.send(bytes(65536))
        connection.send(b"end")
        while not connection.flush():
            await wait_writable(connection)
        connection.close()

    last = b""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        while True:
            await wait_readable(peer)
            data = peer.read()
            if data == b"":
                break
            last = data or last
    assert last.endswith(b"end")


@in_loop
async def test_waiting_can_be_given_up(tmp_path: Path) -> None:
    with Vchan(42, tmp_path).listen(0, 512) as listener:
        for _ in range(2):  # nothing of the first is left behind
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await wait_readable(listener)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await Vchan(42, tmp_path).wait_connected(43, 1)


def test_a_stranger_is_no_other_domain(tmp_path: Path, peer: PlainPeer) -> None:
    wary = Vchan(42, tmp_path, peers={os.getuid() + 1})
    peer.do(f"listen({str(tmp_path / 'vchan.43.42.1024.sock')!r})")
    with pytest.raises(ChannelError, match=f"uid {os.getuid()} is no other domain"):
        wary.try_connect(43, 1024)


def test_a_stranger_does_not_take_the_place_of_the_peer(tmp_path: Path, peer: PlainPeer) -> None:
    path = str(tmp_path / "vchan.42.0.512.sock")
    peers = set[int]()
    with Vchan(42, tmp_path, peers).listen(0, 512) as listener:
        peer.do(f"connect({path!r})")
        wait(listener)
        assert listener.accept() is None
        assert peer.do("receive(1)") == "b''"
        peers.add(os.getuid())
        peer.do(f"connect({path!r})")
        with accepted(listener) as connection:
            connection.send(b"x")
            assert peer.do("receive(1)") == "b'x'"


def test_end_of_sending_is_not_the_end_of_hearing(
    tmp_path: Path, peer: PlainPeer, vchan: Vchan
) -> None:
    with connected(vchan, peer, tmp_path) as connection:
        connection.send(b"last words")
        connection.end_sending()
        connection.send(b"and more")
        assert peer.do("receive(100)") == "b'last words'"
        peer.do("s.sendall(b'heard')")
        assert read(connection, 5) == b"heard"
