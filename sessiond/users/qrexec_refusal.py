"""What the daemon itself says on a data channel: that a command is not started.

It does the whole of qrexec's service role, but for the command: the peer, who waits for the end of
a command, hears of one.
"""

import asyncio
from typing import Final

from sessiond.errors import ChannelError
from sessiond.transport.duplex import CONNECT_TIMEOUT, Duplex, wait_readable, wait_writable
from sessiond.wire.exec import Exec, JustExec
from sessiond.wire.exec_data import Data, DataRole, State, not_started

_LINGER: Final = 1.0  # seconds, for a peer that has something to say until it has heard us


async def refuse(connection: Duplex, request: Exec | JustExec, code: int) -> None:
    """Say that it has ended with this exit code, and hang up.

    Raises ChannelError where the peer does not take it, and ProtocolError for what is no HELLO.
    """
    with connection:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                data = await _greet(connection)
                for message in not_started(request, code):
                    connection.send(data.send(message))
                while not connection.flush():
                    await wait_writable(connection)
        except TimeoutError:
            raise ChannelError(f"the peer does not answer within {CONNECT_TIMEOUT:.0f} s") from None
        await _linger(connection, data)


async def _greet(connection: Duplex) -> Data:
    data = Data(DataRole.SERVICE)
    connection.send(data.send_hello())
    while not data.is_open:
        received = await _read(connection)
        if not received:
            raise ChannelError("the peer did not say HELLO")
        next(data.receive(received), None)
    return data


async def _linger(connection: Duplex, data: Data) -> None:
    """Let the peer say that it has no more input: it would get EPIPE for that."""
    connection.end_sending()
    try:
        async with asyncio.timeout(_LINGER):
            while data.peer is State.FEEDING and (received := await _read(connection)):
                for _message in data.receive(received):
                    pass  # too late
    except TimeoutError:
        pass


async def _read(connection: Duplex) -> bytes:
    """Return what comes, b"" at the end."""
    while (received := connection.read()) is None:
        await wait_readable(connection)
    return received
