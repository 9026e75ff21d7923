"""How many are heard, whom, and what that costs."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource

import pytest

from sessiond.helper.connection import Limits
from tests.fixtures.loop import in_loop, turns
from tests.sessiond.helper.peers import NOBODY, OK, peer
from tests.sessiond.helper.served import PATIENT, QUICK, end, wait_closed, world


@pytest.mark.parts
@in_loop
async def test_a_process_that_ended_before_it_was_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with world() as it:
        with peer(it.name, f"connect(); sock.sendall({OK!r})") as child:
            child.wait()  # and the loop has had no turn yet
        await turns(5)
        assert not it.heard
        assert f"pid {child.pid}, is refused: its process has ended" in caplog.text


@in_loop
async def test_what_the_caller_refuses_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with world() as it:
        it.answer = "VT 2 belongs to uid 1001"
        client = it.connect()
        client.sendall(OK)
        end(client)
        await wait_closed(client)
        assert "is refused: VT 2 belongs to uid 1001" in caplog.text


@pytest.mark.parametrize("verdict", ["taken", "refused", "late"])
@in_loop
async def test_what_takes_time_to_decide(verdict: str, caplog: pytest.LogCaptureFixture) -> None:
    with world(QUICK if verdict == "late" else PATIENT) as it:
        it.answer = None
        client = it.connect()
        client.sendall(OK)
        end(client)
        await it.signal.until(lambda: bool(it.heard))
        await turns(5)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        origin = it.heard[0][1]
        if verdict == "taken":
            it.server.acknowledge(origin)
        elif verdict == "refused":
            it.server.refuse(origin, "it is in no session")
        await wait_closed(client)
        assert ("is refused: it is in no session" in caplog.text) == (verdict == "refused")
        assert not it.server._connections
        assert not it.server._of_uid
        it.server.refuse(origin, "too late to matter")  # is told all the same
        assert "too late to matter" in caplog.text


@in_loop
async def test_too_many_of_one_user_are_closed_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with world() as it:
        first = [it.connect() for _ in range(8)]
        await wait_closed(it.connect())
        assert "is refused: its user has 8 connections already" in caplog.text
        first[0].close()  # the place is free again
        first[1].sendall(OK)
        end(first[1])
        await wait_closed(first[1])
        last = it.connect()
        last.sendall(OK)
        end(last)
        await wait_closed(last)
        assert len(it.heard) == 2
        for sock in first:
            sock.close()


@in_loop
async def test_when_full_the_rest_waits() -> None:
    with world(Limits(connections=3, per_uid=9, deadline=60)) as it:
        first = [it.connect() for _ in range(3)]
        waiting = it.connect()
        waiting.sendall(OK)
        end(waiting)
        await turns(10)
        assert len(it.server._connections) == 3
        assert not it.server._acceptor.is_listening
        assert not it.heard
        first[0].close()
        await wait_closed(waiting)
        assert len(it.heard) == 1
        for sock in first:
            sock.close()


@pytest.mark.parts
@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be refused")
@in_loop
async def test_root_is_refused_unless_it_is_allowed(caplog: pytest.LogCaptureFixture) -> None:
    with world(allow_root=False) as it:
        client = it.connect()
        client.sendall(OK)
        await wait_closed(client)
        assert not it.heard
        assert "uid 0" in caplog.text
        assert "root's helpers are not heard" in caplog.text
        code = f"connect(); sock.sendall({OK!r}); sock.shutdown(1); sock.recv(1)"
        with peer(it.name, code, uid=NOBODY):
            await it.signal.until(lambda: bool(it.heard))
            assert it.heard[0][1].uid == NOBODY


@in_loop
async def test_accepted_ones_are_not_inherited_and_do_not_block() -> None:
    with world() as it:
        client = it.connect()
        await turns(5)
        ((sock),) = [connection._sock for connection in it.server._connections]
        assert not sock.get_inheritable()
        assert not os.get_blocking(sock.fileno())
        client.close()


@in_loop
async def test_no_descriptors_left_is_no_busy_loop(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessiond.transport.accept.RETRY", 0.05)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with world() as it:
        client = it.connect()
        client.sendall(OK)
        end(client)
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            await turns(50)
            assert not it.server._acceptor.is_listening
            assert caplog.messages == [f"no helper can be heard now: {os.strerror(errno.EMFILE)}"]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        await wait_closed(client)
        assert len(it.heard) == 1


@in_loop
async def test_no_timers_and_no_descriptors_after_all() -> None:
    loop = asyncio.get_running_loop()
    before = len(os.listdir("/proc/self/fd"))
    with world(Limits()) as it:
        for message in (OK, b"garbage"):
            client = it.connect()
            client.sendall(message)
            await wait_closed(client)
        pending = [handle for handle in loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        assert len(pending) == 1  # the test's own deadline
    assert len(os.listdir("/proc/self/fd")) <= before


@in_loop
async def test_close_ends_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with world() as it:
        client = it.connect()
        await turns(5)
        it.server.close()
        await wait_closed(client)
        it.server.close()
        assert not caplog.messages
        with pytest.raises(ConnectionRefusedError):
            it.connect()
