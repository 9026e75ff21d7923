"""The Wayland protocol as a client speaks it: requests to bytes, bytes to events, no I/O.

Wayland 1.21, "Wire Format" and wayland.xml. What is known of the core interfaces stands here, of
the others where they are used: an ``Interface`` is a table of what can be asked and what is told.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sessiond.errors import LocalProtocolError, ProtocolError
from sessiond.wire.buffer import Bytes

MAX_MESSAGE: Final = 4096  # bytes; libwayland sends and takes no more (connection.c)
MAX_OBJECTS: Final = 4096  # a compositor that never lets go of one keeps us from making more
MAX_DESCRIPTORS: Final = 28  # in one sendmsg(2); libwayland has room for no more (MAX_FDS_OUT)

# The object that a message is for; its opcode, and above that its size in bytes.
_HEADER: Final = struct.Struct("=II")
_WORD: Final = struct.Struct("=I")
# How an argument of a fixed size is packed; f is a number of 24.8 bits.
_FIXED: Final = {"i": "i", "u": "I", "f": "i", "o": "I", "n": "I"}

Listener = Callable[..., None]
"""Called with the arguments of an event: whole numbers, float (f), str (s), bytes (a)."""


class Message:
    """A request or an event: its name, and the types of its arguments as wayland.xml has them.

    i, u whole numbers; f fixed; s text; o an object's number, 0 for none; n a new one; a bytes;
    h a descriptor, of which a message has one at most. ``is_last``: the object is gone then.
    """

    def __init__(self, text: str) -> None:
        name, _, self.types = text.partition(" ")
        self.name = name.removesuffix("!")
        self.is_last = name.endswith("!")
        # All at once, where no argument says how long it is.
        self._packed: struct.Struct | None = None
        if not set(self.types) & {"s", "a", "h"}:
            self._packed = struct.Struct("=" + "".join(_FIXED[kind] for kind in self.types))
        self._has_fixed = "f" in self.types

    def pack(self, arguments: Sequence[Any]) -> bytes:
        """Return the arguments as bytes; descriptors are left out."""
        if self._packed:
            return self._packed.pack(*arguments)
        return b"".join(map(_pack, self.types, arguments))

    def parse(self, body: Bytes) -> tuple[Any, ...]:
        """Return the arguments. Raises ProtocolError for a body that is not exactly theirs."""
        if self._packed and not self._has_fixed:
            if len(body) != self._packed.size:
                raise ProtocolError(f"{self.name} with {len(body)} bytes")
            return self._packed.unpack(body)
        reader = _Reader(self.name, bytes(body))
        values = tuple(map(reader.take, self.types))
        reader.finish()
        return values


class Interface:
    """What objects of one kind can be asked, and what they tell: in the order of the opcodes."""

    def __init__(self, name: str, requests: Sequence[str] = (), events: Sequence[str] = ()) -> None:
        self.name = name
        self.requests = {
            message.name: (opcode, message) for opcode, message in enumerate(map(Message, requests))
        }
        self.events = tuple(map(Message, events))


DISPLAY: Final = Interface("wl_display", ("sync n", "get_registry n"), ("error ous", "delete_id u"))
REGISTRY: Final = Interface("wl_registry", ("bind usun",), ("global usu", "global_remove u"))
CALLBACK: Final = Interface("wl_callback", (), ("done! u",))
SHM: Final = Interface("wl_shm", ("create_pool nhi",), ("format u",))
SHM_POOL: Final = Interface("wl_shm_pool", ("create_buffer niiiiu", "destroy!", "resize i"))
BUFFER: Final = Interface("wl_buffer", ("destroy!",), ("release",))
OUTPUT: Final = Interface(
    "wl_output",
    ("release!",),
    ("geometry iiiiissi", "mode uiii", "done", "scale i", "name s", "description s"),
)


class Proxy:
    """The client's end of one object. ``on`` are the listeners of its events by their names.

    An event without a listener is of no interest.
    """

    __slots__ = ("id", "interface", "is_alive", "on")

    def __init__(self, number: int, interface: Interface, on: Mapping[str, Listener]) -> None:
        self.id = number
        self.interface = interface
        self.on = on
        self.is_alive = True  # False: gone for us, but the compositor may not know yet


@dataclass(frozen=True, slots=True)
class Event:
    """What a compositor tells of an object."""

    proxy: Proxy
    message: Message
    arguments: tuple[Any, ...]

    def dispatch(self) -> None:
        """Tell the listener, unless the object is gone meanwhile."""
        listener = self.proxy.on.get(self.message.name)
        if listener and self.proxy.is_alive:
            listener(*self.arguments)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Whole requests, and the descriptors that go with their first byte."""

    data: bytes = field(repr=False)
    fds: tuple[int, ...] = ()


