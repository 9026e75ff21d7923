"""The order of the link's messages, and what of an agent's words still counts.

One table, walked by a test. An agent that sends what its state forbids breaks the link: that
agent ends, the port does not notice. What merely comes late, because the daemon changed its mind
while it was on its way, is dropped.
"""

import enum
from collections.abc import Iterator
from typing import Final, assert_never

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.buffer import Bytes, MessageBuffer
from sessiond.wire.device import Type
from sessiond.wire.link import (
    Activate,
    Config,
    Credit,
    DeviceMessage,
    Failed,
    Line,
    Pause,
    Ready,
    Serial,
    Stats,
    ToAgent,
    ToDaemon,
    Unavailable,
    check_from_agent,
    check_from_daemon,
    pack,
    parse_from_agent,
    parse_from_daemon,
)

MAX_STRAY: Final = 1000  # messages for nobody since the daemon's last word; a few come late


class State(enum.Enum):
    """What an agent is about, as the daemon sees it."""

    NEW = enum.auto()  # not configured
    OPENING = enum.auto()  # looks for its display
    PAUSED = enum.auto()  # display open, not shown
    WAITING = enum.auto()  # activated; its SERIAL has not come: what comes is old
    SYNCED = enum.auto()  # of this serial, but no FORMAT yet
    STREAMING = enum.auto()
    FAILED = enum.auto()


class Signal(enum.Enum):
    """What a message means to the state; the first five come from the daemon."""

    CONFIG = enum.auto()
    ACTIVATE = enum.auto()
    CREDIT = enum.auto()
    LINE = enum.auto()
    PAUSE = enum.auto()
    READY = enum.auto()
    STATS = enum.auto()
    FAILED = enum.auto()
    SERIAL = enum.auto()  # the newest ACTIVATE's
    OLD_SERIAL = enum.auto()
    FORMAT = enum.auto()
    FRAME = enum.auto()
    DECORATION = enum.auto()  # cursor, display info, quality
    UNAVAILABLE = enum.auto()


_OPEN: Final = {
    Signal.ACTIVATE: State.WAITING,
    Signal.PAUSE: State.PAUSED,
    Signal.FAILED: State.FAILED,
}


def _stay(state: State) -> dict[Signal, State]:
    streams = (Signal.FORMAT, Signal.FRAME, Signal.DECORATION, Signal.UNAVAILABLE)
    return dict.fromkeys((Signal.STATS, Signal.OLD_SERIAL, *streams), state)


# What is not in the table is forbidden.
TRANSITIONS: Final[dict[State, dict[Signal, State]]] = {
    State.NEW: {Signal.CONFIG: State.OPENING},
    State.OPENING: {Signal.READY: State.PAUSED, Signal.FAILED: State.FAILED},
    State.PAUSED: {**_stay(State.PAUSED), **_OPEN},
    State.WAITING: {
        **_stay(State.WAITING),
        **_OPEN,
        Signal.CREDIT: State.WAITING,
        Signal.LINE: State.WAITING,
        Signal.SERIAL: State.SYNCED,
    },
    State.SYNCED: {
        **_stay(State.SYNCED),
        **_OPEN,
        Signal.CREDIT: State.SYNCED,
        Signal.LINE: State.SYNCED,
        Signal.FORMAT: State.STREAMING,
    },
    State.STREAMING: {
        **_stay(State.STREAMING),
        **_OPEN,
        Signal.CREDIT: State.STREAMING,
        Signal.LINE: State.STREAMING,
    },
    State.FAILED: {},
}
# In these states what is of the stream counts: a message of the stream device reaches the host.
# Elsewhere it came too late. DATA needs a FORMAT of the same serial before it.
RELAYED: Final[dict[State, frozenset[Signal]]] = {
    State.SYNCED: frozenset({Signal.FORMAT, Signal.DECORATION, Signal.UNAVAILABLE}),
    State.STREAMING: frozenset({
        Signal.FORMAT, Signal.FRAME, Signal.DECORATION, Signal.UNAVAILABLE,
    }),
}  # fmt: skip


