"""What cannot be sent at once goes later, and then the loop waits for nothing but the peer."""

import asyncio
import socket

from agent.user.lines import Lines
from sessiond.wire import rpc
from tests.fixtures.loop import in_loop

LONG = rpc.Result(1, "x" * (4 << 20))  # more than a socket takes at once


async def heard(sock: socket.socket) -> list[rpc.Message]:
    """Return the messages of the peer up to the first that is whole."""
    reader = rpc.LineReader()
    while not (found := list(reader.feed(await asyncio.get_running_loop().sock_recv(sock, 65536)))):
        pass
    return found


def nothing(_: object) -> None:
    pass


@in_loop
async def test_what_was_kept_is_sent_and_no_writer_stays() -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for sock in (ours, theirs):
            sock.setblocking(False)
        lines = Lines(ours, nothing, nothing)
        for _ in range(2):
            lines.send(LONG)
            assert await heard(theirs) == [LONG]
            assert not loop.remove_writer(ours)
        lines.close()
