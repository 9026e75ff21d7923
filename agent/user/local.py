"""Where this user's own programs ask the host: a socket of the agent's, for ``call``.

A connection is the user's own, by SO_PEERCRED, or it is closed; each may have one call under way.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from agent.user.lines import Lines
from sessiond.errors import CommandError
from sessiond.transport.listening import listen_at
from sessiond.transport.peer import peer_of
from sessiond.wire import rpc

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 8  # as many as the daemon lets an agent have calls pending
MAX_LINE: Final = 2 << 20  # bytes; more than may be asked, so that who asks too much is told

Ask = Callable[[str, Mapping[str, Any]], "asyncio.Future[object]"]


class LocalServer:
    """Listens at ``path``, whose folder is this user's; ``ask`` asks the host.

    Raises SessiondError.
    """

    def __init__(self, path: Path, ask: Ask) -> None:
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._ask = ask
        self._clients = set[_Client]()
        self._sock = listen_at(str(path), 0o600)
        self._sock.setblocking(False)
        self._loop.add_reader(self._sock, self._accept)

    def close(self) -> None:
        """Hang up on all, and take the socket away."""
        self._loop.remove_reader(self._sock)
        self._sock.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
        for client in self._clients.copy():
            client.close()

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        uid = peer_of(sock).uid
        if uid != os.geteuid() or len(self._clients) >= MAX_CONNECTIONS:
            log.warning("a program of uid %d is not served: %d are", uid, len(self._clients))
            sock.close()
            return
        sock.setblocking(False)
        self._clients.add(_Client(sock, self._ask, self._clients.discard))


class _Client:
    def __init__(self, sock: socket.socket, ask: Ask, on_end: "Callable[[_Client], None]") -> None:
        self._ask = ask
        self._on_end = on_end
        self._is_asking = False
        self._lines = Lines(sock, self._take, lambda _: on_end(self), MAX_LINE)

    def close(self) -> None:
        self._lines.close()
        self._on_end(self)

    def _take(self, message: rpc.Message) -> None:
        if not isinstance(message, rpc.Call) or self._is_asking:
            self.close()
            return
        try:
            future = self._ask(message.command, message.arguments)
        except CommandError as error:
            self._lines.send(rpc.Result(message.id, error=error))
            return
        self._is_asking = True
        future.add_done_callback(partial(self._answer, message.id))

    def _answer(self, number: int, future: "asyncio.Future[object]") -> None:
        self._is_asking = False
        error = future.exception()
        if isinstance(error, CommandError):
            self._lines.send(rpc.Result(number, error=error))
        else:
            self._lines.send(rpc.Result(number, future.result()))
