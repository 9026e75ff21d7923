"""The one door to the D-Bus library: dbus-fast when installed, else dbus-next.

No other module imports either. What is exported here behaves alike in dbus-next 0.2.3 and in
dbus-fast 1.84, 2.44 and 5; the work-arounds for what those do wrong stand here. Connections are
``sessiond.transport.bus``'s. The environment variable SPICE_SESSIOND_DBUS (``dbus_fast`` or
``dbus_next``) chooses one, for tests.
"""

import asyncio
import contextlib
import functools
import importlib
import inspect
import logging
import os
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, cast

from sessiond.errors import SessiondError

if TYPE_CHECKING:
    import socket

    import dbus_fast as _library
    from dbus_fast import (
        BusType,
        DBusError,
        ErrorType,
        Message,
        MessageFlag,
        MessageType,
        NameFlag,
        PropertyAccess,
        RequestNameReply,
        Variant,
    )
    from dbus_fast import service as _service
    from dbus_fast.aio import MessageBus as _MessageBus
    from dbus_fast.service import ServiceInterface
else:

    def _load() -> ModuleType:
        wanted = os.environ.get("SPICE_SESSIOND_DBUS")
        for name in (wanted,) if wanted else ("dbus_fast", "dbus_next"):
            with contextlib.suppress(ModuleNotFoundError), warnings.catch_warnings():
                # Both import PyGObject where there is one; its importer is of an old kind.
                warnings.simplefilter("ignore", ImportWarning)
                return importlib.import_module(name)
        raise ImportError(f"needs {wanted or 'dbus_fast or dbus_next'}")

    _library = _load()
    _service = importlib.import_module(f"{_library.__name__}.service")
    _MessageBus = importlib.import_module(f"{_library.__name__}.aio").MessageBus
    BusType = _library.BusType
    DBusError = _library.DBusError
    ErrorType = _library.ErrorType
    Message = _library.Message
    MessageFlag = _library.MessageFlag
    MessageType = _library.MessageType
    NameFlag = _library.NameFlag
    PropertyAccess = _library.PropertyAccess
    RequestNameReply = _library.RequestNameReply
    Variant = _library.Variant
    ServiceInterface = _service.ServiceInterface

__all__ = [
    "LIBRARY", "BusType", "DBusError", "ErrorType", "Incoming", "Message", "MessageBus",
    "MessageFlag", "MessageType", "NameFlag", "PropertyAccess", "RequestNameReply",
    "ServiceInterface", "Variant", "caller", "dbus_property", "enter", "guard", "method",
    "signal", "unpack",
]  # fmt: skip

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

LIBRARY: Final[str] = _library.__name__
FAILED: Final = "org.spice_space.Sessiond1.Error.Failed"
_LONGEST_AUTH_LINE: Final = 16 << 10  # dbus-daemon's own limit, dbus-auth.c MAX_BUFFER
# The libraries send these with the text of the exception, and most versions with its traceback.
_TELL_TALE: Final = (ErrorType.INTERNAL_ERROR.value, ErrorType.SERVICE_ERROR.value)
_OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"

signal = _service.signal


@dataclass(slots=True)
class Incoming:
    """The message being handled: its sender's unique name, and its descriptors.

    A service method owns the descriptors that are its arguments from its first line on. What no
    method took stays in ``unclaimed`` and is closed.
    """

    sender: str
    unclaimed: list[int] = field(default_factory=list)


_incoming: ContextVar[Incoming | None] = ContextVar("incoming", default=None)


def enter(message: Message) -> Incoming:
    """Make ``message`` the one that ``caller`` tells of; its descriptors become close-on-exec.

    To be called in a message handler: those run first, on the stack on which the service method
    is called or its task is made, so the method sees the context variable.
    """
    incoming = Incoming(message.sender or "", list(message.unix_fds))
    for fd in incoming.unclaimed:
        os.set_inheritable(fd, False)
    _incoming.set(incoming)
    return incoming


