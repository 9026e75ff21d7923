"""What helpers say, in all the ways to say it, at a real socket."""

from __future__ import annotations

import itertools
import os
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessiond.helper.connection import Limits
from sessiond.wire.helper import MAX_MESSAGE, Record
from tests.fixtures.loop import in_loop, turns
from tests.sessiond.helper.peers import OK, peer
from tests.sessiond.helper.served import QUICK, RECORD, end, wait_closed, world

if TYPE_CHECKING:
    from collections.abc import Callable


@in_loop
async def test_a_helper_that_waits_for_the_acknowledgement() -> None:
    with world(Limits()) as it:
        client = it.connect()
        client.sendall(OK)
        await wait_closed(client)
        ((record, origin),) = it.heard
        assert record == RECORD
        assert (origin.uid, origin.gid, origin.pid) == (os.getuid(), os.getgid(), os.getpid())
        assert origin.leader == os.getsid(0)


@pytest.mark.parametrize("last", [end, socket.socket.close])
@in_loop
async def test_a_helper_that_sends_and_ends_at_once(last: Callable[[socket.socket], None]) -> None:
    with world() as it:
        client = it.connect()
        client.sendall(OK)
        last(client)
        await it.signal.until(lambda: bool(it.heard))
        assert it.heard[0][0] == RECORD
        client.close()


@pytest.mark.parts
@in_loop
async def test_a_process_that_sends_and_closes_at_once() -> None:
    with world() as it:
        code = f"connect(); sock.sendall({OK!r}); sock.close(); sys.stdin.read()"
        with peer(it.name, code) as child:
            await it.signal.until(lambda: bool(it.heard))
            assert it.heard[0][1].pid == child.pid


@given(st.lists(st.integers(min_value=1, max_value=len(OK) - 1), max_size=5), st.booleans())
@settings(deadline=None, max_examples=60)
def test_any_chunking(cuts: list[int], closes: bool) -> None:
    @in_loop
    async def check() -> None:
        with world() as it:
            client = it.connect()
            places = [0, *sorted(set(cuts)), len(OK)]
            for begin, until in itertools.pairwise(places):
                client.sendall(OK[begin:until])
                await turns(2)
            (socket.socket.close if closes else end)(client)
            await it.signal.until(lambda: bool(it.heard))
            assert [record for record, _ in it.heard] == [RECORD]
            client.close()

    check()


@given(st.binary(max_size=1100))
@settings(deadline=None, max_examples=60)
def test_a_record_or_a_refusal(message: bytes) -> None:
    @in_loop
    async def check() -> None:
        with world() as it:
            client = it.connect()
            client.sendall(message)
            end(client)
            await wait_closed(client)
            assert len(it.heard) <= 1
            assert not it.server._connections
            assert not it.server._of_uid.total()

    check()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "empty"),
        (b"\x01", "no DISPLAY"),
        (bytes.fromhex("0201023a30"), "version 2"),
        (bytes.fromhex("0101053a30"), "beyond the end"),
        (bytes.fromhex("0101023a3002"), "stray byte"),
        (bytes.fromhex("0101023a31"), "no XAUTHORITY"),
        (b"\x01" + b"\x01\x02:0" * 300, f"over {MAX_MESSAGE} bytes"),
    ],
)
@in_loop
async def test_a_refusal_says_who_and_why(
    message: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with world() as it:
        client = it.connect()
        client.sendall(message)
        end(client)
        await wait_closed(client)
        assert not it.heard
        (line,) = caplog.messages
        assert line.startswith(f"a helper of uid {os.getuid()}, pid {os.getpid()}, is refused: ")
        assert reason in line


@in_loop
async def test_a_display_alone_where_that_is_enough() -> None:
    with world(needs_xauthority=False) as it:
        client = it.connect()
        client.sendall(bytes.fromhex("0101023a31"))
        end(client)
        await wait_closed(client)
        assert it.heard[0][0] == Record(":1", "")


@in_loop
async def test_more_within_the_silence_is_part_of_the_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with world(Limits(silence=0.2)) as it:
        client = it.connect()
        client.sendall(OK)
        await turns(5)
        client.sendall(b"\x01")  # the type of one more field
        end(client)
        await wait_closed(client)
        assert not it.heard
        assert "stray byte" in caplog.text


@in_loop
async def test_silence_is_dropped_at_the_deadline(caplog: pytest.LogCaptureFixture) -> None:
    with world(QUICK) as it:
        silent, slow = it.connect(), it.connect()
        slow.sendall(OK[:-1])  # silent as well, but with nothing that parses
        await wait_closed(silent)
        await wait_closed(slow)
        assert not it.heard
        assert [line.split(": ")[1] for line in caplog.messages] == (
            ["it did not finish within 0.3 s"] * 2
        )
