"""Serves objects on the bus after a contract in XML: calls, properties, signals, introspection.

The D-Bus libraries' own service layers answer without annotations, show tracebacks, send
InterfacesAdded from wrong paths and hide who called. So objects are served here, on messages; what
an object has is what the XML says, and each signature is checked against it before any of our code
runs.
"""

import asyncio
import inspect
import logging
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from sessiond.errors import RequestError, SessiondError
from sessiond.transport.bus import Bus
from sessiond.transport.contract import Interface, Method, Property, document
from sessiond.transport.dbus import Incoming, Message, MessageFlag, Variant, unpack

log = logging.getLogger(__name__)

MOST_CALLS: Final = 1024  # that wait for something, such as a password, at one time
MOST_EACH: Final = 8  # of one connection: it shall not keep out others
FAILED: Final = "org.spice_space.Sessiond1.Error.Failed"
_STANDARD: Final = "org.freedesktop.DBus.Error."
_PROPERTIES: Final = "org.freedesktop.DBus.Properties"
_INTROSPECTABLE: Final = "org.freedesktop.DBus.Introspectable"
_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
_PEER: Final = "org.freedesktop.DBus.Peer"

Spawn = Callable[[Coroutine[Any, Any, None]], object]
"""Runs a coroutine in a task that somebody owns."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the unique name, and whether a person may be asked for a password meanwhile."""

    name: str
    is_interactive: bool = False


class Served(Protocol):
    """What is served at one path.

    For each method of ``interface`` it has a function of that name, coroutine or not, that takes
    the ``Caller`` and the arguments, and returns the result, or a sequence of several. For each
    property that can be written a coroutine ``set_NAME(caller, value)``. Structs are lists.
    """

    interface: str

    def properties(self) -> Mapping[str, Any]:
        """Return the values of all properties, as they are now."""


