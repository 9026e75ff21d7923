"""The order of a stream device's messages: who may send what, when.

One table holds both sides, because each must know what the other may do. A guest that would
send what the table forbids gets LocalProtocolError; a host drops such a message, as
spice-server does with frames after a stop.
"""

import enum
from collections.abc import Iterator
from typing import Final, assert_never

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.buffer import Bytes, Header, MessageBuffer
from sessiond.wire.device import (
    Capabilities,
    CursorMove,
    CursorSet,
    Data,
    DeviceDisplayInfo,
    Format,
    FromGuest,
    FromHost,
    Message,
    NotifyError,
    QualityIndicator,
    Role,
    StartStop,
    Type,
    Unknown,
    check_from_guest,
    check_from_host,
    pack,
    parse_from_guest,
    parse_from_host,
)


class State(enum.Enum):
    """Where the connection stands, seen from either side."""

    INITIAL = enum.auto()  # opened; the guest waits for the host's first word
    IDLE = enum.auto()  # nobody watches
    READY = enum.auto()  # somebody watches; no FORMAT since that START
    STREAMING = enum.auto()  # frames may flow
    FAILED = enum.auto()  # refused by the host: close and open again


class Signal(enum.Enum):
    """What a message means to the state; the first four come from the host."""

    HOST_CAPABILITIES = enum.auto()
    START = enum.auto()
    STOP = enum.auto()
    ERROR = enum.auto()
    ANSWER = enum.auto()  # the guest's CAPABILITIES
    FORMAT = enum.auto()
    FRAME = enum.auto()
    DECORATION = enum.auto()  # cursor, display info, quality: no change of state


_FROM_HOST: Final = {
    Signal.HOST_CAPABILITIES: State.IDLE,
    Signal.START: State.READY,
    Signal.STOP: State.IDLE,
    Signal.ERROR: State.FAILED,
}
# What is not in the table is forbidden. A START while streaming begins a new stream; a host
# that repeats its CAPABILITIES in mid-stream changes nothing.
TRANSITIONS: Final[dict[State, dict[Signal, State]]] = {
    State.INITIAL: {**_FROM_HOST},
    State.IDLE: {**_FROM_HOST, Signal.ANSWER: State.IDLE},
    State.READY: {
        **_FROM_HOST,
        Signal.HOST_CAPABILITIES: State.READY,
        Signal.ANSWER: State.READY,
        Signal.FORMAT: State.STREAMING,
        Signal.DECORATION: State.READY,
    },
    State.STREAMING: {
        **_FROM_HOST,
        Signal.HOST_CAPABILITIES: State.STREAMING,
        Signal.ANSWER: State.STREAMING,
        Signal.FORMAT: State.STREAMING,
        Signal.FRAME: State.STREAMING,
        Signal.DECORATION: State.STREAMING,
    },
    State.FAILED: {},
}


def _signal(message: Message, *, from_host: bool) -> Signal:
    match message:
        case Capabilities():
            return Signal.HOST_CAPABILITIES if from_host else Signal.ANSWER
        case StartStop():
            return Signal.START if message.codecs else Signal.STOP
        case NotifyError():
            return Signal.ERROR
        case Format():
            return Signal.FORMAT
        case Data():
            return Signal.FRAME
        case CursorSet() | CursorMove() | DeviceDisplayInfo() | QualityIndicator():
            return Signal.DECORATION
        case unreachable:
            assert_never(unreachable)


class DeviceConnection:
    """One opening of the stream port, from the guest's or the host's end, without any I/O.

    ``receive(bytes)`` yields messages, ``send(message)`` returns bytes. After a ProtocolError
    the connection is dead: the port has to be closed.
    """

    def __init__(self, role: Role) -> None:
        self.role = role
        self.state = State.INITIAL
        self.peer = Capabilities()
        self._own = Capabilities()  # what the peer was told of us
        self._error: ProtocolError | None = None
        check = check_from_host if role is Role.GUEST else self._check_from_guest
        self._buffer = MessageBuffer(check)

    def receive(self, data: Bytes) -> Iterator[Message | Unknown]:
        """Yield the messages that ``data`` completes; none is lost before an error.

        A guest also gets Unknown for what it skipped, and nothing after NOTIFY_ERROR; a host
        does not get the frames that it drops. Raises ProtocolError, and the same one ever after.
        """
        if self._error:
            raise self._error
        parse = self._from_host if self.role is Role.GUEST else self._from_guest
        try:
            for header, body in self._buffer.feed(data):
                message = parse(header, body)
                if message is None:
                    continue
                if isinstance(message, Capabilities):
                    self.peer = message
                yield message
        except ProtocolError as error:
            self._error = error
            raise

    def send(self, message: Message) -> bytes:
        """Return the bytes of ``message`` and take note that it was sent.

        Raises LocalProtocolError when it is not ours to send now.
        """
        is_from_host = isinstance(message, StartStop | NotifyError) or (
            self.role is Role.HOST and isinstance(message, Capabilities)
        )
        if is_from_host is not (self.role is Role.HOST):
            raise LocalProtocolError(f"{type(message).__name__} is not for a {self.role.name}")
        if isinstance(message, QualityIndicator) and not self.peer.quality_indicator:
            raise LocalProtocolError("the host did not ask for quality indicators")
        signal = _signal(message, from_host=is_from_host)
        if signal not in TRANSITIONS[self.state]:
            raise LocalProtocolError(f"{type(message).__name__} in state {self.state.name}")
        packed = pack(message)
        self.state = TRANSITIONS[self.state][signal]
        if isinstance(message, Capabilities):
            self._own = message
        return packed

    def _check_from_guest(self, header: Header) -> None:
        check_from_guest(header)
        if header.type == Type.QUALITY_INDICATOR and not self._own.quality_indicator:
            raise ProtocolError("Invalid message type")  # as to a host that never heard of it

    def _from_host(self, header: Header, body: bytes) -> FromHost | Unknown | None:
        if self.state is State.FAILED:
            return None
        message = parse_from_host(header, body)
        if not isinstance(message, Unknown):
            self.state = TRANSITIONS[self.state][_signal(message, from_host=True)]
        return message

    def _from_guest(self, header: Header, body: bytes) -> FromGuest | None:
        message = parse_from_guest(header, body)
        signal = _signal(message, from_host=False)
        allowed = TRANSITIONS[self.state]
        if signal is Signal.FRAME and signal not in allowed:
            return None  # spice-server 0.15.1 drops it silently; all else it takes at any time
        self.state = allowed.get(signal, self.state)
        return message
