"""One connection that speaks ``wire.rpc``: a socket in, messages out, and the other way round.

Messages are neither answered nor judged here. What cannot be sent is kept, and meanwhile nothing is
read: who does not take our answers gets to ask no more. Descriptors that come with a line are kept
until who hears the message takes them.
"""

import array
import asyncio
import json
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from sessiond.errors import ProtocolError
from sessiond.transport.passing import Passed
from sessiond.wire import rpc

log = logging.getLogger(__name__)

READ_SIZE: Final = 64 << 10  # bytes a turn of the loop: others come in between
_ENOUGH: Final = 1 << 20  # bytes that wait to be sent, before nothing is read any more
_MAX_WAITING: Final = 2 * rpc.MAX_FDS  # those of a line that is not whole yet, and of the next
_FD: Final = array.array("i").itemsize


class Lines:
    """Owns ``sock``, connected and non-blocking, until it ends.

    ``limit`` is the most bytes of a line. ``on_message`` gets each message, in order. ``on_end``
    gets the reason, once, when the connection has ended other than by ``close``; nothing is called
    after that.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[rpc.Message], None],
        on_end: Callable[[str], None],
        limit: int = rpc.MAX_LINE,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._reader = rpc.LineReader(limit)
        self._unsent = bytearray()
        self._fds = deque[int]()  # that came, in order, and were not taken yet
        self._is_open = True
        self._is_reading = False
        self._is_writing = False  # when it can be written to, that is
        self._is_deaf = False  # it takes nothing any more
        self._read_on()

    def send(self, message: rpc.Message) -> None:
        """Send it, now or later; nothing where the connection has ended."""
        if not self._is_open or self._is_deaf:
            return
        line = rpc.encode(message)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("sent: %s, %d bytes", describe(message), len(line))
        is_waiting = bool(self._unsent)
        self._unsent += line
        if not is_waiting:
            self._write()

    def take_fds(self, count: int) -> Passed:
        """Return the descriptors that came with the call that is being heard, ``count`` of them.

        Raises ProtocolError where they did not come.
        """
        if count > len(self._fds):
            raise ProtocolError(f"a call without its {count} descriptors")
        return Passed([self._fds.popleft() for _ in range(count)])

    def close(self) -> None:
        """End the connection; a second call does nothing."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            self._sock.close()
            self._unsent.clear()
            Passed(self._fds).close()
            self._fds.clear()

    def _end(self, reason: str) -> None:
        if self._is_open:
            self.close()
            self._on_end(reason)

    def _read_on(self) -> None:
        """Read, or do not, as much as waits to be sent."""
        is_wanted = len(self._unsent) < _ENOUGH
        if is_wanted == self._is_reading:
            return
        self._is_reading = is_wanted
        if is_wanted:
            self._loop.add_reader(self._sock, self._read)
        else:
            self._loop.remove_reader(self._sock)

    def _read(self) -> None:
        try:
            data = self._receive()
        except BlockingIOError:
            return
        except ProtocolError as error:
            self._end(str(error))
            return
        except OSError as error:
            self._end(str(error.strerror or error))
            return
        if data:
            self._feed(data)
        else:
            self._end("it has closed the connection")

    def _feed(self, data: bytes) -> None:
        try:
            for message in self._reader.feed(data):
                if log.isEnabledFor(logging.DEBUG):
                    log.debug("heard: %s", describe(message))
                self._on_message(message)
                if not self._is_open:
                    return
        except ProtocolError as error:
            self._end(str(error))

    def _receive(self) -> bytes:
        """Return what is there, b"" at the end, and keep what came with it.

        Raises OSError, and ProtocolError for more descriptors than may come.
        """
        space = socket.CMSG_SPACE(rpc.MAX_FDS * _FD)
        data, ancillary, flags, _ = self._sock.recvmsg(READ_SIZE, space, socket.MSG_CMSG_CLOEXEC)
        for _level, _type, numbers in ancillary:
            whole = numbers[: len(numbers) - len(numbers) % _FD]
            self._fds += array.array("i", whole)
        if flags & socket.MSG_CTRUNC or len(self._fds) > _MAX_WAITING:
            raise ProtocolError("too many descriptors")
        return data

    def _write(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            # What it said before it went is still to be read; its end follows.
            self._is_deaf = True
            sent = len(self._unsent)
        del self._unsent[:sent]
        if self._is_writing and not self._unsent:
            self._is_writing = False
            self._loop.remove_writer(self._sock)
        elif self._unsent and not self._is_writing:
            self._is_writing = True
            self._loop.add_writer(self._sock, self._write)
        self._read_on()


def describe(message: rpc.Message) -> str:
    """Return kind and name of a message, never its content."""
    match message:
        case rpc.Call():
            return f"call {message.id}, {json.dumps(message.command)}"
        case rpc.Result(error=None):
            return f"result of {message.id}"
        case rpc.Result():
            return f"error for {message.id}"
        case rpc.Notice():
            return f"notice {json.dumps(message.event)}"
        case rpc.Farewell():
            return "farewell"
