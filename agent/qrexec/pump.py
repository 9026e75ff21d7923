"""Moves the bytes between a data channel and a program, from either end of the channel.

One thread, one poll(2), and no call that waits for anybody. What is held is bounded: a chunk for
each input of the program, while nothing more is taken from the channel, and a chunk for the
channel, while nothing more is read from the program.
"""

import abc
import fcntl
import logging
import select
import signal
import struct
import termios
from dataclasses import dataclass
from typing import ClassVar, Final

from agent.qrexec.children import Child
from agent.qrexec.ends import End
from agent.qrexec.outlet import Outlet
from agent.qrexec.watch import Watch
from sessiond.errors import ProtocolError
from sessiond.transport.duplex import Duplex
from sessiond.wire.exec import (
    HEADER_SIZE,
    MAX_CHUNK,
    Chunk,
    ExitCode,
    Hello,
    OnData,
    Stream,
)
from sessiond.wire.exec_data import Data, Stray

log = logging.getLogger(__name__)

_GONE: Final = select.POLLHUP | select.POLLERR
_INT: Final = struct.Struct("i")


@dataclass(frozen=True, slots=True)
class Streams:
    """A program's ends by stream; its input and its output may be one and the same.

    ``child`` is the program, if it is a child of ours and not a service that listens somewhere.
    """

    inputs: dict[Stream, Outlet]
    outputs: dict[Stream, End]
    child: Child | None = None