class ObjectServer:
    """Serves what is added to it under ``root``, which also is the ObjectManager.

    The manager's own objects are those below ``root``. Changes that ``changed`` tells of go out
    once per loop turn.
    """

    def __init__(
        self, bus: Bus, root: str, contract: Mapping[str, Interface], spawn: Spawn
    ) -> None:
        self._bus = bus
        self._root = root
        self._contract = contract
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._objects: dict[str, Served] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._dirty: dict[str, None] = {}
        self._flush: asyncio.Handle | None = None
        self._waiting = Counter[str]()  # by their senders
        bus.serve(self._on_call)

    def add(self, path: str, served: Served) -> None:
        """Serve an object; each method and each writable property must have its function."""
        interface = self._contract[served.interface]
        writable = (f"set_{name}" for name, it in interface.properties.items() if it.is_writable)
        for name in (*interface.methods, *writable):
            if not callable(getattr(served, name, None)):
                raise TypeError(f"{type(served).__name__} lacks {name}")
        self._objects[path] = served
        self._told[path] = dict(served.properties())
        if path != self._root:
            body = [path, {served.interface: self._variants(served)}]
            self._bus.emit(self._root, _MANAGER, "InterfacesAdded", "oa{sa{sv}}", body)

    def remove(self, path: str) -> None:
        """Serve it no more."""
        self._tell()  # what is known of it, while it is there
        served = self._objects.pop(path)
        del self._told[path]
        self._bus.emit(self._root, _MANAGER, "InterfacesRemoved", "oas", [path, [served.interface]])

    def changed(self, path: str) -> None:
        """Signal, soon, those properties of an object that differ from what was told last."""
        self._dirty[path] = None
        if self._flush is None:
            self._flush = self._loop.call_soon(self._tell)

    def emit(self, path: str, member: str, *body: object) -> None:
        """Send a signal of an object; what had changed before is told before."""
        self._tell()
        interface = self._contract[self._objects[path].interface]
        self._bus.emit(path, interface.name, member, interface.signals[member], body)

    def _tell(self) -> None:
        if self._flush:
            self._flush.cancel()
            self._flush = None
        dirty, self._dirty = self._dirty, {}
        for path in dirty:
            served = self._objects.get(path)
            if served is None:
                continue
            now, before = dict(served.properties()), self._told[path]
            self._told[path] = now
            known = self._contract[served.interface].properties
            news = {
                name: Variant(known[name].signature, value)
                for name, value in now.items()
                if known[name].is_told and before[name] != value
            }
            if news:
                body = [served.interface, news, []]
                self._bus.emit(path, _PROPERTIES, "PropertiesChanged", "sa{sv}as", body)

    def _variants(self, served: Served) -> dict[str, Variant]:
        known = self._contract[served.interface].properties
        return {n: Variant(known[n].signature, value) for n, value in served.properties().items()}

    # Calls.

    def _on_call(self, message: Message, incoming: Incoming) -> bool:
        path = message.path or ""
        if not self._is_ours(path):
            return False
        try:
            result = self._dispatch(path, message, incoming)
        except Exception as error:  # noqa: BLE001 (the border: nothing else may leave)
            self._refuse(message, error)
            return True
        if isinstance(result, _Later):
            sender = message.sender or ""
            if self._waiting.total() >= MOST_CALLS or self._waiting[sender] >= MOST_EACH:
                result.coroutine.close()
                self._refuse(message, _standard("LimitsExceeded", "too many calls are waiting"))
                return True
            self._waiting[sender] += 1
            self._spawn(self._answer_later(message, result))
        else:
            self._answer(message, *result)
        return True

    def _is_ours(self, path: str) -> bool:
        """Whether an object is there, or below: paths on the way to them are browsed."""
        if path in self._objects or path.startswith(f"{self._root}/"):
            return True
        return path == "/" or self._root.startswith(f"{path}/")

    def _dispatch(self, path: str, message: Message, incoming: Incoming) -> "_Now | _Later":
        if message.interface == _PEER:
            return _peer(str(message.member))
        if message.interface == _INTROSPECTABLE and message.member == "Introspect":
            return "s", [self._introspect(path)]
        if message.interface == _MANAGER and path == self._root:
            return self._managed(str(message.member))  # a mere path can be the manager too
        served = self._objects.get(path)
        if served is None:
            raise _standard("UnknownObject", f"there is no object {path}")
        if message.interface == _PROPERTIES:
            return self._property(served, message)
        if message.interface not in {None, "", served.interface}:
            raise _standard("UnknownInterface", f"{path} has no interface {message.interface}")
        return self._method(served, message, incoming)

    def _method(self, served: Served, message: Message, incoming: Incoming) -> "_Now | _Later":
        member = str(message.member)
        method = self._contract[served.interface].methods.get(member)
        if method is None:
            raise _standard("UnknownMethod", f"{served.interface} has no method {member}")
        _check_signature(message, method.takes)
        arguments = _arguments(message, method, incoming)
        result = getattr(served, member)(_caller(message), *arguments)
        if inspect.iscoroutine(result):
            return _Later(result, method)
        return method.gives, _body(method, result)

    def _property(self, served: Served, message: Message) -> "_Now | _Later":
        member = str(message.member)
        takes = _OF_PROPERTIES.get(member)
        if takes is None:
            raise _standard("UnknownMethod", f"{_PROPERTIES} has no method {member}")
        _check_signature(message, takes)
        interface, *rest = message.body
        if interface not in {"", served.interface}:
            raise _standard("UnknownInterface", f"there is no interface {interface}")
        if member == "GetAll":
            return "a{sv}", [self._variants(served)]
        name = rest[0]
        known = self._contract[served.interface].properties.get(name)
        if known is None:
            raise _standard("UnknownProperty", f"{served.interface} has no property {name}")
        if member == "Get":
            return "v", [Variant(known.signature, served.properties()[name])]
        return _Later(_setting(served, name, known, message), _NOTHING)

    def _managed(self, member: str) -> "_Now":
        if member != "GetManagedObjects":
            raise _standard("UnknownMethod", f"{_MANAGER} has no method {member}")
        below = ((p, it) for p, it in self._objects.items() if p != self._root)
        return "a{oa{sa{sv}}}", [{p: {it.interface: self._variants(it)} for p, it in below}]

    def _introspect(self, path: str) -> str:
        prefix = "/" if path == "/" else f"{path}/"
        below = [p.removeprefix(prefix) for p in self._objects if p.startswith(prefix)]
        served = self._objects.get(path)
        if not below and served is None:
            raise _standard("UnknownObject", f"there is no object {path}")
        children = sorted({name.split("/")[0] for name in below})
        interface = self._contract[served.interface] if served else None
        return document(interface, children, is_manager=path == self._root)

    async def _answer_later(self, message: Message, later: "_Later") -> None:
        try:
            result = await later.coroutine
            self._answer(message, later.method.gives, _body(later.method, result))
        except Exception as error:  # noqa: BLE001 (the border: nothing else may leave)
            self._refuse(message, error)
        finally:
            self._waiting -= Counter([message.sender or ""])  # and forgotten at 0

    def _answer(self, message: Message, signature: str, body: Sequence[Any]) -> None:
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            try:
                self._bus.reply(Message.new_method_return(message, signature, list(body), []))
            except Exception as error:  # noqa: BLE001 (a value of a wrong type is a bug of ours)
                self._refuse(message, error)

    def _refuse(self, message: Message, error: Exception) -> None:
        name, text = FAILED, "internal error"
        if isinstance(error, RequestError):
            name, text = error.name, str(error)
        elif isinstance(error, SessiondError):
            text = str(error)
        else:
            log.error("a D-Bus method failed: %s", type(error).__name__)
            log.debug("its traceback", exc_info=error)
        log.debug("refused %s of %s: %s", message.member, message.sender, text)
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            # The bus hangs up on who sends a text with a NUL in it, and this may be a stranger's.
            self._bus.reply(Message.new_error(message, name, text.replace("\0", "\ufffd")))


