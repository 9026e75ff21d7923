"""``exec --pty`` and ``shell``: what runs on a terminal of its own, brought to this program's.

The user's agent makes the terminal and hands its master over, so that its bytes go straight from
here to there. Until then nothing is changed on this program's own terminal, where somebody may be
asked for a password.
"""

import asyncio
import os
import socket
from argparse import Namespace
from types import TracebackType
from typing import Final, Self

from sessiond.ctl.client import Client
from sessiond.ctl.execute import STDIO, Execution
from sessiond.errors import SessiondError
from sessiond.transport.bus import Bus
from sessiond.transport.dbus import Variant
from sessiond.transport.fds import OwnedFd
from sessiond.transport.terminal import own_window_size
from sessiond.transport.terminal_passing import receive_master
from sessiond.transport.terminal_relay import Relay

_SIGNALLED: Final = 128


class Interactive(Execution):
    """One command with a terminal. To leave the context hangs it up."""

    def __init__(self, bus: Bus, client: Client) -> None:
        super().__init__(bus, client)
        self._ours, self._theirs = socket.socketpair()
        self._nowhere = OwnedFd(os.open(os.devnull, os.O_RDWR))
        nowhere = self._nowhere.fileno()
        self.fds = (self._theirs.fileno(), nowhere, nowhere)
        self._master: OwnedFd | None = None
        self._left = 0  # the exit status, if not all that was said could be written

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for it in (self._ours, self._theirs, self._nowhere, self._master):
            if it:
                it.close()

    async def run(self, options: Namespace) -> int:
        """Return the exit status. Raises SessiondError."""
        status = await super().run(options)
        return self._left or status

    def choices(self, options: Namespace) -> dict[str, Variant]:
        """Return RunCommand's options."""
        size = own_window_size(STDIO[:2])
        kind = os.environ.get("TERM", "")
        if kind and kind.isprintable():  # as nothing is that is not UTF-8, which no bus carries
            options.env.insert(0, ("TERM", kind))
        return {
            **super().choices(options),
            "pty": Variant("b", True),
            "size": Variant("(uu)", [size.columns, size.rows]),
            "login-shell": Variant("b", options.command == "shell"),
        }

    def _on_begun(self) -> None:
        try:
            self._master = receive_master(self._ours)
        except SessiondError as error:
            self._fail(error)

    def _on_signal(self, number: int) -> None:
        self._end(_SIGNALLED + number)  # as we leave the bus, it ends

    async def _attend(self) -> None:
        if not self._master:
            return
        try:
            with Relay(self._master) as relay:
                await self._follow(relay)
        except OSError as error:
            self._fail(SessiondError(f"this terminal cannot be used: {error}"))

    async def _follow(self, relay: Relay) -> None:
        await asyncio.wait([self._status, relay.left], return_when=asyncio.FIRST_COMPLETED)
        if not relay.left.done() and not self._status.exception():
            await relay.drain()
        if relay.left.done():
            self._left = relay.left.result()
            self._end(self._left)
