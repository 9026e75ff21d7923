"""The daemon's end of a link, for tests: keeps what an agent says, in order."""

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

from sessiond.wire.device import Codec, Type
from sessiond.wire.link import (
    Activate,
    Config,
    Credit,
    DeviceMessage,
    Failed,
    Ready,
    Stats,
    ToAgent,
    ToDaemon,
)
from sessiond.wire.link_state import AgentLink

Heard = ToDaemon | DeviceMessage
T = TypeVar("T")


class Daemon:
    """Speaks on SOCK, which is non-blocking; STATS are kept apart in ``stats``."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.link = AgentLink()
        self.pending: list[Heard] = []
        self.stats: list[Stats] = []
        self.serial = 0

    async def say(self, *messages: ToAgent) -> None:
        await self.say_bytes(b"".join(self.link.send(message) for message in messages))

    async def say_bytes(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def hear(self) -> Heard:
        """Return the next message; EOFError at the end."""
        while not self.pending:
            data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
            if not data:
                raise EOFError
            for message in self.link.receive(data):
                if isinstance(message, Stats):
                    self.stats.append(message)
                else:
                    self.pending.append(message)
        return self.pending.pop(0)

    async def hear_a(self, kind: type[T]) -> T:
        message = await self.hear()
        assert isinstance(message, kind), message
        return message

    async def hear_types(self, last: Type = Type.DATA) -> list[Type]:
        """Return the kinds of the device's messages up to the first LAST."""
        kinds = list[Type]()
        while not kinds or kinds[-1] is not last:
            kinds.append((await self.hear_a(DeviceMessage)).type)
        return kinds

    async def configure(self, config: Config) -> Ready:
        await self.say(config)
        return await self.hear_a(Ready)

    async def failure(self, config: Config) -> Failed:
        """Configure an agent that fails and hangs up."""
        await self.say(config)
        failed = await self.hear_a(Failed)
        try:
            raise AssertionError(await self.hear())
        except EOFError:
            return failed

    async def activate(self, credit: int = 0) -> None:
        self.serial += 1
        await self.say(Activate(self.serial, (Codec.MJPEG,)), *(credit * [Credit()]))

    async def hear_until(self, wanted: Callable[[Heard], bool]) -> Heard:
        while not wanted(message := await self.hear()):
            pass
        return message
