"""qrexec's data channel: a command's streams and its exit code, from either end.

One table holds what each side may still say. What our own side must not send is refused. Of a
peer, what only comes too late is dropped: data after a stream's end is no fault of its sender's,
who may not have heard of it (qubes-core-qrexec, libqrexec/remote.c).
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.buffer import Bytes
from sessiond.wire.exec import (
    MAX_CHUNKS,
    Chunk,
    Exec,
    ExitCode,
    Hello,
    JustExec,
    OnData,
    Stream,
    Type,
    pack,
    pack_header,
    parse_data,
)
from sessiond.wire.exec_channel import Channel


class DataRole(enum.Enum):
    """Who we are on a data channel."""

    SERVICE = enum.auto()  # has the command
    CLIENT = enum.auto()  # has the other ends of its streams


class State(enum.Enum):
    """What one side may still say."""

    # of the service
    RUNNING = enum.auto()  # both outputs are open
    STDOUT_LEFT = enum.auto()
    STDERR_LEFT = enum.auto()
    SILENT = enum.auto()  # neither is
    EXITED = enum.auto()
    # of the client
    FEEDING = enum.auto()
    FED = enum.auto()


class Signal(enum.Enum):
    """What a message means to the state of the side that sends it."""

    STDIN = enum.auto()
    STDIN_END = enum.auto()
    STDOUT = enum.auto()
    STDOUT_END = enum.auto()
    STDERR = enum.auto()
    STDERR_END = enum.auto()
    EXIT = enum.auto()


FIRST: Final = {DataRole.SERVICE: State.RUNNING, DataRole.CLIENT: State.FEEDING}
# What is not in the table is not to be sent, and not heard. An exit code may come while the outputs
# are open: so JUST_EXEC is answered.
TRANSITIONS: Final[dict[State, dict[Signal, State]]] = {
    State.RUNNING: {
        Signal.STDOUT: State.RUNNING,
        Signal.STDERR: State.RUNNING,
        Signal.STDOUT_END: State.STDERR_LEFT,
        Signal.STDERR_END: State.STDOUT_LEFT,
        Signal.EXIT: State.EXITED,
    },
    State.STDOUT_LEFT: {
        Signal.STDOUT: State.STDOUT_LEFT,
        Signal.STDOUT_END: State.SILENT,
        Signal.EXIT: State.EXITED,
    },
    State.STDERR_LEFT: {
        Signal.STDERR: State.STDERR_LEFT,
        Signal.STDERR_END: State.SILENT,
        Signal.EXIT: State.EXITED,
    },
    State.SILENT: {Signal.EXIT: State.EXITED},
    State.EXITED: {},
    State.FEEDING: {Signal.STDIN: State.FEEDING, Signal.STDIN_END: State.FED},
    State.FED: {},
}

_SIGNALS: Final = {
    Stream.STDIN: (Signal.STDIN, Signal.STDIN_END),
    Stream.STDOUT: (Signal.STDOUT, Signal.STDOUT_END),
    Stream.STDERR: (Signal.STDERR, Signal.STDERR_END),
}
_ON_DATA: Final = frozenset({*Stream, Type.DATA_EXIT_CODE})
# A channel between two guests may carry a stream under its other name.
_MEANT: Final = {
    DataRole.SERVICE: {Stream.STDOUT: Stream.STDIN},
    DataRole.CLIENT: {Stream.STDIN: Stream.STDOUT},
}
_PEERS: Final = {DataRole.SERVICE: DataRole.CLIENT, DataRole.CLIENT: DataRole.SERVICE}
_SENT: Final = {
    DataRole.SERVICE: frozenset({Type.DATA_STDOUT, Type.DATA_STDERR, Type.DATA_EXIT_CODE}),
    DataRole.CLIENT: frozenset({Type.DATA_STDIN}),
}


@dataclass(frozen=True, slots=True)
class Stray:
    """A message that a peer in its role does not send: for the log, once for each type.

    STDOUT to a service is taken as its input, and STDIN to a client as output; the rest is dropped.
    """

    type: Type


class Data(Channel[OnData]):
    """One end of a data channel. ``own`` and ``peer`` are what each side may still say."""

    def __init__(self, role: DataRole) -> None:
        super().__init__()
        self.role = role
        self.own = FIRST[role]
        self.peer = FIRST[_PEERS[role]]
        self._strays: set[Type] = set()
        self._behind_stray: OnData | None = None

    @property
    def max_chunk(self) -> int:
        """Bytes of a stream that may go into one message, once the channel ``is_open``."""
        return MAX_CHUNKS[self.version]

    def receive(self, data: Bytes) -> Iterator[Hello | OnData | Stray]:
        """Add ``data`` and return the messages that are complete and still count.

        What the caller does not take from the iterator stays for the next call, which may add
        nothing: so one chunk is taken at a time. It raises ProtocolError at the message that is
        wrong, and so does every call after that.
        """
        self._feed(data)
        return self._messages()

    def send(self, message: OnData) -> bytes:
        """Return the bytes of ``message`` and take note of it.

        Raises LocalProtocolError if it is not ours to send now, or over ``max_chunk``.
        """
        if isinstance(message, Chunk):
            return self.begin_chunk(message.stream, len(message.data)) + bytes(message.data)
        packed = pack(message)
        self._say(Signal.EXIT)
        return packed

    def begin_chunk(self, stream: Stream, size: int) -> bytes:
        """Return the header of a chunk whose ``size`` bytes the caller sends behind it.

        Of 0 bytes is the stream's end. Raises LocalProtocolError as ``send``.
        """
        if size > self.max_chunk:
            raise LocalProtocolError(f"{stream.name} with {size} bytes, over {self.max_chunk}")
        self._say(_SIGNALS[stream][not size])
        return pack_header(stream, size)

    def _say(self, signal: Signal) -> None:
        self._check_may_send(signal.name)
        after = TRANSITIONS[self.own].get(signal)
        if after is None:
            raise LocalProtocolError(f"{signal.name} in state {self.own.name}")
        self.own = after

    def _messages(self) -> Iterator[Hello | OnData | Stray]:
        while message := self._next_told():
            yield message

    def _next_told(self) -> Hello | OnData | Stray | None:
        told: Hello | OnData | Stray | None = self._behind_stray
        self._behind_stray = None
        while not told and (message := self._next()):
            told = message if isinstance(message, Hello) else self._told(message)
        return told

    def _told(self, message: OnData) -> OnData | Stray | None:
        """Return what the caller hears of it."""
        meant = self._meant(message)
        heard = meant if self._hear(meant) else None
        kind = _type_of(message)
        if kind in _SENT[_PEERS[self.role]] or kind in self._strays:
            return heard
        self._strays.add(kind)
        self._behind_stray = heard
        return Stray(kind)

    def _meant(self, message: OnData) -> OnData:
        if isinstance(message, Chunk):
            stream = _MEANT[self.role].get(message.stream, message.stream)
            return Chunk(stream, message.data)
        return message

    def _hear(self, message: OnData) -> bool:
        """Return whether it still counts."""
        after = TRANSITIONS[self.peer].get(_signal_of(message))
        if after is None:
            return False
        self.peer = after
        return True

    def _check(self, kind: Type, size: int) -> None:
        if kind not in _ON_DATA:
            raise ProtocolError(f"{kind.name} on a data channel")
        if size > self.max_chunk:
            raise ProtocolError(f"{kind.name} with {size} bytes, over {self.max_chunk}")

    def _parse(self, kind: Type, body: bytes) -> OnData:
        return parse_data(kind, body)


def not_started(request: Exec | JustExec, code: int) -> list[OnData]:
    """Return all that a service says of a command that is not started, with its exit code."""
    if isinstance(request, JustExec):
        return [ExitCode(code)]
    return [Chunk(Stream.STDOUT, b""), Chunk(Stream.STDERR, b""), ExitCode(code)]


def _type_of(message: OnData) -> Type:
    return Type(message.stream) if isinstance(message, Chunk) else Type.DATA_EXIT_CODE


def _signal_of(message: OnData) -> Signal:
    if isinstance(message, ExitCode):
        return Signal.EXIT
    return _SIGNALS[message.stream][message.is_end]