class Client:
    """One connection's objects, from ``display``, which is there from the beginning.

    Bytes that arrive are fed to ``receive``, what is to be sent is fetched by ``take``. After a
    ProtocolError each further ``receive`` raises it again.
    """

    def __init__(self) -> None:
        self.display = Proxy(1, DISPLAY, {"error": self._on_error, "delete_id": self._on_delete})
        self._objects = {1: self.display}
        self._free = list[int]()  # numbers that the compositor has let go of
        self._rest = bytearray()
        self._outgoing = list[Outgoing]()
        self._error: ProtocolError | None = None

    def __len__(self) -> int:
        """Return how many objects there are, with those that the compositor has not let go of."""
        return len(self._objects)

    @property
    def has_outgoing(self) -> bool:
        """Whether ``take`` would return something."""
        return bool(self._outgoing)

    def ask(self, proxy: Proxy, request: str, *arguments: Any) -> None:  # noqa: ANN401
        """Send a request; a descriptor among its arguments is the connection's from now on.

        Raises LocalProtocolError for an object that is gone and for one that does not know it.
        """
        if not proxy.is_alive or request not in proxy.interface.requests:
            raise LocalProtocolError(f"{request} of a {proxy.interface.name}")
        opcode, message = proxy.interface.requests[request]
        if len(arguments) != len(message.types):
            raise LocalProtocolError(f"{request} with {len(arguments)} arguments")
        values = [each.id if isinstance(each, Proxy) else each for each in arguments]
        body = message.pack(values)
        size = _HEADER.size + len(body)
        if size > MAX_MESSAGE:
            raise LocalProtocolError(f"{request} with {size} bytes")
        fds = tuple(value for kind, value in zip(message.types, values, strict=True) if kind == "h")
        self._outgoing.append(Outgoing(_HEADER.pack(proxy.id, size << 16 | opcode) + body, fds))
        if message.is_last:
            proxy.is_alive = False

    def make(
        self,
        parent: Proxy,
        request: str,
        interface: Interface,
        *arguments: Any,  # noqa: ANN401
        on: Mapping[str, Listener] | None = None,
    ) -> Proxy:
        """Send a request that makes an object, which is returned; ``arguments`` are the others.

        Raises as ``ask`` does, and ProtocolError if the compositor keeps too many objects.
        """
        _, message = parent.interface.requests[request]
        place = message.types.index("n")
        proxy = Proxy(self._number(), interface, on or {})
        try:
            self.ask(parent, request, *arguments[:place], proxy, *arguments[place:])
        except LocalProtocolError:
            self._free.append(proxy.id)
            raise
        self._objects[proxy.id] = proxy
        return proxy

    def bind(
        self,
        registry: Proxy,
        name: int,
        interface: Interface,
        version: int,
        on: Mapping[str, Listener] | None = None,
    ) -> Proxy:
        """Return an object for the global ``name``."""
        return self.make(registry, "bind", interface, name, interface.name, version, on=on)

    def take(self) -> list[Outgoing]:
        """Return what is to be sent, in this order; it is forgotten here."""
        outgoing, self._outgoing = self._outgoing, []
        if any(each.fds for each in outgoing):
            return outgoing
        return [Outgoing(b"".join(each.data for each in outgoing))] if outgoing else []

    def receive(self, data: Bytes) -> Iterator[Event]:
        """Yield the events that ``data`` completes; an object that one listener ends tells no more.

        Raises ProtocolError at what is wrong, after the events before it.
        """
        self._rest += data
        while True:
            if self._error:
                raise self._error
            try:
                event = self._next()
            except ProtocolError as error:
                self._error = error
                self._rest.clear()
                raise
            if event is None:
                return
            if event.proxy is self.display:
                self._on_display(event)
            elif event.proxy.is_alive:
                yield event
                if event.message.is_last:
                    event.proxy.is_alive = False

    def _number(self) -> int:
        if self._free:
            return self._free.pop()
        if len(self._objects) >= MAX_OBJECTS:
            raise ProtocolError(f"{MAX_OBJECTS} objects are gone and none is let go of")
        return len(self._objects) + 1  # numbers are let go of one by one: none above is in use

    def _next(self) -> Event | None:
        """Return the next whole event, whatever its object."""
        if len(self._rest) < _HEADER.size:
            return None
        number, word = _HEADER.unpack_from(self._rest)
        size, opcode = word >> 16, word & 0xFFFF
        if not _HEADER.size <= size <= MAX_MESSAGE or size % 4:
            raise ProtocolError(f"an event with {size} bytes")
        proxy = self._objects.get(number)
        if proxy is None:
            raise ProtocolError(f"an event for object {number}, which does not exist")
        if opcode >= len(proxy.interface.events):
            raise ProtocolError(f"event {opcode} of a {proxy.interface.name}")
        if len(self._rest) < size:
            return None
        message = proxy.interface.events[opcode]
        arguments = message.parse(bytes(self._rest[_HEADER.size : size]))
        del self._rest[:size]
        return Event(proxy, message, arguments)

    def _on_display(self, event: Event) -> None:
        try:
            event.dispatch()
        except ProtocolError as error:
            self._error = error
            self._rest.clear()
            raise

    def _on_error(self, number: int, code: int, text: str) -> None:
        proxy = self._objects.get(number)
        name = proxy.interface.name if proxy else f"object {number}"
        raise ProtocolError(f"the compositor refuses what was asked of {name}: {text} ({code})")

    def _on_delete(self, number: int) -> None:
        proxy = self._objects.get(number)
        if proxy is None or proxy.is_alive:
            raise ProtocolError(f"object {number} is let go of, which is not gone")
        del self._objects[number]
        self._free.append(number)


