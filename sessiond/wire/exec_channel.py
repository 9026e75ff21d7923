"""What qrexec's control and data channels have in common: the HELLOs, and messages out of bytes.

Each side sends HELLO at once and waits for the peer's; the older version of the two holds. Nothing
else may come before, on either channel.
"""

import abc
import enum
from typing import Final, Generic, TypeVar

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.buffer import Bytes
from sessiond.wire.exec import (
    OLDEST_VERSION,
    VERSION,
    Hello,
    MessageReader,
    Type,
    check_size,
    known_type,
    pack,
    parse_hello,
)

M = TypeVar("M")


class Greeting(enum.Enum):
    """How far the two HELLOs are."""

    NEW = enum.auto()
    GREETED = enum.auto()  # ours is sent
    MET = enum.auto()  # the peer's came
    OPEN = enum.auto()


class Word(enum.Enum):
    """What a message means to the greeting."""

    OWN_HELLO = enum.auto()
    PEER_HELLO = enum.auto()
    OWN_MESSAGE = enum.auto()
    PEER_MESSAGE = enum.auto()


# What is not in the table is forbidden.
GREETINGS: Final[dict[Greeting, dict[Word, Greeting]]] = {
    Greeting.NEW: {Word.OWN_HELLO: Greeting.GREETED, Word.PEER_HELLO: Greeting.MET},
    Greeting.GREETED: {Word.PEER_HELLO: Greeting.OPEN},
    Greeting.MET: {Word.OWN_HELLO: Greeting.OPEN},
    Greeting.OPEN: {Word.OWN_MESSAGE: Greeting.OPEN, Word.PEER_MESSAGE: Greeting.OPEN},
}


class Channel(abc.ABC, Generic[M]):
    """One connection, from either end, without any I/O.

    ``version`` is what both sides speak as soon as ``is_open``. After a ProtocolError the channel
    is dead: what is received next raises the same error.
    """

    def __init__(self) -> None:
        self.greeting = Greeting.NEW
        self.version = VERSION
        self._reader = MessageReader()
        self._error: ProtocolError | None = None

    @property
    def is_open(self) -> bool:
        """Whether both HELLOs are said."""
        return self.greeting is Greeting.OPEN

    @property
    def is_between_messages(self) -> bool:
        """Whether nothing of an unfinished message is held: there a peer may hang up."""
        return self._reader.is_between_messages

    def send_hello(self, hello: Hello | None = None) -> bytes:
        """Return the bytes of our HELLO, whose default says all that we speak.

        Raises LocalProtocolError for a second one, or for a version that is too old.
        """
        hello = hello or Hello()
        after = GREETINGS[self.greeting].get(Word.OWN_HELLO)
        if after is None:
            raise LocalProtocolError(f"HELLO while the greeting is {self.greeting.name}")
        if hello.version < OLDEST_VERSION:
            raise LocalProtocolError(f"version {hello.version} is older than {OLDEST_VERSION}")
        packed = pack(hello)
        self.greeting = after
        self.version = min(self.version, hello.version)
        return packed

    @abc.abstractmethod
    def _check(self, kind: Type, size: int) -> None:
        """Raise ProtocolError for a message that this peer does not send in this version."""

    @abc.abstractmethod
    def _parse(self, kind: Type, body: bytes) -> M:
        """Return the message that passed ``_check``. Raises ProtocolError."""

    def _check_may_send(self, name: str) -> None:
        """Raise LocalProtocolError if a message would come too early."""
        if Word.OWN_MESSAGE not in GREETINGS[self.greeting]:
            raise LocalProtocolError(f"{name} while the greeting is {self.greeting.name}")

    def _feed(self, data: Bytes) -> None:
        if self._error:
            raise self._error
        self._reader.feed(data)

    def _next(self) -> Hello | M | None:
        """Return the next message, None if it is not whole yet. Raises ProtocolError."""
        if self._error:
            raise self._error
        try:
            header = self._reader.next_header()
            return self._take(*header) if header else None
        except ProtocolError as error:
            self._error = error
            self._reader.clear()
            raise

    def _take(self, untrusted_type: int, untrusted_size: int) -> Hello | M | None:
        kind = known_type(untrusted_type)
        word = Word.PEER_HELLO if kind is Type.HELLO else Word.PEER_MESSAGE
        after = GREETINGS[self.greeting].get(word)
        if after is None:
            raise ProtocolError(f"{kind.name} while the greeting is {self.greeting.name}")
        check_size(kind, untrusted_size)
        if word is Word.PEER_MESSAGE:
            self._check(kind, untrusted_size)
        body = self._reader.take_body(untrusted_size)
        if body is None:
            return None
        message = self._met(body) if word is Word.PEER_HELLO else self._parse(kind, body)
        self.greeting = after
        return message

    def _met(self, body: bytes) -> Hello:
        hello = parse_hello(body)
        if hello.version < OLDEST_VERSION:
            raise ProtocolError(f"version {hello.version} is older than {OLDEST_VERSION}")
        self.version = min(self.version, hello.version)
        return hello
