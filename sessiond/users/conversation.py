"""One host's presence on the channel, from its first byte until it is gone.

What was half read, and what the host has switched on, ends with it. Requests that bring an id are
answered when they are done. The others are done one after the other, and so answered in order, as
libvirt needs it. Nothing is read while too much is in work or unsent.
"""

import asyncio
from collections import deque
from functools import partial
from typing import Final, Protocol

from sessiond.errors import CommandError
from sessiond.transport.channel import WRITE_SIZE, Channel
from sessiond.transport.edge import EdgePoller
from sessiond.transport.port import OpenPort
from sessiond.users.commands import Switches
from sessiond.users.desk import Desk
from sessiond.wire.qga import Answer, Reader, Refused, Request, encode_error

MAX_IN_WORK: Final = 256  # requests; libvirt has one, a busy program a few dozen
MAX_UNSENT: Final = 1 << 20  # bytes, before nothing more is read
MAX_KEPT: Final = 64 << 20  # bytes: five of the longest answers, which were asked for before that
AT_ONCE: Final = 64  # requests; then the rest of the loop gets its turn
CHUNK: Final = 64 << 10  # bytes that are parsed at once

_TOO_SLOW: Final = CommandError("the answer is dropped: too many are not read")


class Handler(Protocol):
    """Who hears of a conversation."""

    def on_answer(self, answer: Answer) -> None:
        """Take the host's answer to what it was asked."""

    def on_room(self) -> None:
        """Take note that something is done whose host is gone."""

    def on_end(self, talk: "Conversation", reason: str) -> None:
        """Take note that the host is gone; what it has begun may still be in work."""


class Conversation:
    """Owns an opened port; ``switches`` are the host's, ``was_heard`` says that it has spoken."""

    def __init__(self, port: OpenPort, poller: EdgePoller, desk: Desk, handler: Handler) -> None:
        self.switches = Switches()
        self.was_heard = False
        self._loop = asyncio.get_running_loop()
        self._desk = desk
        self._handler = handler
        self._reader = Reader()
        self._unread = bytearray()
        self._todo = deque[Request | Refused | Answer]()
        self._line = deque[Request | Refused]()  # without ids; the one before them is in work
        self._is_line_busy = False
        self._in_work = 0
        self._unsent = bytearray()
        self._is_going_on = False
        self._next_turn: asyncio.Handle | None = None
        self._has_half_ended = False
        self._is_over = False
        self._channel = Channel(port, poller, self, self._on_half_end)

    def put(self, line: bytes) -> bool:
        """Send a line that is no answer; false, and it is not sent, if too much is unsent."""
        if self._is_over or len(self._unsent) >= MAX_UNSENT:
            return False
        self._unsent += line
        self._flush()
        return True

    def close(self) -> None:
        """Hang up, without a word to the handler; what is in work has its answer dropped."""
        self._is_over = True
        self._channel.close()
        if self._next_turn:
            self._next_turn.cancel()

    def go_on(self) -> None:
        """Begin what may be begun now."""
        if self._is_over or self._is_going_on:
            return
        self._is_going_on = True
        try:
            for _ in range(AT_ONCE):
                if not self._do_next():
                    break
        finally:
            self._is_going_on = False
        self._flush()
        self._settle()

    # From the channel.

    def on_bytes(self, data: memoryview) -> None:
        """Hear the host."""
        self.was_heard = True
        self._unread += data
        if not self._next_turn:
            self.go_on()

    def on_writable(self) -> None:
        """Go on writing, and with what had to wait for that."""
        self.go_on()

    def on_lost(self, reason: str) -> None:
        """End: nobody is there to be answered."""
        self._end(reason)

    def _on_half_end(self) -> None:
        """Answer what was asked for; nothing more can be."""
        self._has_half_ended = True
        self.switches.events = self.switches.requests = False
        if not self._next_turn:
            self.go_on()

    # Requests.

    def _do_next(self) -> bool:
        """Begin one, or hand on an answer; return whether there was one that may be."""
        if len(self._unsent) >= MAX_UNSENT:
            return False
        if self._line and not self._is_line_busy:
            self._is_line_busy = True
            self._begin(self._line.popleft())
        elif self._is_full or not self._parse():
            return False
        else:
            self._take(self._todo.popleft())
        return True

    @property
    def _is_full(self) -> bool:
        return self._desk.in_work + len(self._line) >= MAX_IN_WORK

    def _parse(self) -> bool:
        """Return whether there is something to do, of what was read."""
        while self._unread and not self._todo:
            chunk = bytes(self._unread[:CHUNK])
            del self._unread[:CHUNK]
            self._todo.extend(self._reader.feed(chunk))
        return bool(self._todo)

    def _take(self, item: Request | Refused | Answer) -> None:
        if isinstance(item, Answer):
            self._handler.on_answer(item)
        elif item.has_id:
            self._begin(item)
        else:
            self._line.append(item)

    def _begin(self, item: Request | Refused) -> None:
        self._in_work += 1
        self._desk.do(item, self.switches, partial(self._answer, item))

    def _answer(self, item: Request | Refused, line: bytes) -> None:
        if self._is_over:
            self._handler.on_room()
            return
        self._in_work -= 1
        self._is_line_busy = self._is_line_busy and item.has_id
        fits = len(self._unsent) + len(line) <= MAX_KEPT
        self._unsent += line if fits else encode_error(_TOO_SLOW, to=item)
        self.go_on()

    # The channel.

    def _flush(self) -> None:
        if self._unsent and not self._is_over:
            with memoryview(self._unsent) as view:
                taken = sum(self._channel.write_pieces(view, WRITE_SIZE))
            del self._unsent[:taken]

    def _settle(self) -> None:
        """Read on, or wait for what has to happen first, or end."""
        if self._is_over:
            return
        is_waiting = bool(self._line) and not self._is_line_busy
        has_more = is_waiting or (bool(self._todo or self._unread) and not self._is_full)
        is_choked = len(self._unsent) >= MAX_UNSENT
        if has_more and not is_choked:
            self._next_turn = self._next_turn or self._loop.call_soon(self._turn)
        if has_more or is_choked or self._is_full:
            self._channel.pause()
        else:
            self._channel.resume()
            if self._has_half_ended and not (self._unsent or self._in_work):
                self._end("the host has ended")

    def _turn(self) -> None:
        self._next_turn = None
        self.go_on()

    def _end(self, reason: str) -> None:
        if not self._is_over:
            self.close()
            self._handler.on_end(self, reason)
