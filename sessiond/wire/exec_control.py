"""qrexec's control channel, of an agent or of a daemon, and the word of a caller in the guest.

There is no order but the greeting's: a daemon may ask for anything at any time.
"""

import enum
from collections.abc import Iterator
from typing import Final

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.buffer import Bytes
from sessiond.wire.exec import (
    TRIGGERS,
    Connect,
    Exec,
    Hello,
    JustExec,
    MessageReader,
    OnControl,
    Refuse,
    Trigger,
    Type,
    check_size,
    known_type,
    pack,
    parse_for_agent,
    parse_for_daemon,
    parse_trigger,
)
from sessiond.wire.exec_channel import Channel


class ControlRole(enum.Enum):
    """Who we are on the control channel."""

    AGENT = enum.auto()  # runs commands
    DAEMON = enum.auto()  # asks for them


_TO_AGENT: Final = frozenset({
    Type.EXEC_CMDLINE, Type.JUST_EXEC, Type.SERVICE_CONNECT, Type.SERVICE_REFUSED,
})  # fmt: skip


class Control(Channel[OnControl]):
    """One end of a control channel."""

    def __init__(self, role: ControlRole) -> None:
        super().__init__()
        self.role = role

    def receive(self, data: Bytes) -> Iterator[Hello | OnControl]:
        """Add ``data`` and return the messages that are complete.

        What the caller does not take from the iterator stays for the next call. It raises
        ProtocolError at the message that is wrong, and so does every call after that.
        """
        self._feed(data)
        return self._messages()

    def send(self, message: OnControl) -> bytes:
        """Return the bytes of ``message``.

        Raises LocalProtocolError if it is not ours to send, or not now, or does not fit into the
        peer's version: in version 2 the names are shorter.
        """
        is_from_daemon = isinstance(message, Exec | JustExec | Connect | Refuse)
        name = type(message).__name__
        if is_from_daemon is not (self.role is ControlRole.DAEMON):
            raise LocalProtocolError(f"{name} is not for the role {self.role.name}")
        self._check_may_send(name)
        return pack(message, self.version)

    def _messages(self) -> Iterator[Hello | OnControl]:
        while message := self._next():
            yield message

    def _check(self, kind: Type, size: int) -> None:  # noqa: ARG002 (the same in each version)
        if self.role is ControlRole.AGENT:
            is_expected = kind in _TO_AGENT
        else:
            is_expected = kind in {TRIGGERS[self.version], Type.CONNECTION_TERMINATED}
        if not is_expected:
            raise ProtocolError(f"{kind.name} to the role {self.role.name}, in {self.version}")

    def _parse(self, kind: Type, body: bytes) -> OnControl:
        if self.role is ControlRole.AGENT:
            return parse_for_agent(kind, body)
        return parse_for_daemon(kind, body)


class CallReader:
    """What a client in the guest says to its agent: one call, and nothing more.

    It comes as TRIGGER_SERVICE4 whatever the daemon speaks. The answer has no header: the
    ``pack_place`` of where to serve the data, or a hang-up for a refusal.
    """

    def __init__(self) -> None:
        self._reader = MessageReader()
        self._is_called = False
        self._error: ProtocolError | None = None

    def receive(self, data: Bytes) -> Trigger | None:
        """Return the call as soon as it is whole. Raises ProtocolError, and the same ever after.

        Its ``ident`` means nothing: the agent gives it another one.
        """
        if self._error:
            raise self._error
        try:
            return self._receive(data)
        except ProtocolError as error:
            self._error = error
            self._reader.clear()
            raise

    def _receive(self, data: Bytes) -> Trigger | None:
        if self._is_called and data:
            raise ProtocolError("bytes after a call")
        self._reader.feed(data)
        header = self._reader.next_header()
        if not header:
            return None
        untrusted_type, untrusted_size = header
        kind = known_type(untrusted_type)
        if kind is not Type.TRIGGER_SERVICE4:
            raise ProtocolError(f"{kind.name} instead of a call")
        check_size(kind, untrusted_size)
        body = self._reader.take_body(untrusted_size)
        if body is None:
            return None
        call = parse_trigger(kind, body)  # first: what is wrong with it is said however it is cut
        self._is_called = True
        if not self._reader.is_between_messages:
            raise ProtocolError("bytes after a call")
        return call