class AgentLink:
    """The daemon's end of one agent's link, without any I/O."""

    def __init__(self) -> None:
        self.state = State.NEW
        self.serial = 0
        self._stray = 0
        self._may_tell_quality = False
        self._error: ProtocolError | None = None
        self._buffer = MessageBuffer(check_from_agent)

    def send(self, message: ToAgent) -> bytes:
        """Return the bytes of ``message``. Raises LocalProtocolError if it is not its time."""
        signal = _DAEMON_SIGNALS[type(message)]
        if signal not in TRANSITIONS[self.state]:
            raise LocalProtocolError(f"{signal.name} in state {self.state.name}")
        self.state = TRANSITIONS[self.state][signal]
        self._stray = 0
        if isinstance(message, Activate):
            self.serial, self._may_tell_quality = message.serial, message.quality
        return pack(message)

    def receive(self, data: Bytes) -> Iterator[ToDaemon | DeviceMessage]:
        """Yield what still counts of the messages that ``data`` completes.

        Raises ProtocolError, and the same one ever after.
        """
        if self._error:
            raise self._error
        try:
            for header, whole in self._buffer.feed_whole(data):
                message = parse_from_agent(header, whole)
                if self._accept(message):
                    yield message
        except ProtocolError as error:
            self._error = error
            raise

    def _accept(self, message: ToDaemon | DeviceMessage) -> bool:
        signal = self._signal(message)
        state = self.state
        after = TRANSITIONS[state].get(signal)
        if after is None:
            raise ProtocolError(f"{signal.name} in state {state.name}")
        self.state = after
        if isinstance(message, DeviceMessage | Unavailable):
            is_relayed = signal in RELAYED.get(state, frozenset())
            self._stray += not is_relayed
            if self._stray > MAX_STRAY:
                raise ProtocolError(f"goes on writing in state {state.name}, to nobody")
            return is_relayed
        return not isinstance(message, Serial)

    def _signal(self, message: ToDaemon | DeviceMessage) -> Signal:
        match message:
            case Ready():
                return Signal.READY
            case Stats():
                return Signal.STATS
            case Failed():
                return Signal.FAILED
            case Serial():
                return self._serial_signal(message.serial)
            case Unavailable():
                return Signal.UNAVAILABLE
            case DeviceMessage():
                return self._device_signal(message.type)
            case unreachable:
                assert_never(unreachable)

    def _serial_signal(self, serial: int) -> Signal:
        if serial > self.serial:
            raise ProtocolError(f"serial {serial}, though {self.serial} is the newest")
        is_new = serial == self.serial and self.state is State.WAITING
        return Signal.SERIAL if is_new else Signal.OLD_SERIAL

    def _device_signal(self, kind: Type) -> Signal:
        if kind is Type.QUALITY_INDICATOR and not self._may_tell_quality:
            raise ProtocolError("QUALITY_INDICATOR without being asked")
        return {Type.FORMAT: Signal.FORMAT, Type.DATA: Signal.FRAME}.get(kind, Signal.DECORATION)


class DaemonLink:
    """The agent's end of its link: the daemon is trusted to keep the order, not the bytes."""

    def __init__(self) -> None:
        self._buffer = MessageBuffer(check_from_daemon)

    def receive(self, data: Bytes) -> Iterator[ToAgent]:
        """Yield the messages that ``data`` completes. Raises ProtocolError."""
        for header, body in self._buffer.feed(data):
            yield parse_from_daemon(header, body)


_DAEMON_SIGNALS: Final = {
    Config: Signal.CONFIG,
    Activate: Signal.ACTIVATE,
    Credit: Signal.CREDIT,
    Line: Signal.LINE,
    Pause: Signal.PAUSE,
}
