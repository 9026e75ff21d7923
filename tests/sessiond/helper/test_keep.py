"""What of the helpers outlives a restart: from one server to the next, as if systemd held it."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.helper.keep import (
    describe_connections,
    describe_records,
    restore_connections,
    restore_records,
)
from sessiond.helper.records import Taken, Told
from sessiond.transport import drops
from sessiond.transport.fds import OwnedFd
from sessiond.transport.keep import HELPER_CONNECTION, HELPER_RECORDS, HELPER_STATE
from tests.fixtures.loop import in_loop, turns
from tests.sessiond.helper.peers import OK, peer, wait_line
from tests.sessiond.helper.served import PATIENT, QUICK, RECORD, World, end, wait_closed, world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sessiond.helper.connection import Limits

TOLD = Told(":1", "/run/user/1000/gdm/Xauthority", 1000, 1000, 8, 500, 77)


@contextlib.contextmanager
def restarted(
    before: World,
    limits: Limits = PATIENT,
    *,
    allow_root: bool = True,
    may_close_slowly: bool = True,
) -> Iterator[World]:
    """End a server, and go on with another one and what the first has left."""
    stored = before.server.hand_over(may_close_slowly=may_close_slowly)
    with world(limits, allow_root=allow_root) as it:
        it.server.adopt(restore_connections(stored))
        assert not stored
        yield it


@pytest.mark.parametrize("length", range(0, len(OK) + 1, 5))
@in_loop
async def test_who_has_said_a_part_says_the_rest_to_the_next(length: int) -> None:
    with world() as before:
        client = before.connect()
        client.sendall(OK[:length])
        await turns(5)
        with restarted(before) as it:
            await turns(5)
            with pytest.raises(BlockingIOError):
                client.recv(1)
            client.sendall(OK[length:])
            end(client)
            await wait_closed(client)
            ((record, origin),) = it.heard
            assert record == RECORD
            assert (origin.pid, origin.uid) == (os.getpid(), os.getuid())
        assert not before.heard


@in_loop
async def test_what_nobody_has_read_or_decided_on_is_heard_again() -> None:
    with world() as before:
        before.answer = None
        undecided, unread = before.connect(), before.connect()
        undecided.sendall(OK)
        end(undecided)
        await before.signal.until(lambda: bool(before.heard))
        unread.sendall(OK)
        unread.close()  # and the loop has had no turn yet
        with restarted(before) as it:
            await wait_closed(undecided)
            assert [record for record, _ in it.heard] == [RECORD, RECORD]


@in_loop
async def test_a_whole_message_needs_no_more_than_silence() -> None:
    with world() as before:
        client = before.connect()
        client.sendall(OK)
        await turns(5)
        with restarted(before, QUICK) as it:
            await wait_closed(client)
            assert [record for record, _ in it.heard] == [RECORD]


@in_loop
async def test_it_has_a_deadline_again(caplog: pytest.LogCaptureFixture) -> None:
    with world() as before:
        client = before.connect()
        client.sendall(OK[:3])
        await turns(5)
        with restarted(before, QUICK):
            await wait_closed(client)
        assert "it did not finish within 0.3 s" in caplog.text


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (replace(PATIENT, per_uid=2), "its user has 2 connections already"),
        (replace(PATIENT, connections=2), "there are 2 connections already"),
    ],
)
@in_loop
async def test_limits_hold_for_those_too(
    limits: Limits, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with world() as before:
        clients = [before.connect() for _ in range(4)]
        await turns(5)
        with restarted(before, limits) as it:
            assert caplog.text.count(words) == 2
            assert len(it.server._connections) == 2
            for client in clients:
                end(client)
                await wait_closed(client)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be refused")
@in_loop
async def test_so_does_what_the_configuration_says_now(caplog: pytest.LogCaptureFixture) -> None:
    with world() as before:
        client = before.connect()
        await turns(5)
        with restarted(before, allow_root=False):
            await wait_closed(client)
        assert "root's helpers are not heard" in caplog.text


@pytest.mark.parts
@in_loop
async def test_one_that_has_ended_meanwhile_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    with world() as before:
        with peer(before.name, f"connect(); sock.sendall({OK!r}); print(flush=True)") as child:
            while not before.server._connections:
                await turns(1)
            stored = before.server.hand_over(may_close_slowly=True)
            wait_line(child)
            child.wait()
        with world() as it:
            it.server.adopt(restore_connections(stored))
            assert not it.server._connections
        assert f"pid {child.pid}, is refused: its process has ended" in caplog.text


@in_loop
async def test_a_younger_process_of_the_same_number_is_not_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with world() as before:
        client = before.connect()
        await turns(5)
        kept = restore_connections(before.server.hand_over(may_close_slowly=True))
        with world() as it:
            it.server.adopt([replace(each, start=each.start - 1) for each in kept])
            await wait_closed(client)
        assert "another has its number" in caplog.text


@in_loop
async def test_who_can_make_closing_take_long_is_not_left_to_who_minds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drops, "_SO_PASSRIGHTS", 9999)  # an older kernel
    with world() as before:
        client = before.connect()
        await turns(5)
        with restarted(before, may_close_slowly=False) as it:
            await wait_closed(client)
            assert not it.server._connections


@in_loop
async def test_who_waits_in_the_queue_is_none_of_this_servers() -> None:
    with world() as before:
        client = before.connect()
        assert before.server.hand_over(may_close_slowly=True) == {}
        client.close()


@in_loop
async def test_what_no_memo_knows_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    with world() as before:
        client, other = before.connect(), before.connect()
        await turns(5)
        stored = before.server.hand_over(may_close_slowly=True)
        del stored[HELPER_STATE]
        stored["other"] = OwnedFd(os.open(os.devnull, os.O_RDONLY))
        assert restore_connections(stored) == []
        assert stored.keys() == {"other"}
        for each in (client, other):
            await wait_closed(each)
        assert not caplog.messages  # there was none


def test_what_is_no_socket_is_no_helper(caplog: pytest.LogCaptureFixture) -> None:
    name = f"{HELPER_CONNECTION}0"
    memory = OwnedFd(os.memfd_create("state"))
    content = {name: {"start": 1, "received": ""}}
    os.write(memory.fileno(), json.dumps({"version": 1, "content": content}).encode())
    null = OwnedFd(os.open(os.devnull, os.O_RDONLY))
    assert restore_connections({HELPER_STATE: memory, name: null}) == []
    assert "what was kept as helper_state cannot be used" in caplog.text


@in_loop
async def test_as_many_as_there_may_be_fit_into_the_memo() -> None:
    with world(replace(PATIENT, per_uid=63)) as before:
        clients = [before.connect() for _ in range(63)]
        for client in clients:
            client.sendall((b"\x01" + b"\x01\x02:0" * 300)[:1024])
        while len(before.server._connections) < 63:
            await turns(1)
        await turns(5)
        stored = before.server.hand_over(may_close_slowly=True)
        assert len(stored) == 64
        kept = restore_connections(stored)
        assert {len(each.received) for each in kept} == {1024}
        with contextlib.ExitStack() as stack:
            for sock in (*clients, *(each.sock for each in kept)):
                stack.enter_context(sock)


texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=260)
numbers = st.integers(min_value=0, max_value=1 << 64)
tolds = st.builds(
    Told,
    display=texts,
    xauthority=texts,
    **dict.fromkeys(("uid", "gid", "vt", "leader", "leader_start"), numbers),
)


@given(st.lists(st.builds(Taken, told=tolds, session=texts, since=numbers), max_size=5))
def test_records_come_back_as_they_were(taken: list[Taken]) -> None:
    stored = describe_records(taken)
    assert bool(stored) == bool(taken)
    assert restore_records(stored) == taken
    assert not stored


@pytest.mark.parametrize(
    "change",
    [{"uid": "1000"}, {"uid": None}, {"uid": True}, {"display": 1}, {"more": 1}],
    ids=str,
)
def test_records_of_another_shape_are_none(
    change: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    stored = describe_records([Taken(TOLD, "3", 1)])
    memory = stored[HELPER_RECORDS].fileno()
    whole = json.loads(os.pread(memory, 4096, 0))
    whole["content"][0]["told"] |= change
    os.pwrite(memory, json.dumps(whole).encode() + b" " * 20, 0)
    assert restore_records(stored) == []
    assert "what was kept as helper_records cannot be used" in caplog.text


def test_no_helpers_leave_nothing() -> None:
    assert describe_connections([]) == describe_records([]) == {}
    assert not restore_connections({})
    assert not restore_records({})
