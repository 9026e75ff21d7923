"""The users' agents' socket, at which nobody is kept waiting."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
from typing import TYPE_CHECKING

import pytest

from sessiond.transport.fds import OwnedFd
from sessiond.users import refuser as module
from sessiond.users.refuser import NAME, Refuser
from tests.fixtures.loop import in_loop, turns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket as systemd has it: open here all the time."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "agent.sock"))
        sock.listen()
        yield sock


@contextlib.contextmanager
def refusing(sock: socket.socket) -> Iterator[OwnedFd]:
    fd = OwnedFd(os.dup(sock.fileno()))
    refuser = Refuser({NAME: fd})
    try:
        yield fd
    finally:
        refuser.close()
        refuser.close()


def connected(listener: socket.socket) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(listener.getsockname())
    client.setblocking(False)
    return client


async def let_go(client: socket.socket) -> bool:
    return await asyncio.get_running_loop().sock_recv(client, 1) == b""


@in_loop
async def test_everybody_is_let_go(listener: socket.socket) -> None:
    clients = [connected(listener) for _ in range(5)]
    with refusing(listener) as fd:
        with pytest.raises(ValueError, match="closed"):
            fd.fileno()
        for client in [*clients, connected(listener)]:
            with client:
                assert await let_go(client)


@in_loop
async def test_who_connects_after_the_end_waits_for_the_next_daemon(
    listener: socket.socket,
) -> None:
    with refusing(listener):
        pass
    with connected(listener) as client:
        await turns(5)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        with refusing(listener):
            assert await let_go(client)


@in_loop
async def test_without_systemd_there_is_nothing_to_do() -> None:
    Refuser({}).close()


@in_loop
async def test_what_is_no_listener_is_left_alone(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    ours, theirs = socket.socketpair()
    folder = OwnedFd(os.open(tmp_path, os.O_RDONLY))
    with ours, theirs, folder, socket.create_server(("127.0.0.1", 0)) as tcp:
        for fd in (ours.fileno(), tcp.fileno(), folder.fileno()):
            given = OwnedFd(os.dup(fd))
            Refuser({NAME: given}).close()
            os.fstat(given.fileno())
    assert [it.levelno for it in caplog.records] == [logging.WARNING] * 3


@in_loop
async def test_without_a_descriptor_left_it_does_not_spin(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY", 3600.0)
    with connected(listener) as client:
        with refusing(listener), no_descriptors():
            await turns(20)
        assert len(caplog.records) == 1
        with pytest.raises(BlockingIOError):
            client.recv(1)
        monkeypatch.setattr(module, "RETRY", 0.0)
        with refusing(listener):
            with no_descriptors():
                await turns(5)
            assert await let_go(client), "it was tried again"


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
