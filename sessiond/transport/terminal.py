"""A terminal that is ours: its window's size, and its raw mode.

How somebody else's terminal is brought to it is in ``terminal_relay``; how its master comes here,
in ``terminal_passing``.
"""

import contextlib
import errno
import os
import termios
from types import TracebackType
from typing import Any, Final, Self

from sessiond.model import TerminalSize

DEFAULT_SIZE: Final = TerminalSize(80, 24)  # as terminfo(5) has it of most terminals
MOST: Final = 0xFFFF
"""Columns, and rows: struct winsize (ioctl_tty(2))."""

_STDIO: Final = (0, 1, 2)

_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6  # the places of these in struct termios
# What cfmakeraw(3) takes away, and puts in place of the bits of a character's size.
_COOKED: Final = {
    _IFLAG: termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP | termios.INLCR
    | termios.IGNCR | termios.ICRNL | termios.IXON,
    _OFLAG: termios.OPOST,
    _CFLAG: termios.CSIZE | termios.PARENB,
    _LFLAG: termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN,
}  # fmt: skip
_RAW: Final = {_CFLAG: termios.CS8}
_DISABLED: Final = b"\0"  # _POSIX_VDISABLE (bits/posix_opt.h): a character that there is none of

_Attributes = list[Any]
"""What termios has for a struct termios: five flags and speeds, and the characters."""


def is_terminal(fd: int) -> bool:
    """Whether that is a terminal, or was one and has gone."""
    try:
        termios.tcgetattr(fd)
    except termios.error as error:
        return bool(error.args[0] == errno.EIO)
    return True


def window_size(fd: int) -> TerminalSize | None:
    """Return the size of a terminal, by its own descriptor or its master's.

    None for what is no terminal, or one that has no size: a serial line has 0 columns.
    """
    try:
        rows, columns = termios.tcgetwinsize(fd)
    except (OSError, termios.error):
        return None
    return TerminalSize(columns, rows) if rows and columns else None


def own_window_size(fds: tuple[int, ...] = _STDIO) -> TerminalSize:
    """Return the size of the first of these that has one, or else DEFAULT_SIZE."""
    return next((size for fd in fds if (size := window_size(fd))), DEFAULT_SIZE)


def set_window_size(fd: int, size: TerminalSize) -> None:
    """Set it, by the terminal's own descriptor or its master's.

    The kernel tells its foreground process group, by SIGWINCH, if that is another size than before.
    Raises OSError for what is no terminal.
    """
    try:
        termios.tcsetwinsize(fd, (size.rows, size.columns))
    except termios.error as error:
        raise OSError(*error.args) from None


def end_of_input(fd: int) -> bytes:
    """Return what is to be typed so that who reads there gets an end (VEOF, termios(3)).

    By the terminal's own descriptor or its master's. b"" where nothing does: where not even what
    interrupts is more than a byte, all are the program's own. Who edits lines by itself, as
    readline(3) does, knows that end, too.
    """
    try:
        attributes: _Attributes = termios.tcgetattr(fd)
    except (OSError, termios.error):
        return b""
    character: bytes = attributes[_CC][termios.VEOF]
    has_keys = attributes[_LFLAG] & (termios.ICANON | termios.ISIG) and character != _DISABLED
    return character if has_keys else b""


class RawMode:
    """Lets every byte that is typed at the terminal ``fd``, which stays the caller's, through.

    It begins with ``enter``, or by entering the context, and ``leave`` puts everything back as it
    was when this object was made; each may be called again and again. A terminal that is gone is
    left alone, and so is one whose foreground is somebody else's by then: it is theirs to set up.
    Raises OSError for what is no terminal.

    ``enter`` stops a process in the background, by SIGTTOU, as everything does that wants to have
    the terminal, until it is brought to the foreground.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        try:
            self._before: _Attributes = termios.tcgetattr(fd)
        except termios.error as error:
            raise OSError(*error.args) from None

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    def enter(self) -> None:
        """Be raw."""
        self._set(_raw(self._before))

    def leave(self) -> None:
        """Be as before."""
        if self._is_ours():
            self._set(self._before)

    def _set(self, attributes: _Attributes) -> None:
        # At once: to wait for what was written is to wait for ever at a terminal that was stopped.
        with contextlib.suppress(termios.error):  # EIO: it has gone, or we are nobody's job
            termios.tcsetattr(self._fd, termios.TCSANOW, attributes)

    def _is_ours(self) -> bool:
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError as error:
            return error.errno == errno.ENOTTY  # not our controlling one: nobody's jobs are there


def _raw(attributes: _Attributes) -> _Attributes:
    """Return these as cfmakeraw(3) makes them, with reads that wait for the first byte."""
    raw = [*attributes]
    for at, flags in _COOKED.items():
        raw[at] = raw[at] & ~flags | _RAW.get(at, 0)
    raw[_CC] = [*raw[_CC]]
    raw[_CC][termios.VMIN], raw[_CC][termios.VTIME] = 1, 0
    return raw
