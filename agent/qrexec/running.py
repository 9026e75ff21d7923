"""The commands that run: what the daemon is told of their ends."""

import logging
import select
import socket
from collections.abc import Callable, Collection
from typing import Final

from agent.qrexec import lifeline
from agent.qrexec.lifeline import Begun
from agent.qrexec.process import Job, shown
from agent.qrexec.starter import Starter
from agent.qrexec.watch import Deadline
from sessiond.errors import ChannelError
from sessiond.wire.exec import Exec, JustExec, Place

log = logging.getLogger(__name__)

MAX_COMMANDS: Final = 500  # half of the descriptors that a process may have by default
_PATIENCE: Final = 3.0  # seconds; the processes of commands end within two


class Running:
    """Starts commands, and calls ``on_end`` when the data channel of one is closed."""

    def __init__(self, starter: Starter, on_end: Callable[[Place], None]) -> None:
        self._starter = starter
        self._on_end = on_end
        # Each by its life line, with the place while there is somebody to be told.
        self._lines: dict[socket.socket, Place | None] = {}
        self._pids: dict[socket.socket, int] = {}  # of those that have begun

    def start(self, request: Exec | JustExec) -> None:
        """Start a command; if that cannot be now, it has ended. Raises as ``attend`` does."""
        line = self._try_start(request)
        if line is None:
            self._on_end(request.place)
            return
        line.setblocking(False)
        self._lines[line] = request.place

    def _try_start(self, request: Exec | JustExec) -> socket.socket | None:
        if len(self._lines) >= MAX_COMMANDS:
            log.error("%s: %d others run already", shown(request.place), MAX_COMMANDS)
            return None
        try:
            return self._starter.start(Job(request))
        except OSError as error:
            log.error("%s: cannot start a process: %s", shown(request.place), error)  # noqa: TRY400
            return None

    @property
    def wanted(self) -> dict[int, int]:
        """What poll(2) is to tell."""
        fd = self._starter.fileno()
        starter = {} if fd is None else {fd: select.POLLIN}
        return starter | {line.fileno(): select.POLLIN for line in self._lines}

    def attend(self, ready: Collection[int]) -> None:
        """Hear what the processes say whose descriptors are ready.

        Raises ChannelError if nothing can be started any more.
        """
        if self._starter.fileno() in ready:
            raise ChannelError("the fork server has gone")
        self._hear_lines(ready)

    def _hear_lines(self, ready: Collection[int]) -> None:
        for line in [line for line in self._lines if line.fileno() in ready]:
            word = lifeline.hear(line)
            if isinstance(word, Begun):
                self._pids[line] = word.pid
                continue
            place = self._lines[line]
            self._lines[line] = None
            if place:
                self._on_end(place)
            if word is None:
                del self._lines[line]
                self._pids.pop(line, None)
                line.close()

    def forget_places(self) -> None:
        """Tell nobody of the commands that run now: who started them has gone."""
        self._lines = dict.fromkeys(self._lines)

    def end(self) -> None:
        """End them all, and wait for that."""
        for line in self._lines:
            lifeline.cut(line, self._pids.get(line, 0))
        deadline = Deadline(_PATIENCE)
        self.forget_places()
        while self._lines and deadline.left:
            poll = select.poll()
            for line in self._lines:
                poll.register(line, select.POLLIN)
            self._hear_lines([fd for fd, _ in poll.poll(deadline.left * 1000)])
        self._starter.close()
