"""The connection to a qrexec daemon: its messages in, ours out, and the other way no faster.

While the daemon takes nothing, nothing more of it is heard, and who has a long message waits.
"""

import asyncio
import logging
from typing import Final, Protocol

from sessiond.errors import ChannelError, ProtocolError
from sessiond.transport.duplex import Duplex
from sessiond.wire.exec import Connect, Exec, Hello, JustExec, Refuse, Terminated, Trigger
from sessiond.wire.exec_control import Control, ControlRole

log = logging.getLogger(__name__)

HELLO_TIMEOUT: Final = 120.0  # seconds; another daemon may be waiting for the place of a silent one


class Handler(Protocol):
    """Who hears of a connection."""

    def on_hello(self, link: "ControlLink") -> None:
        """The daemon is there, and may be told something from now on."""

    def on_request(self, link: "ControlLink", request: Exec | JustExec) -> None:
        """It wants a command to be run."""

    def on_answer(self, answer: Connect | Refuse) -> None:
        """It answers a call."""


class ControlLink:
    """Owns the connection. ``ended`` has the fault at its end, "" where the daemon has hung up."""

    def __init__(self, duplex: Duplex, handler: Handler) -> None:
        self._loop = asyncio.get_running_loop()
        self._duplex = duplex
        self._fd = duplex.fileno()
        self._handler = handler
        self._control = Control(ControlRole.AGENT)
        self._has_room = asyncio.Event()
        self._is_reading = self._is_writing = False
        self.is_open = True
        self.ended: asyncio.Future[str] = self._loop.create_future()
        fault = f"it did not say HELLO within {HELLO_TIMEOUT:g} s"
        self._timer = self._loop.call_later(HELLO_TIMEOUT, self._end, fault)
        self._put(self._control.send_hello())

    @property
    def version(self) -> int:
        """What is spoken."""
        return self._control.version

    def tell_end(self, ended: Terminated) -> None:
        """Say that a command or a call has ended; nothing if the daemon has gone."""
        if self.is_open:
            self._put(self._control.send(ended))

    async def call(self, trigger: Trigger) -> None:
        """Pass a call on as soon as the daemon takes it; nothing if it has gone by then.

        Raises LocalProtocolError for what cannot be said in the daemon's version.
        """
        while self.is_open and self._duplex.is_blocked:
            await self._has_room.wait()
        if self.is_open:
            self._put(self._control.send(trigger))

    def close(self) -> None:
        """Hang up; a second call does nothing."""
        if not self.is_open:
            return
        self.is_open = False
        self._has_room.set()
        self._timer.cancel()
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._duplex.close()

    def _end(self, fault: str) -> None:
        self.close()
        if not self.ended.done():
            self.ended.set_result(fault)

    def _put(self, data: bytes) -> None:
        try:
            self._duplex.send(data)
        except ChannelError as error:
            self._end(str(error))
        else:
            self._watch()

    def _watch(self) -> None:
        """Wait for what can be done next: reading, or writing what could not be written yet."""
        is_blocked = self._duplex.is_blocked
        if is_blocked and not self._is_writing:
            self._has_room.clear()
            self._loop.add_writer(self._fd, self._on_writable)
        elif self._is_writing and not is_blocked:
            self._has_room.set()
            self._loop.remove_writer(self._fd)
        if is_blocked and self._is_reading:
            self._loop.remove_reader(self._fd)
        elif not is_blocked and not self._is_reading:
            self._loop.add_reader(self._fd, self._on_readable)
        self._is_writing, self._is_reading = is_blocked, not is_blocked

    def _on_writable(self) -> None:
        self._duplex.flush()
        self._watch()

    def _on_readable(self) -> None:
        received = self._duplex.read()
        if received == b"":
            self._end("")
            return
        try:
            for message in self._control.receive(received or b""):
                log.debug("from the daemon: %s", type(message).__name__)
                self._heed(message)
                if not self.is_open:
                    return
        except ProtocolError as error:
            self._end(str(error))

    def _heed(self, message: object) -> None:
        match message:
            case Hello():
                self._timer.cancel()
                self._handler.on_hello(self)
            case Exec() | JustExec():
                self._handler.on_request(self, message)
            case Connect() | Refuse():
                self._handler.on_answer(message)
            case _:
                raise AssertionError(message)  # an agent's channel yields none