_Now = tuple[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class _Later:
    coroutine: Coroutine[Any, Any, Any]
    method: Method


_OF_PROPERTIES: Final = {"Get": "ss", "GetAll": "s", "Set": "ssv"}
_NOTHING: Final = Method("", "", 0, ())


def _standard(name: str, text: str) -> RequestError:
    return RequestError(f"{_STANDARD}{name}", text)


def _caller(message: Message) -> Caller:
    is_interactive = bool(message.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
    return Caller(message.sender or "", is_interactive)


def _check_signature(message: Message, takes: str) -> None:
    if message.signature != takes:
        text = f"{message.member} takes ({takes}), not ({message.signature})"
        raise _standard("InvalidArgs", text)


def _setting(
    served: Served, name: str, known: Property, message: Message
) -> Coroutine[Any, Any, None]:
    """Return what sets a property, if it can be set and the value is of its type."""
    untrusted = message.body[2]
    if not known.is_writable:
        raise _standard("PropertyReadOnly", f"{name} cannot be set")
    if untrusted.signature != known.signature:
        text = f"{name} is of the type {known.signature}, not {untrusted.signature}"
        raise _standard("InvalidArgs", text)
    result: Coroutine[Any, Any, None] = getattr(served, f"set_{name}")(
        _caller(message), unpack(untrusted)
    )
    return result


def _body(method: Method, result: Any) -> list[Any]:  # noqa: ANN401 (as the contract says)
    if method.results == 0:
        return []
    return [result] if method.results == 1 else list(result)


def _arguments(message: Message, method: Method, incoming: Incoming) -> list[Any]:
    """Return the arguments in plain types; a descriptor is from now on the method's own.

    On the wire a descriptor is its index among those sent, and may be named twice.
    """
    arguments: list[Any] = [unpack(value) for value in message.body]
    indexes = [arguments[place] for place in method.fds]
    if any(not 0 <= index < len(message.unix_fds) for index in indexes):
        raise _standard("InvalidArgs", "a descriptor was named but not sent")
    claimed = list[int]()
    for place in method.fds:
        fd = message.unix_fds[arguments[place]]
        if fd in claimed:
            fd = _dup(fd)
            incoming.unclaimed.append(fd)
        arguments[place] = fd
        claimed.append(fd)
    for fd in claimed:  # last: until it has all of them, the method has none
        incoming.unclaimed.remove(fd)
    return arguments


def _dup(fd: int) -> int:
    try:
        return os.dup(fd)
    except OSError as error:
        raise _standard("LimitsExceeded", f"no descriptor is left: {error.strerror}") from None


def _peer(member: str) -> _Now:
    if member == "Ping":
        return "", []
    if member == "GetMachineId":
        with open("/etc/machine-id", encoding="ascii") as file:
            return "s", [file.read().strip()]
    raise _standard("UnknownMethod", f"{_PEER} has no method {member}")
