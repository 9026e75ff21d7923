"""A server of helpers in a test, and what it heard."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final

from sessiond.helper.connection import Limits
from sessiond.helper.listener import take_listener
from sessiond.helper.server import HelperServer
from sessiond.wire.helper import Record
from tests.fixtures.loop import Signal
from tests.sessiond.helper.peers import address, fresh_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sessiond.helper.origin import Origin

RECORD: Final = Record(":0", "/run/user/1000/gdm/Xauthority")
QUICK: Final = Limits(deadline=0.3, silence=0.05)
PATIENT: Final = Limits(deadline=60, silence=60)  # so that no timer has a part in it


class World:
    """A server, and what it heard; ``answer`` is what it is told about each record."""

    def __init__(self, limits: Limits, **options: bool) -> None:
        self.heard: list[tuple[Record, Origin]] = []
        self.answer: str | None = ""
        self.signal = Signal()
        self.name = fresh_name()
        self.server = HelperServer(
            take_listener(self.name, {}),
            self._on_record,
            needs_xauthority=options.get("needs_xauthority", True),
            allow_root=options.get("allow_root", True),
            limits=limits,
        )

    def _on_record(self, record: Record, origin: Origin) -> str | None:
        self.heard.append((record, origin))
        self.signal.happened()
        return self.answer

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(address(self.name))
        except OSError:
            sock.close()
            raise
        sock.setblocking(False)
        return sock


@contextlib.contextmanager
def world(limits: Limits = PATIENT, **options: bool) -> Iterator[World]:
    it = World(limits, **options)
    try:
        yield it
    finally:
        it.server.close()


async def wait_closed(sock: socket.socket) -> None:
    """Return when the server has closed its end."""
    with contextlib.suppress(ConnectionResetError):  # what was not read is lost
        assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
    sock.close()


def end(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)
