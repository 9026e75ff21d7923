"""Who calls a service of another domain from inside: the local socket, and the calls under way.

Every user may connect, so what is said is a stranger's word, and who says it the kernel knows.
Whoever says nothing, or half of it, holds up nobody but themselves.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

from sessiond.errors import ProtocolError, SessiondError
from sessiond.transport.accept import Acceptor
from sessiond.transport.drops import Drops, read_nowait, refuse_descriptors
from sessiond.transport.listening import listen_at
from sessiond.transport.objects import Spawn
from sessiond.transport.peer import Peer, peer_of
from sessiond.transport.refusals import Refusals
from sessiond.users.names import UserNames
from sessiond.wire.exec import Connect, Place, Refuse, Trigger, pack_place
from sessiond.wire.exec_control import CallReader

log = logging.getLogger(__name__)

MAX_CALLERS: Final = 192  # at once, each of which costs a descriptor
MAX_CALLERS_EACH: Final = 64  # of one user
SAID_WITHIN: Final = 10.0  # seconds for a client to say what it calls, and for its user's name
_READ_SIZE: Final = 1 << 16  # bytes; a call has a few hundred
_MODE: Final = 0o666  # every user may connect


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a user, by the kernel's word."""

    user: str
    uid: int


OnCall = Callable[[Caller, Trigger], Awaitable[bool]]


@dataclass(eq=False, slots=True)
class _Client:
    """One connection: until it has called it has a timer, and while the call waits an ident."""

    sock: socket.socket
    peer: Peer
    timer: asyncio.TimerHandle
    reader: CallReader = field(default_factory=CallReader)
    ident: bytes = b""
    place: Place | None = None


class Callers:
    """Serves clients in the guest between ``open`` and ``close``.

    ``on_call(caller, call)`` passes a call on, which has an ident of ours, and returns whether it
    may be; it raises SessiondError for one that cannot be. ``on_end`` is called when who had been
    given a place has gone. ``spawn`` runs a coroutine in a task that somebody owns.
    """

    def __init__(
        self, path: str, on_call: OnCall, on_end: Callable[[Place], None], spawn: Spawn
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._on_call = on_call
        self._on_end = on_end
        self._spawn = spawn
        self._names = UserNames()
        self._drops = Drops()
        self._refusals = Refusals("a call")
        self._acceptor: Acceptor | None = None
        self._clients: dict[socket.socket, _Client] = {}
        self._count = 0

    def open(self) -> None:
        """Listen, or log why that cannot be."""
        try:
            listener = listen_at(self._path, _MODE)
        except SessiondError as error:
            log.error("calls from inside are not heard: %s", error)  # noqa: TRY400 (one line)
            return
        listener.setblocking(False)
        refuse_descriptors(listener)
        self._acceptor = Acceptor(listener, self._drops, self._take, what="call")
        self._acceptor.listen()

    def close(self) -> None:
        """Hang up on everybody, which refuses what they wait for, and listen no more.

        Nobody is told by ``on_end``; a second call does nothing.
        """
        if self._acceptor:
            self._acceptor.close()
            self._acceptor = None
            with contextlib.suppress(OSError):
                os.unlink(self._path)
        for client in list(self._clients.values()):
            self._forget(client)
        self._refusals.close()

    def connect(self, answer: Connect) -> None:
        """Tell who waits under the ident where to serve the data."""
        client = self._find(answer.ident)
        if not client:
            log.info("who called as %r has gone", answer.ident)
            self._on_end(answer.place)
            return
        client.place = answer.place
        try:
            client.sock.send(pack_place(answer.place))  # the first bytes to it: there is room
        except OSError:
            self._drop(client)

    def refuse(self, answer: Refuse) -> None:
        """Tell who waits under the ident that it is refused, by hanging up."""
        if client := self._find(answer.ident):
            self._drop(client)

    def _find(self, ident: bytes) -> _Client | None:
        waiting = (it for it in self._clients.values() if it.ident == ident and not it.place)
        return next(waiting, None) if ident else None

    # A client.

    def _take(self, sock: socket.socket) -> None:
        peer = peer_of(sock)
        same = sum(it.peer.uid == peer.uid for it in self._clients.values())
        if len(self._clients) >= MAX_CALLERS or same >= MAX_CALLERS_EACH:
            self._refusals.add(peer.uid, peer.pid, f"{same} of theirs are under way already")
            self._drops.close(sock)
            return
        timer = self._loop.call_later(SAID_WITHIN, self._give_up, sock)
        self._clients[sock] = _Client(sock, peer, timer)
        self._loop.add_reader(sock, self._hear, self._clients[sock])

    def _give_up(self, sock: socket.socket) -> None:
        self._refuse(self._clients[sock], f"nothing is called within {SAID_WITHIN:g} s")

    def _hear(self, client: _Client) -> None:
        try:
            received = read_nowait(client.sock, _READ_SIZE)
            call = client.reader.receive(received)
        except BlockingIOError:
            return
        except ProtocolError as error:
            self._refuse(client, str(error))
            return
        except OSError:
            received, call = b"", None
        if not received:
            self._drop(client)
        elif call:
            self._spawn(self._ask(client, call))

    async def _ask(self, client: _Client, call: Trigger) -> None:
        try:
            uid = client.peer.uid
            name = await asyncio.shield(self._names.look_up(uid))
            if self._is_gone(client):
                return
            client.timer.cancel()
            self._count += 1
            client.ident = b"SOCKET%d" % self._count
            may = await self._on_call(Caller(name, uid), replace(call, ident=client.ident))
        except SessiondError as error:
            if not self._is_gone(client):
                self._refuse(client, str(error))
        else:
            if not may and not self._is_gone(client):
                self._drop(client)

    def _is_gone(self, client: _Client) -> bool:
        return client.sock not in self._clients

    def _refuse(self, client: _Client, reason: str) -> None:
        self._refusals.add(client.peer.uid, client.peer.pid, reason)
        self._drop(client)

    def _drop(self, client: _Client) -> None:
        self._forget(client)
        if client.place:
            self._on_end(client.place)

    def _forget(self, client: _Client) -> None:
        del self._clients[client.sock]
        client.timer.cancel()
        self._loop.remove_reader(client.sock)
        self._drops.close(client.sock)
