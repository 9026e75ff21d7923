"""A connection to a message bus, as the rest of the program sees it.

Owns the connection, the calls under way, the subscriptions and who owns which name. Plain types
go in and come out. Answers and signals are handed on one by one **in the order of their arrival**,
on the stack of the reader: so a property that was read can never overwrite a newer one that was
signalled.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from sessiond.errors import BusCallError, BusError
from sessiond.transport.bus_address import usable_address
from sessiond.transport.bus_match import DRIVER, Match, Signal
from sessiond.transport.bus_signals import (
    UNKNOWN,
    Answer,
    OwnerHandler,
    SignalHandler,
    SignalRouter,
)
from sessiond.transport.dbus import (
    Incoming,
    Message,
    MessageBus,
    MessageFlag,
    MessageType,
    claimable,
    unpack,
)
from sessiond.transport.passing import close_aside

log = logging.getLogger(__name__)

CONNECT_LIMIT: Final = 5.0  # seconds
CALL_LIMIT: Final = 25.0  # libdbus's own default
NO_REPLY: Final = "org.freedesktop.DBus.Error.NoReply"
_DRIVER_PATH: Final = "/org/freedesktop/DBus"
_DO_NOT_QUEUE: Final = 4  # D-Bus specification, RequestName
_OWNER: Final = (1, 4)  # primary owner, already owner


@dataclass(frozen=True, slots=True)
class Call:
    """A method call: to whom, what, and with which arguments (structs are lists)."""

    destination: str
    path: str
    interface: str
    member: str
    signature: str = ""
    body: Sequence[Any] = ()


CallHandler = Callable[[Message, Incoming], bool]
"""Takes a method call that it knows, and answers it now or later by ``Bus.reply``."""


@dataclass(slots=True)
class _Pending:
    on_answer: Callable[[Answer], None]
    timer: asyncio.TimerHandle


class Bus:
    """Made by ``connect``; a context manager that closes it."""

    def __init__(self, library: MessageBus) -> None:
        self._library = library
        self._loop = asyncio.get_running_loop()
        self._pending: dict[int, _Pending] = {}
        self._signals = SignalRouter(self._ask_driver, self._end)
        self._serve: CallHandler | None = None
        self._ended = asyncio.Event()
        self._error: Exception | None = None
        library.add_message_handler(self._on_message)
        library.on_end(self._on_end)

    @classmethod
    async def connect(
        cls, address: str = "system", *, limit: float = CONNECT_LIMIT, takes_fds: bool = False
    ) -> Self:
        """Connect within ``limit`` seconds, or raise BusError.

        Without ``takes_fds`` the bus itself keeps descriptors away from us.
        """
        part = usable_address(address)
        library = MessageBus(bus_address=part, negotiate_unix_fd=takes_fds)
        try:
            async with asyncio.timeout(limit):
                await library.connect()
            return cls(library)
        except TimeoutError:
            library.shut()
            raise BusError(f"the message bus at {part} does not answer") from None
        except Exception as error:  # the libraries raise anything
            library.shut()
            raise BusError(f"the message bus at {part} failed: {error!r}") from error
        except BaseException:
            library.shut()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def unique_name(self) -> str:
        """Our own name on the bus."""
        return str(self._library.unique_name)

    async def call(
        self,
        call: Call,
        *,
        limit: float = CALL_LIMIT,
        fds: Sequence[int] = (),
        interactive: bool = False,
    ) -> list[Any]:
        """Return the body of the answer.

        Raises BusCallError for an error that the peer sent, or NoReply after ``limit`` seconds;
        BusError when the connection is or gets lost. ``fds`` stay the caller's. ``interactive``:
        a person may be asked for a password meanwhile, which ``limit`` must leave time for.
        """
        future: asyncio.Future[Answer] = self._loop.create_future()

        def settle(answer: Answer) -> None:
            if not future.done():
                future.set_result(answer)

        self.call_nowait(call, settle, limit=limit, fds=fds, interactive=interactive)
        answer = await future
        if isinstance(answer, Exception):
            raise answer
        return answer

    def call_nowait(
        self,
        call: Call,
        on_answer: Callable[[Answer], None],
        *,
        limit: float = CALL_LIMIT,
        fds: Sequence[int] = (),
        interactive: bool = False,
    ) -> None:
        """Send a call; ``on_answer`` gets the body or the error, in the order of arrival."""
        if self._ended.is_set():
            self._loop.call_soon(on_answer, self._loss())
            return
        flags = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else MessageFlag.NONE
        message = Message(
            flags=flags,
            destination=call.destination,
            path=call.path,
            interface=call.interface,
            member=call.member,
            signature=call.signature,
            body=list(call.body),
            unix_fds=list(fds),
        )
        message.serial = serial = self._library.next_serial()
        timer = self._loop.call_later(limit, self._expire, serial, call.member)
        self._pending[serial] = _Pending(on_answer, timer)
        try:
            self._library.post(message)
        except Exception:
            self._pending.pop(serial).timer.cancel()
            raise

    def subscribe(self, match: Match, handler: SignalHandler) -> None:
        """Call ``handler`` for each signal that fits, from the next call's answer on at latest."""
        self._signals.add(match, handler)

    def unsubscribe(self, match: Match, handler: SignalHandler) -> None:
        """Undo one ``subscribe`` with the same arguments; ValueError without one."""
        self._signals.remove(match, handler)

    def watch_owner(self, name: str, handler: OwnerHandler) -> None:
        """Call ``handler`` with the unique name of who owns ``name``, "" for nobody.

        Once soon, and then at each change, before any signal of the new owner is handed on.
        """
        owner = self._signals.add_owner(name, handler)
        if owner != UNKNOWN:
            self._loop.call_soon(handler, owner)

    def unwatch_owner(self, name: str, handler: OwnerHandler) -> None:
        """Undo one ``watch_owner`` with the same arguments; ValueError without one."""
        self._signals.remove_owner(name, handler)

    async def request_name(self, name: str) -> None:
        """Own ``name`` on the bus, or raise BusError: somebody else has it, or we may not."""
        call = Call(DRIVER, _DRIVER_PATH, DRIVER, "RequestName", "su", [name, _DO_NOT_QUEUE])
        try:
            [result] = await self.call(call)
        except BusCallError as error:
            raise BusError(f"cannot own the name {name}: {error.text}") from error
        if result not in _OWNER:
            raise _taken(name)

    async def check_free(self, name: str) -> None:
        """Raise BusError if somebody owns ``name``: for who is to own it a little later."""
        [is_owned] = await self.call(
            Call(DRIVER, _DRIVER_PATH, DRIVER, "NameHasOwner", "s", [name])
        )
        if is_owned:
            raise _taken(name)

    def serve(self, handler: CallHandler) -> None:
        """Let ``handler`` have every method call first: it returns whether the call is its own.

        What is not, the library answers: that there is no such object.
        """
        self._serve = handler

    def reply(self, message: Message) -> None:
        """Send the answer to a call."""
        if not self._ended.is_set():
            self._library.post(message)

    def emit(
        self, path: str, interface: str, member: str, signature: str, body: Sequence[Any]
    ) -> None:
        """Send a signal to everybody."""
        message = Message.new_signal(path, interface, member, signature, list(body), [])
        if not self._ended.is_set():
            self._library.post(message)

    async def wait_closed(self) -> None:
        """Return once we closed; raise BusError once the connection was lost.

        An exception that left a handler of ours ends the connection, and is raised here as it is.
        """
        await self._ended.wait()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Close; calls under way fail with BusError. A second call does nothing."""
        self._end(None)

    def _on_message(self, message: Message) -> bool:
        incoming = claimable(message)
        try:
            if message.message_type is MessageType.SIGNAL:
                self._signals.route(_signal(message))
            elif message.message_type is not MessageType.METHOD_CALL:
                self._on_answer(message)
            elif self._serve:
                return self._serve(message, incoming)
        except Exception as error:  # noqa: BLE001 (the library would log it and go on)
            self._end(error)
        finally:
            close_aside(incoming.unclaimed)
        return False

    def _on_answer(self, message: Message) -> None:
        pending = self._pending.pop(message.reply_serial or 0, None)
        if pending is None:
            return
        pending.timer.cancel()
        body = unpack(message.body)
        if message.message_type is MessageType.ERROR:
            text = body[0] if body and isinstance(body[0], str) else ""
            pending.on_answer(BusCallError(str(message.error_name), text))
        else:
            pending.on_answer(body)

    def _ask_driver(self, member: str, text: str, on_answer: Callable[[Answer], None]) -> None:
        self.call_nowait(Call(DRIVER, _DRIVER_PATH, DRIVER, member, "s", [text]), on_answer)

    def _expire(self, serial: int, member: str) -> None:
        pending = self._pending.pop(serial)
        pending.on_answer(BusCallError(NO_REPLY, f"no answer to {member} in time"))

    def _on_end(self, future: "asyncio.Future[None]") -> None:
        error = None if future.cancelled() else future.exception()
        reason = f": {error!r}" if error else ""
        self._end(BusError(f"the message bus hung up{reason}"))

    def _end(self, error: Exception | None) -> None:
        if self._ended.is_set():
            return
        self._error = error
        self._ended.set()
        self._library.shut()
        pending, self._pending = self._pending, {}
        for call in pending.values():
            call.timer.cancel()
            self._loop.call_soon(call.on_answer, self._loss())

    def _loss(self) -> BusError:
        return self._error if isinstance(self._error, BusError) else BusError("the bus is closed")


def _taken(name: str) -> BusError:
    return BusError(f"the name {name} is taken: another instance is running")


def _signal(message: Message) -> Signal:
    return Signal(
        sender=message.sender or "",
        path=message.path or "",
        interface=message.interface or "",
        member=message.member or "",
        body=unpack(message.body),
    )
