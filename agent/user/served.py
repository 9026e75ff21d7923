"""A command of another domain, whose data channel the daemon has handed over.

Everything about it is done by a process of its own, which ``agent.qrexec`` has; we have the other
end of its life line.
"""

import asyncio
import base64
import binascii
import socket
from collections.abc import Mapping
from typing import Any, Final

from agent.qrexec import lifeline
from agent.qrexec.lifeline import Begun, Closed
from agent.qrexec.process import Job
from agent.qrexec.starter import Starter
from agent.user.running import ENDING, OnExit, Running
from sessiond.errors import ChannelError, CommandError, StartError
from sessiond.model import TerminalSize
from sessiond.transport.passing import Passed
from sessiond.wire.exec import MAX_COMMAND, UNKNOWN_EXIT, Exec, JustExec, Place
from sessiond.wire.exec_command import PROBLEM

CHANNEL: Final = 1  # descriptor

_NUMBERS: Final = range(1 << 32)  # of domains and ports


def read_request(arguments: Mapping[str, Any]) -> Exec | JustExec:
    """Return the request that ``serve-command``'s arguments are; their types are checked already.

    Raises CommandError.
    """
    domain, port = arguments["domain"], arguments["port"]
    if domain not in _NUMBERS or port not in _NUMBERS:
        raise CommandError("a domain or a port of no domain's")
    try:
        line = base64.b64decode(arguments["command-line"], validate=True)
    except (ValueError, binascii.Error):
        raise CommandError("the command line is not base64") from None
    if b"\0" in line or len(line) >= MAX_COMMAND:
        raise CommandError("a command line with a NUL, or too long")
    return (JustExec if arguments["detached"] else Exec)(Place(domain, port), line)


def start(request: Exec | JustExec, starter: Starter, channel: Passed) -> socket.socket:
    """Have it started, and return its life line. ``channel`` is closed here. It may block.

    Raises StartError.
    """
    try:
        return starter.start(Job(request, _copy(*channel.fds)))
    except (OSError, ChannelError) as error:
        raise StartError(f"cannot serve it: {error}", PROBLEM) from error
    finally:
        channel.close()


def _copy(fd: int) -> socket.socket:
    """Return a socket that the descriptor is, too. Raises OSError if it is none."""
    same = socket.socket(fileno=fd)
    try:
        return same.dup()
    finally:
        same.detach()


class Served(Running):
    """One that was started; ``begun`` has its pid, or a StartError."""

    def __init__(self, life_line: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._line = life_line
        self._on_exit: OnExit | None = None
        self._code: int | None = None  # once its channel is closed
        self.pid = 0
        self.begun: asyncio.Future[int] = self._loop.create_future()
        self.gone = self._loop.create_future()
        life_line.setblocking(False)
        self._loop.add_reader(life_line, self._hear)

    def watch(self, on_exit: OnExit) -> None:
        """Have ``on_exit`` called when its channel is closed; what it started may run on."""
        self._on_exit = on_exit
        if self._code is not None:
            self._loop.call_soon(self._tell, self._code)

    def signal(self, number: int) -> None:
        """End it, by any signal that ends. Raises CommandError for another one."""
        if number not in ENDING:
            raise CommandError(f"signal {number} is for programs of this domain")
        self.hang_up()

    def resize(self, size: TerminalSize) -> None:  # noqa: ARG002 (there is no terminal to set)
        """Raise CommandError: another domain's command has no terminal of ours."""
        raise CommandError("it has no terminal")

    def hang_up(self) -> None:
        """Have its process end everything, within GRACE."""
        lifeline.cut(self._line, self.pid)

    def close(self) -> None:
        """Let it go: its process ends of that, too."""
        if self.gone.done():
            return
        self._loop.remove_reader(self._line)
        self._line.close()
        self.gone.set_result(None)

    def _hear(self) -> None:
        try:
            word = lifeline.hear(self._line)
        except BlockingIOError:
            return
        match word:
            case Begun(pid):
                self.pid = pid
                self.begun.set_result(pid)
            case Closed(code):
                self._closed(code)
            case None:
                if not self.begun.done():
                    self.begun.set_exception(StartError("it cannot be started", PROBLEM))
                    self.begun.exception()  # nobody has to wait for it
                self._closed(UNKNOWN_EXIT)
                self.close()

    def _closed(self, code: int) -> None:
        if self._code is None:
            self._code = code
            self._tell(code)

    def _tell(self, code: int) -> None:
        if self._on_exit:
            self._on_exit(code, 0)