def caller() -> str:
    """Return the unique name of who called the service method that runs now."""
    incoming = _incoming.get()
    if incoming is None:
        raise LookupError("no call is being handled")
    return incoming.sender


def guard(function: Callable[P, R]) -> Callable[P, R]:
    """Let only errors meant for the caller leave ``function``: DBusError with names of ours.

    An error of this project is told in its own words, anything else as "internal error".
    Arguments annotated ``h`` are descriptors that this caller sent, each a different one; ``h``
    inside of another type is not supported.
    """
    annotations = [p.annotation for p in inspect.signature(function).parameters.values()]
    places = [place for place, annotation in enumerate(annotations) if annotation == "h"]
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def guarded_coroutine(*args: P.args, **kwargs: P.kwargs) -> object:
            try:
                return await function(*_claim(args, places), **kwargs)
            except Exception as error:  # noqa: BLE001 (the border: nothing else may leave)
                raise _for_caller(error) from None

        return cast("Callable[P, R]", guarded_coroutine)

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*_claim(args, places), **kwargs)
        except Exception as error:  # noqa: BLE001 (the border: nothing else may leave)
            raise _for_caller(error) from None

    return guarded


def method(name: str | None = None) -> Callable[[Callable[P, R]], Callable[P, None]]:
    """Mark a service method, coroutine or not, as the library's decorator does, and guard it."""
    return lambda function: _service.method(name)(guard(function))


def dbus_property(
    access: PropertyAccess = PropertyAccess.READ, name: str | None = None
) -> Callable[[Callable[..., R]], property]:
    """Mark a property, read-only if nothing is said, and guard it (a setter: use ``guard``)."""
    return lambda function: _service.dbus_property(access, name)(guard(function))


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

    def send(self, msg: Message) -> "asyncio.Future[None]":  # type: ignore[override]
        """Send ``msg``, without tracebacks, and without the signals that have a wrong path.

        The libraries send InterfacesAdded and InterfacesRemoved from the object itself instead
        of from the ObjectManager above it: whoever serves one sends them with ``post``.
        """
        if msg.message_type is MessageType.SIGNAL and msg.interface == _OBJECT_MANAGER:
            dropped: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            dropped.set_result(None)
            return dropped
        if msg.message_type is MessageType.ERROR and msg.error_name in _TELL_TALE:
            log.error("a D-Bus method failed; its caller was told of an internal error")
            log.debug("%s", msg.body)
            msg = Message(
                message_type=MessageType.ERROR,
                destination=msg.destination,
                reply_serial=msg.reply_serial,
                error_name=FAILED,
                signature="s",
                body=["internal error"],
                unix_fds=[],
            )
        return self._send_checked(msg)

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


def _claim(args: Any, places: list[int]) -> Any:  # noqa: ANN401 (the method's own types)
    """Return the arguments, the descriptors in ``places`` now the method's own.

    The libraries send a descriptor that is named twice once: it is duplicated. One that was named
    but not sent is None in some versions, and in others **its index in the message**, which
    would be a descriptor of ours: both are refused.
    """
    incoming = _incoming.get()
    if incoming is None or not places:
        return args
    claimed = list(args)
    sent = set(incoming.unclaimed)
    if not sent.issuperset(args[place] for place in places):
        raise DBusError(ErrorType.INVALID_ARGS, "a descriptor was named but not sent")
    for place in places:
        fd = args[place]
        if fd in incoming.unclaimed:
            incoming.unclaimed.remove(fd)
        else:
            claimed[place] = os.dup(fd)
    return tuple(claimed)


def _for_caller(error: Exception) -> DBusError:
    if isinstance(error, DBusError):
        return error
    if isinstance(error, SessiondError):
        return DBusError(FAILED, str(error))
    log.error("a D-Bus method failed: %s", type(error).__name__)
    log.debug("its traceback", exc_info=error)
    return DBusError(FAILED, "internal error")


def _look_at(future: "asyncio.Future[None]") -> None:
    if not future.cancelled():
        future.exception()  # marks it as seen