class _Reader:
    """Takes arguments from an event's body, one after the other."""

    def __init__(self, name: str, body: bytes) -> None:
        self._name = name
        self._body = body
        self._begin = 0

    def take(self, kind: str) -> int | float | str | bytes:
        """Return the next argument."""
        match kind:
            case "s":
                return self._text()
            case "a":
                return self._bytes()
            case "h":
                raise ProtocolError(f"{self._name} brings a descriptor")
        word = self._cut(_WORD.size)
        is_signed = kind in "if"
        value = int.from_bytes(word, _ORDER, signed=is_signed)
        return value / 256 if kind == "f" else value

    def finish(self) -> None:
        """Raise ProtocolError if something is left."""
        if self._begin != len(self._body):
            raise ProtocolError(f"{self._name} with {len(self._body)} bytes")

    def _text(self) -> str:
        """Return a text without its NUL; control characters are for no log."""
        data = self._bytes()
        if not data.endswith(b"\0"):
            raise ProtocolError(f"{self._name} with a text that has no end")
        text = data[:-1].decode("utf-8", "replace")
        return "".join(c if c.isprintable() else "?" for c in text)

    def _bytes(self) -> bytes:
        (size,) = _WORD.unpack(self._cut(_WORD.size))
        return self._cut(size + -size % 4)[:size]

    def _cut(self, size: int) -> bytes:
        end = self._begin + size
        if end > len(self._body):
            raise ProtocolError(f"{self._name} with {len(self._body)} bytes")
        piece = self._body[self._begin : end]
        self._begin = end
        return piece


_ORDER: Final = "little" if struct.pack("=H", 1) == b"\1\0" else "big"


def _pack(kind: str, value: Any) -> bytes:  # noqa: ANN401 (of the kind that ``kind`` says)
    match kind:
        case "s" | "a":
            data = value.encode() + b"\0" if kind == "s" else bytes(value)
            return _WORD.pack(len(data)) + data + bytes(-len(data) % 4)
        case "h":
            return b""
        case "f":
            return struct.pack("=i", round(value * 256))
    return struct.pack("=" + _FIXED[kind], value)
