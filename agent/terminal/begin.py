"""A new terminal (pty(7)), and a program on it: the leader of the session that it controls."""

import errno
import os
import pwd
import sys
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.terminal.popen import popen
from sessiond.model import TerminalSize
from sessiond.transport.fds import OwnedFd
from sessiond.transport.terminal import set_window_size

if TYPE_CHECKING:
    import subprocess

_LEADER: Final = Path(__file__).with_name("leader.py")
# Whatever the user's environment says, and with every byte of the words as it is.
_PYTHON: Final = ("-I", "-S", "-B", "-X", "utf8")

_MAX_NUMBER: Final = 16  # bytes of an error's number
_IFLAG: Final = 0  # its place in what termios has for a struct termios
_IUTF8: Final = 0o40000  # asm-generic/termbits.h: what is erased is a character, not a byte


@dataclass(frozen=True, slots=True)
class Terminal:
    """Its ``master``, and itself. Both ends are ours to close."""

    master: OwnedFd
    end: OwnedFd


def open_terminal(size: TerminalSize) -> Terminal:
    """Return a new terminal of that size, which belongs to our user. Raises OSError."""
    master, end = map(OwnedFd, os.openpty())
    set_window_size(master.fileno(), size)
    try:
        attributes = termios.tcgetattr(end.fileno())
        attributes[_IFLAG] |= _IUTF8
        termios.tcsetattr(end.fileno(), termios.TCSANOW, attributes)
    except termios.error as error:
        raise OSError(*error.args) from None
    return Terminal(master, end)


@dataclass(frozen=True, slots=True)
class Shell:
    """A user's shell, as a login shell."""

    file: bytes
    words: Sequence[bytes]
    env: Mapping[bytes, bytes]


def login_shell() -> Shell:
    """Return our user's; it may take as long as the user database does."""
    try:
        file = os.fsencode(pwd.getpwuid(os.getuid()).pw_shell)
    except KeyError:
        file = b""
    file = file or b"/bin/sh"  # passwd(5)
    return Shell(file, [b"-" + os.path.basename(file)], {b"SHELL": file})


def begin(
    terminal: Terminal,
    argv: Sequence[bytes],
    env: Mapping[bytes, bytes],
    *,
    file: bytes | None = None,
    cwd: bytes | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a program whose terminal, stdin, stdout and stderr are this one, closed here.

    ``file`` is the program's, by default its first word; without a slash it is looked for in PATH
    of ``env``. May block. Raises OSError, with that word or ``cwd`` as the ``filename`` that it is
    about, and ValueError for words that cannot be a program's.
    """
    report, reporting = map(OwnedFd, os.pipe())
    with terminal.end, report:
        with reporting:
            fd, end = reporting.fileno(), terminal.end.fileno()
            script = [sys.executable, *_PYTHON, str(_LEADER), str(fd)]
            words = [*map(os.fsencode, script), file or argv[0], *argv]
            try:
                process = popen(words, (end, end, end), env, cwd, passed=[fd])
            except OSError as error:
                if error.errno == errno.E2BIG:  # the words, of which it is the script that has them
                    error.filename = argv[0]
                raise
        number = os.read(report.fileno(), _MAX_NUMBER)  # b"": it is executed, or was killed
    if number:
        process.wait()
        raise OSError(int(number), os.strerror(int(number)), argv[0])
    return process
