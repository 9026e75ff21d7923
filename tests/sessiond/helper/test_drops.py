"""Descriptors that are passed along with a message."""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from sessiond.transport import drops as drops_module
from sessiond.transport.drops import Drops
from tests.fixtures.loop import in_loop, turns
from tests.sessiond.helper.peers import OK
from tests.sessiond.helper.served import RECORD, end, wait_closed, world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sessiond.helper.served import World


@pytest.fixture
def older_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drops_module, "_SO_PASSRIGHTS", 9999)


@contextlib.contextmanager
def lingering_socket() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Make a TCP socket and, the second, one that takes a minute to close unless it is closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        receiver = server.accept()[0]
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(1 << 16))
    sock.setblocking(True)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    with receiver, sock:
        yield receiver, sock


def pass_on(client: socket.socket, fd: int) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))
    client.sendmsg([OK], [rights])


@in_loop
async def test_passed_descriptors_are_refused_by_the_kernel() -> None:
    with world() as it:
        client = it.connect()
        try:
            pass_on(client, client.fileno())
        except PermissionError:
            client.sendall(OK)
            end(client)
            await wait_closed(client)
            assert [record for record, _ in it.heard] == [RECORD]
        else:
            client.close()
            pytest.skip("the kernel is older than Linux 6.16")


@pytest.mark.parametrize("before", [b"", OK[:3]])
@pytest.mark.usefixtures("older_kernel")
@in_loop
async def test_passed_descriptors_are_dropped(
    before: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = os.pipe()
    with world() as it:
        client = it.connect()
        client.sendall(before)
        pass_on(client, theirs)
        os.close(theirs)
        await wait_closed(client)
        assert not it.heard
        assert "is refused: it passes descriptors" in caplog.text
        assert os.read(ours, 1) == b""  # nobody has it open
    os.close(ours)


async def connect_rogue(it: World, lingering: socket.socket) -> None:
    """Return when the server has the last reference to LINGERING, and cannot close it."""
    rogue = it.connect()
    pass_on(rogue, lingering.fileno())
    rogue.close()
    lingering.close()
    while not it.server._drops._waiting:
        await turns(1)


@pytest.mark.usefixtures("older_kernel")
@in_loop
async def test_descriptors_that_take_long_to_close_stop_nobody_else() -> None:
    with world() as it, lingering_socket() as (receiver, lingering):
        await connect_rogue(it, lingering)
        client = it.connect()
        client.sendall(OK)
        end(client)
        await wait_closed(client)
        assert len(it.heard) == 1
        assert it.server._drops._waiting == 1
        receiver.close()  # ends the wait


def test_nor_do_those_that_nobody_has_read() -> None:
    drops, (ours, theirs) = Drops(), socket.socketpair()
    with theirs, lingering_socket() as (receiver, lingering):
        theirs.sendall(OK * 100)  # more than is read at once
        pass_on(theirs, lingering.fileno())
        lingering.close()
        drops.close(ours)
        assert drops._waiting == 1
        receiver.close()


@pytest.mark.usefixtures("older_kernel")
@in_loop
async def test_nobody_is_accepted_while_too_many_cannot_be_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sessiond.transport.drops.MAX_WAITING", 1)
    monkeypatch.setattr("sessiond.transport.accept.RETRY", 0.01)
    with world() as it, lingering_socket() as (receiver, lingering):
        await connect_rogue(it, lingering)
        client = it.connect()
        client.sendall(OK)
        end(client)
        await turns(10)
        assert not it.heard
        receiver.close()
        await wait_closed(client)
        assert len(it.heard) == 1
