"""An honest helper among thousands that are silent, slow, half-closed or send garbage."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING, Final

import pytest

from sessiond.helper.listener import take_listener
from sessiond.helper.server import HelperServer
from tests.fixtures.loop import in_loop
from tests.sessiond.helper.peers import NOBODY, OK, address, fresh_name, peer, wait_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sessiond.helper.origin import Origin
    from sessiond.wire.helper import Record

pytestmark = pytest.mark.parts

STORM: Final = 10_000
SOON: Final = 1.0  # second, for an honest helper

# The first {silent} stay silent to the end: with 8 all places of their user are taken; with fewer
# the rest comes in by turns, and is closed after {kept} more.
ATTACK: Final = """
import collections, contextlib
kept = collections.deque()
for number in range({storm}):
    sock = socket.socket(socket.AF_UNIX)
    kept.append(sock)
    with contextlib.suppress(ConnectionError):  # it was closed at once
        connect()
        if number >= {silent}:
            kind = number % 4
            if kind == 1:
                sock.send(b"\\1")
            elif kind == 2:
                sock.send({part!r})
                sock.shutdown(socket.SHUT_WR)
            elif kind == 3:
                sock.send(os.urandom(1 + number % 1500))
    if number == {silent}:
        print("begun", flush=True)
    if len(kept) > {kept}:
        kept[{silent}].close()
        del kept[{silent}]
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=[(8, 500), (4, 12)], ids=["all places taken", "places by turns"])
def attack(request: pytest.FixtureRequest) -> str:
    silent, kept = request.param
    return ATTACK.format(storm=STORM, silent=silent, kept=kept, part=OK[:9])


@pytest.fixture
def heard() -> list[tuple[Record, Origin]]:
    return []


@pytest.fixture
def name() -> str:
    return fresh_name()


def serve(name: str, heard: list[tuple[Record, Origin]]) -> HelperServer:
    def on_record(record: Record, origin: Origin) -> str:
        heard.append((record, origin))
        return ""

    return HelperServer(take_listener(name, {}), on_record, needs_xauthority=True, allow_root=True)


def tell(name: str) -> float:
    """Be an honest helper; return after how many seconds it was acknowledged."""
    begin = time.monotonic()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(address(name))
        sock.sendall(OK)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    return time.monotonic() - begin


def lines(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    return (line for line in caplog.messages if "refused" in line)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, for a storm of another user")
@in_loop
async def test_another_users_storm_delays_nobody(
    name: str, attack: str, heard: list[tuple[Record, Origin]], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(name, heard)
    with peer(name, attack, uid=NOBODY) as child:
        assert await asyncio.to_thread(wait_line, child) == b"begun\n"
        storm = asyncio.to_thread(wait_line, child)
        took = []
        async with asyncio.TaskGroup() as tasks:
            end = tasks.create_task(storm)
            while not end.done():
                took.append(await asyncio.to_thread(tell, name))
        assert end.result() == b"done\n"
        took.append(await asyncio.to_thread(tell, name))  # the silent ones still are
    server.close()
    assert max(took) < SOON
    assert len(heard) == len(took)
    assert {origin.uid for _, origin in heard} == {0}
    assert len(list(lines(caplog))) < 100
    assert "more suppressed" in caplog.text


@in_loop
async def test_after_a_storm_of_ones_own_all_is_well(
    name: str, attack: str, heard: list[tuple[Record, Origin]], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(name, heard)
    with peer(name, attack) as child:
        for expected in (b"begun\n", b"done\n"):
            assert await asyncio.to_thread(wait_line, child) == expected
        # Its own user is locked out while there are eight silent ones: by itself alone.
    # Until the ends of the eight were read, it still is: the newcomer may be accepted before.
    async with asyncio.timeout(SOON):
        while not heard:
            await asyncio.to_thread(tell, name)
    server.close()
    assert len(heard) == 1
    assert len(list(lines(caplog))) < 100
