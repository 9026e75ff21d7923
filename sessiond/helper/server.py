"""Hears helpers of the older protocol, many at a time, and remembers none of them.

A helper is looked up when it is accepted: that is the earliest, and one that sends, closes and
ends at once has to be found while its process is there. Who may say what about which VT is the
caller's.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence

from sessiond.errors import SessiondError
from sessiond.helper.connection import Connection, Limits
from sessiond.helper.keep import KeptConnection, describe_connections
from sessiond.helper.origin import Origin, origin_of
from sessiond.transport.accept import Acceptor
from sessiond.transport.drops import Drops
from sessiond.transport.fds import OwnedFd
from sessiond.transport.peer import Peer, peer_of
from sessiond.transport.refusals import Refusals
from sessiond.wire.helper import Record, RecordReader

log = logging.getLogger(__name__)

OnRecord = Callable[[Record, Origin], str | None]


class HelperServer:
    """Owns a listening socket and calls ``on_record(record, origin)`` for each helper's word.

    That returns why the record is not taken, "" if it is, and None if that takes time: then
    ``acknowledge`` or ``refuse`` follows. The helper is connected until then, at most for the
    deadline once more, and so, if it is an honest one, alive.
    """

    def __init__(
        self,
        listener: socket.socket,
        on_record: OnRecord,
        *,
        needs_xauthority: bool,
        allow_root: bool,
        limits: Limits | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_record = on_record
        self._needs_xauthority = needs_xauthority
        self._allow_root = allow_root
        self._limits = limits or Limits()
        self._refusals = Refusals("a helper")
        self._drops = Drops()
        self._connections = set[Connection]()
        self._of_uid = Counter[int]()
        self._undecided: dict[Connection, asyncio.TimerHandle] = {}
        self._acceptor = Acceptor(listener, self._drops, self._take, what="helper")
        self._update()

    def adopt(self, kept: Sequence[KeptConnection]) -> None:
        """Hear to the end whom another server has handed over, each within all limits."""
        for it in kept:
            it.sock.setblocking(False)
            self._take(it.sock, it)
        if kept:
            log.info("connections of helpers that were kept: %d", len(self._connections))

    def hand_over(self, *, may_close_slowly: bool) -> dict[str, OwnedFd]:
        """Hear nobody any more, and return those not done, to be stored (``helper.keep``).

        With ``may_close_slowly`` whoever holds them is not stopped where closing one takes long
        (``transport.drops``). Else those with whom it may are let go, as all are by ``close``.
        """
        kept = [
            connection.hand_over()
            for connection in self._connections
            if may_close_slowly or not connection.may_pass_descriptors
        ]
        self.close()
        return describe_connections(kept)

    def close(self) -> None:
        """Hear nobody any more; a second call does nothing."""
        self._acceptor.close()
        for connection in list(self._connections):
            self._release(connection)
        self._refusals.close()

    def acknowledge(self, origin: Origin) -> None:
        """Let the helper go whose record ``on_record`` could not decide on; it is taken now."""
        for connection in [it for it in self._undecided if it.origin is origin]:
            self._release(connection)

    def refuse(self, origin: Origin, reason: str) -> None:
        """Say that a record is not taken after all, and let its helper go."""
        self.acknowledge(origin)
        self._refusals.add(origin.uid, origin.pid, reason)

    def _update(self) -> None:
        """Poll the listener unless there are as many helpers as there may be: others wait."""
        if len(self._connections) >= self._limits.connections:
            self._acceptor.pause()
        else:
            self._acceptor.listen()

    def _take(self, sock: socket.socket, kept: KeptConnection | None = None) -> None:
        peer = peer_of(sock)
        try:
            self._check(peer)
            origin = origin_of(sock)
            if kept:
                kept.check_same(origin)
        except SessiondError as error:
            self._drops.close(sock)
            self._refusals.add(peer.uid, peer.pid, str(error))
            return
        connection = Connection(
            sock,
            origin,
            RecordReader(needs_xauthority=self._needs_xauthority),
            limits=self._limits,
            drops=self._drops,
            on_end=self._on_end,
        )
        self._connections.add(connection)
        self._of_uid[peer.uid] += 1
        self._update()
        if kept and kept.received:
            connection.feed(kept.received)

    def _check(self, peer: Peer) -> None:
        """Raise SessiondError if nothing is to be heard of this one now."""
        if peer.uid == 0 and not self._allow_root:
            raise SessiondError("root's helpers are not heard (helper.allow_root)")
        if len(self._connections) >= self._limits.connections:
            raise SessiondError(f"there are {self._limits.connections} connections already")
        if self._of_uid.get(peer.uid, 0) >= self._limits.per_uid:
            raise SessiondError(f"its user has {self._limits.per_uid} connections already")

    def _on_end(self, connection: Connection, outcome: Record | str) -> None:
        origin = connection.origin
        reason: str | None = "a bug of ours"
        try:
            reason = outcome if isinstance(outcome, str) else self._on_record(outcome, origin)
        finally:
            if reason is not None:
                self._release(connection)
        if reason is None:
            timer = self._loop.call_later(self._limits.deadline, self._release, connection)
            self._undecided[connection] = timer
        elif reason:
            self._refusals.add(origin.uid, origin.pid, reason)

    def _release(self, connection: Connection) -> None:
        if timer := self._undecided.pop(connection, None):
            timer.cancel()
        if connection in self._connections:
            self._connections.remove(connection)
            self._of_uid -= Counter([connection.origin.uid])  # and forgotten at 0
            connection.close()
            self._update()
