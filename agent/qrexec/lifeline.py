"""The life line: a pair of sockets that ties the process of a command to who wants the command.

The process says two things on it, when it has begun and when its data channel is closed; its end
says that the process is gone. When the other end is shut, the process is to end.
"""

import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from typing import Final

from sessiond.wire.exec import UNKNOWN_EXIT

_BEGUN: Final = b"begun %d"
_CLOSED: Final = b"closed %d"
_MAX_WORD: Final = 64  # bytes


@dataclass(frozen=True, slots=True)
class Begun:
    """The process exists."""

    pid: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The data channel is closed; ``code`` is what its peer was told as the command's exit code."""

    code: int = UNKNOWN_EXIT


Word = Begun | Closed


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends. Each word is a packet, so that none comes in pieces."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def say(line: socket.socket, word: Word) -> None:
    """Say it; if nobody is there to know, ``Watch`` will tell."""
    text = _BEGUN % word.pid if isinstance(word, Begun) else _CLOSED % word.code
    with contextlib.suppress(OSError):
        line.send(text)


def cut(line: socket.socket, pid: int) -> None:
    """Have the process end, which has this id as far as it has begun; what it said is still heard.

    One that is stopped, as its own command may have done, is made to go on for that.
    """
    with contextlib.suppress(OSError):  # it has gone, which is told next
        line.shutdown(socket.SHUT_WR)
        if pid:
            os.kill(pid, signal.SIGCONT)


def hear(line: socket.socket) -> Word | None:
    """Return what was said, None if the process is gone. Raises BlockingIOError if it is silent."""
    try:
        said = line.recv(_MAX_WORD)
    except ConnectionError:
        said = b""
    if not said:
        return None
    kind, _space, number = said.partition(b" ")
    return Begun(int(number)) if kind == _BEGUN.partition(b" ")[0] else Closed(int(number))
