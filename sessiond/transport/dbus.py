"""The one door to the D-Bus library: dbus-fast when installed, else dbus-next.

No other module imports either. What is exported here behaves alike in dbus-next 0.2.3 and in
dbus-fast 1.84, 2.44 and 5; the work-arounds for what those do wrong stand here. Connections are
``sessiond.transport.bus``'s. The environment variable SPICE_SESSIOND_DBUS (``dbus_fast`` or
``dbus_next``) chooses one, for tests.
"""

import asyncio
import contextlib
import importlib
import logging
import os
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

from sessiond.transport.lean import import_without

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    import dbus_fast as _library
    from dbus_fast import (
        BusType,
        DBusError,
        ErrorType,
        Message,
        MessageFlag,
        MessageType,
        NameFlag,
        RequestNameReply,
        Variant,
    )
    from dbus_fast.aio import MessageBus as _MessageBus
else:

    def _load() -> ModuleType:
        # A hash of its own is enough for a cache's key: libcrypto is 4 MB.
        import_without("_hashlib", "hashlib")
        wanted = os.environ.get("SPICE_SESSIOND_DBUS")
        for name in (wanted,) if wanted else ("dbus_fast", "dbus_next"):
            with contextlib.suppress(ModuleNotFoundError):
                # Both take PyGObject along where it is: 3 MB, for a loop that is not ours.
                return import_without("gi", name)
        raise ImportError(f"needs {wanted or 'dbus_fast or dbus_next'}")

    _library = _load()
    _MessageBus = importlib.import_module(f"{_library.__name__}.aio").MessageBus
    BusType = _library.BusType
    DBusError = _library.DBusError
    ErrorType = _library.ErrorType
    Message = _library.Message
    MessageFlag = _library.MessageFlag
    MessageType = _library.MessageType
    NameFlag = _library.NameFlag
    RequestNameReply = _library.RequestNameReply
    Variant = _library.Variant

__all__ = [
    "LIBRARY", "BusType", "DBusError", "ErrorType", "Incoming", "Message", "MessageBus",
    "MessageFlag", "MessageType", "NameFlag", "RequestNameReply", "Variant", "claimable", "unpack",
]  # fmt: skip

log = logging.getLogger(__name__)

LIBRARY: Final[str] = _library.__name__
_LONGEST_AUTH_LINE: Final = 16 << 10  # dbus-daemon's own limit, dbus-auth.c MAX_BUFFER


@dataclass(slots=True)
class Incoming:
    """The descriptors of a message that is being handled.

    Who takes one, takes it out of ``unclaimed``; what nobody took is closed.
    """

    unclaimed: list[int] = field(default_factory=list)


def claimable(message: Message) -> Incoming:
    """Return the message's descriptors, which become close-on-exec."""
    incoming = Incoming(list(message.unix_fds))
    for fd in incoming.unclaimed:
        os.set_inheritable(fd, False)
    return incoming


def unpack(value: Any) -> Any:  # noqa: ANN401 (as the wire has it)
    """Return ``value`` without the library's variants, to any depth; a struct is a list."""
    while isinstance(value, Variant):
        value = value.value
    if isinstance(value, dict):
        return {key: unpack(item) for key, item in value.items()}
    if isinstance(value, list | tuple):  # dbus-fast 5 makes structs tuples, the others lists
        return [unpack(item) for item in value]
    return value


class MessageBus(_MessageBus):
    """The library's connection, with its holes closed. Only ``Bus`` and test peers make one."""

    async def connect(self) -> "MessageBus":
        """Do as the library does; from then on a bus that is slow to read is waited for."""
        await super().connect()
        writer: Any = self._writer
        writer.sock = _PatientSocket(writer.sock)
        return self

    def post(self, msg: Message) -> None:
        """Send ``msg`` whatever it is; a lost connection is told by ``on_end`` alone."""
        self._send_checked(msg)  # type: ignore[unused-awaitable]

    def shut(self) -> None:
        """Close the connection at once; ``disconnect`` leaves that to the peer's hang-up."""
        sock, stream = self._sock, self._stream
        self._user_disconnect = True
        if sock is None:  # dbus-fast 5: never connected, or given up
            return
        if sock.fileno() >= 0:
            self._finalize(None)
        for end in (stream, sock):
            with contextlib.suppress(OSError, ValueError):
                if end is not None:
                    end.close()
        if self._disconnect_future.done():
            _look_at(self._disconnect_future)

    def on_end(self, handler: "Callable[[asyncio.Future[None]], None]") -> None:
        """Call ``handler`` soon after the connection ended, with a future that tells why."""
        self._disconnect_future.add_done_callback(handler)

    def _send_checked(self, msg: Message) -> "asyncio.Future[None]":
        # dbus-fast 1.84 prints a wrong type to stderr, and sends a broken message.
        msg.signature_tree.verify(msg.body)
        msg.body = _fit(msg.body)
        future: asyncio.Future[None] = super().send(msg)
        future.add_done_callback(_look_at)
        return future

    async def _auth_readline(self) -> str:
        # The libraries' own (but dbus-fast 5's) spins for ever when the bus hangs up here.
        line = b""
        loop = asyncio.get_running_loop()
        while not line.endswith(b"\r\n"):
            data = await loop.sock_recv(cast("socket.socket", self._sock), 1024)
            line += data
            if not data or len(line) > _LONGEST_AUTH_LINE:
                raise ConnectionResetError("it hung up during authentication")
        return line[:-2].decode("ascii", "replace")


class _Text(str):
    """A text whose length is that of its bytes: dbus-fast 1.84 sends the number of characters.

    Such a message is a broken one, and the bus hangs up.
    """

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.encode())


def _fit(value: Any) -> Any:  # noqa: ANN401 (of D-Bus)
    """Return what can be sent instead."""
    if isinstance(value, str):
        return value if value.isascii() else _Text(value)
    if isinstance(value, list | tuple):
        return [_fit(it) for it in value]
    if isinstance(value, dict):
        return {_fit(key): _fit(it) for key, it in value.items()}
    if isinstance(value, Variant):
        return Variant(value.signature, _fit(value.value))
    return value


class _PatientSocket:
    """What the libraries write to: a socket that takes nothing where it has no room.

    They write without having been told that there is room (dbus-fast 5 each first message, all of
    them each further one), and take BlockingIOError for the connection's end. With 0 bytes taken
    they wait. Descriptors cannot be sent again: where one is, the error stands.
    """

    def __init__(self, sock: "socket.socket") -> None:
        self._sock = sock
        self.sendmsg = sock.sendmsg

    def send(self, data: memoryview) -> int:
        """Return how many bytes were taken."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0


def _look_at(future: "asyncio.Future[None]") -> None:
    if not future.cancelled():
        future.exception()  # marks it as seen