class Pump(abc.ABC):
    """Carries the streams of one command until both sides have said all, or one is gone.

    ``data`` is open, and may hold messages that came early. The program's ends are closed at the
    end, however that comes; the connection stays the caller's.
    """

    _INPUT: ClassVar[Stream]  # those that a program can make one, by SIGUSR1
    _OUTPUT: ClassVar[Stream]

    def __init__(self, connection: Duplex, data: Data, streams: Streams, watch: Watch) -> None:
        self._connection = connection
        self._data = data
        self._watch = watch
        self._inputs = streams.inputs
        self._outputs = streams.outputs
        self._child = streams.child
        self._ends = {outlet.end for outlet in self._inputs.values()} | {*self._outputs.values()}
        self._space = memoryview(bytearray(HEADER_SIZE + MAX_CHUNK))
        self._is_gone = False  # the peer is, and everything that it has said is done
        self._may_switch = self._child is not None
        self._before_switch: int | None = None  # bytes that are still read from the old output

    def run(self) -> None:
        """Carry everything. Raises EndedError if we are told to end, with everything closed."""
        try:
            self._take(b"")
            self._settle()
            while not self._is_over:
                self._turn()
                self._settle()
        finally:
            for end in self._ends:
                end.close()

    @property
    @abc.abstractmethod
    def _is_over(self) -> bool:
        """Whether nothing is left to be done."""

    @abc.abstractmethod
    def _heed(self, message: OnData) -> None:
        """Do what the peer says."""

    @abc.abstractmethod
    def _settle(self) -> None:
        """Say what has come to be."""

    def _turn(self) -> None:
        """Wait until something can be done, and do it.

        The channel is first: an exit code may be there, and the peer not listen any more.
        """
        ready, signals = self._watch.wait(self._wanted())
        if signal.SIGUSR1 in signals:
            self._use_one_end()
        if signal.SIGCHLD in signals:
            self._look_after_child()
        if self._connection.fileno() in ready:
            self._attend_peer(ready[self._connection.fileno()])
        for outlet in self._inputs.values():
            self._attend_input(outlet, ready.get(outlet.end.fileno(), 0))
        self._take(b"")
        for stream, end in [*self._outputs.items()]:
            if ready.get(end.fileno(), 0):
                self._read_output(stream, end)

    def _wanted(self) -> dict[int, int]:
        """Return what poll(2) is to tell of whom."""
        wanted = {}
        if self._can_take or self._connection.can_send:
            wanted[self._connection.fileno()] = (select.POLLIN if self._can_take else 0) | (
                select.POLLOUT if self._connection.is_blocked else 0
            )
        is_read = {} if self._connection.is_blocked else self._outputs
        for end in is_read.values():
            wanted[end.fileno()] = select.POLLIN
        shared = self._outputs.values()
        for outlet in self._inputs.values():
            # That a reader has gone is not all that POLLHUP says of an end that we read, too.
            if outlet.is_open and (outlet.is_full or outlet.end not in shared):
                fd = outlet.end.fileno()
                wanted[fd] = wanted.get(fd, 0) | outlet.wanted
        return wanted

    # The channel.

    @property
    def _can_take(self) -> bool:
        """Whether the program has taken all that came for it: else nothing more is received."""
        return not any(outlet.is_full for outlet in self._inputs.values())

    def _attend_peer(self, events: int) -> None:
        self._connection.flush()
        if self._can_take:
            received = self._connection.read()
            if received:
                self._take(received)
            self._is_gone |= received == b""
        elif events & _GONE:
            # What it has sent is still taken, as the program reads.
            self._connection.can_send = False
        if not self._connection.can_send:
            self._drop_outputs()

    def _take(self, received: bytes) -> None:
        """Heed what the peer says, as far as the program takes it."""
        if self._is_gone:
            return
        try:
            messages = self._data.receive(received)
            while self._can_take and (message := next(messages, None)):
                self._sort(message)
        except ProtocolError as error:
            log.error("the peer broke the protocol: %s", error)  # noqa: TRY400
            self._is_gone = True

    def _sort(self, message: Hello | OnData | Stray) -> None:
        match message:
            case Stray():
                log.warning("%s from a peer that does not send it", message.type.name)
            case Chunk() | ExitCode():
                self._heed(message)

    def _send(self, message: OnData) -> None:
        if self._connection.can_send:
            self._connection.send(self._data.send(message))

    # The program.

    def _attend_input(self, outlet: Outlet, events: int) -> None:
        if outlet.is_full:
            outlet.flush()
        elif events & _GONE and outlet.is_open and outlet.end not in self._outputs.values():
            outlet.finish()

    def _read_output(self, stream: Stream, end: End) -> None:
        if self._connection.is_blocked:
            return  # by what another output had to say
        left = self._before_switch if stream is self._OUTPUT else None
        most = self._data.max_chunk if left is None else min(left, self._data.max_chunk)
        size = end.read_into(self._space[HEADER_SIZE : HEADER_SIZE + most])
        if size is None:
            return
        if size:
            self._space[:HEADER_SIZE] = self._data.begin_chunk(stream, size)
            self._connection.send(self._space[: HEADER_SIZE + size])
            # Next time the others are first: one alone could fill a slow channel again and again.
            self._outputs[stream] = self._outputs.pop(stream)
        if left is not None:
            self._switch_after(left - size if size else 0)
        elif not size:
            self._end_output(stream)
        if not self._connection.can_send:
            self._drop_outputs()

    def _end_output(self, stream: Stream) -> None:
        self._outputs.pop(stream).end_reading()
        self._send(Chunk(stream, b""))

    def _drop_outputs(self) -> None:
        """Let the program know that nobody reads what it writes."""
        while self._outputs:
            self._outputs.popitem()[1].end_reading()

    def _look_after_child(self) -> None:
        if self._child:
            self._child.reap()
            if self._child.status is not None:
                self._inputs[self._INPUT].finish()

    def _use_one_end(self) -> None:
        """Read the program's output where it reads its input, from what it writes now on.

        Asked a second time, or by a program that has ended its output, it changes nothing.
        """
        if self._may_switch and self._OUTPUT in self._outputs:
            self._may_switch = False
            unread = bytearray(_INT.size)
            fcntl.ioctl(self._outputs[self._OUTPUT].fileno(), termios.FIONREAD, unread)
            self._switch_after(*_INT.unpack(unread))

    def _switch_after(self, size: int) -> None:
        self._before_switch = size or None
        if not size:
            self._outputs[self._OUTPUT].end_reading()
            self._outputs[self._OUTPUT] = self._inputs[self._INPUT].end
