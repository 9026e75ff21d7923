"""Who calls a service from inside: the local socket, and the calls that are under way.

Anybody in the guest may connect; the daemon decides who may call what. A client that says nothing,
or half of it, holds up nobody.
"""

import contextlib
import logging
import os
import select
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from sessiond.errors import ChannelError, LocalProtocolError, ProtocolError
from sessiond.wire.exec import Connect, Place, Refuse, Trigger, pack_place
from sessiond.wire.exec_control import CallReader

log = logging.getLogger(__name__)

MAX_CALLERS: Final = 250  # at once; a quarter of the descriptors of a process
_READ_SIZE: Final = 1 << 16  # bytes; a call has a few hundred


@dataclass(eq=False, slots=True)
class _Caller:
    """A client: while it talks it has no ident, while it waits no place."""

    sock: socket.socket
    reader: CallReader = field(default_factory=CallReader)
    ident: bytes = b""
    place: Place | None = None


class Callers:
    """Serves the clients in the guest.

    ``on_call`` passes a call on, under an ident of ours; it raises LocalProtocolError for one that
    the daemon cannot be told. ``on_end`` is called when who had been given a place has gone.
    """

    def __init__(
        self, path: Path, on_call: Callable[[Trigger], None], on_end: Callable[[Place], None]
    ) -> None:
        self._path = path
        self._on_call = on_call
        self._on_end = on_end
        self._listener: socket.socket | None = None
        self._callers: dict[int, _Caller] = {}  # by descriptor, the oldest first
        self._count = 0

    def open(self) -> None:
        """Listen, at a socket that everybody may connect to. Raises ChannelError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        mask = os.umask(0)
        try:
            self._path.unlink(missing_ok=True)
            listener.bind(str(self._path))
            listener.listen()
        except OSError as error:
            listener.close()
            raise ChannelError(
                f"cannot listen at {self._path}: {error.strerror or error}"
            ) from error
        finally:
            os.umask(mask)
        self._listener = listener

    def close(self) -> None:
        """Hang up on everybody, which refuses what they wait for, and listen no more."""
        for caller in self._callers.values():
            caller.sock.close()
        self._callers.clear()
        if self._listener:
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):
                self._path.unlink()

    @property
    def wanted(self) -> dict[int, int]:
        """What poll(2) is to tell."""
        listening = [self._listener.fileno()] if self._listener else []
        return dict.fromkeys([*listening, *self._callers], select.POLLIN)

    def attend(self, ready: Mapping[int, int]) -> None:
        """Hear those whose descriptors are ready, and take new ones."""
        for fd in [fd for fd in self._callers if fd in ready]:
            self._hear(self._callers[fd])
        if self._listener and self._listener.fileno() in ready:
            self._accept(self._listener)

    def connect(self, answer: Connect) -> None:
        """Tell who waits under the ident where to serve the data."""
        caller = self._find(answer.ident)
        if not caller:
            log.info("who called as %r has gone", answer.ident)
            self._on_end(answer.place)
            return
        caller.place = answer.place
        with contextlib.suppress(OSError):  # it has gone, which is found out next
            caller.sock.send(pack_place(answer.place))

    def refuse(self, answer: Refuse) -> None:
        """Tell who waits under the ident that it is refused, by hanging up."""
        caller = self._find(answer.ident)
        if caller:
            self._drop(caller)

    def _find(self, ident: bytes) -> _Caller | None:
        """Return who waits under that ident."""
        waiting = (c for c in self._callers.values() if c.ident == ident and not c.place)
        return next(waiting, None) if ident else None

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return  # it has gone again
        sock.setblocking(False)
        if len(self._callers) >= MAX_CALLERS and not self._make_room():
            log.warning("%d clients already", MAX_CALLERS)
            sock.close()
            return
        self._callers[sock.fileno()] = _Caller(sock)

    def _make_room(self) -> bool:
        """Drop who has taken the longest to say what it wants; return whether there is one."""
        talking = next((c for c in self._callers.values() if not c.ident), None)
        if talking:
            self._drop(talking)
        return talking is not None

    def _hear(self, caller: _Caller) -> None:
        try:
            received = caller.sock.recv(_READ_SIZE)
            if received and (call := caller.reader.receive(received)):
                self._count += 1
                caller.ident = b"SOCKET%d" % self._count
                self._on_call(replace(call, ident=caller.ident))
        except BlockingIOError:
            return
        except (OSError, ProtocolError, LocalProtocolError) as error:
            log.info("a client is dropped: %s", error)
            received = b""
        if not received:
            self._drop(caller)

    def _drop(self, caller: _Caller) -> None:
        del self._callers[caller.sock.fileno()]
        caller.sock.close()
        if caller.place:
            self._on_end(caller.place)
