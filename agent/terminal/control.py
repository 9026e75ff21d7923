"""Which session a terminal controls: without one, no key of its sends a signal (tty(4))."""

import contextlib
import fcntl
import os
import signal
import termios
from collections.abc import Iterable, Iterator

from sessiond.transport.fds import OwnedFd

STDIO = (0, 1, 2)


def first_terminal(fds: Iterable[int]) -> int | None:
    """Return the first of the descriptors that is a terminal's."""
    return next((fd for fd in fds if os.isatty(fd)), None)


def controls_us(fd: int) -> bool:
    """Return whether that terminal controls this process's session."""
    try:
        os.tcgetpgrp(fd)
    except OSError:
        return False
    return True


def own_terminal() -> OwnedFd | None:
    """Return the terminal that controls this session, None without one.

    In the earliest boot there may be no /dev.
    """
    with contextlib.suppress(OSError):
        return OwnedFd(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    found = next((fd for fd in STDIO if controls_us(fd)), None)
    return None if found is None else OwnedFd(os.dup(found))


def is_leader() -> bool:
    """Return whether this process leads its session."""
    return os.getsid(0) == os.getpid()


def give_up(terminal: int) -> None:
    """Let the terminal control no session; for the leader of the one that it controls.

    The kernel sends SIGHUP to who is in its foreground, as if it were gone.
    """
    with _no_hang_up():
        fcntl.ioctl(terminal, termios.TIOCNOTTY)


def take(terminal: int) -> None:
    """Let the terminal control our session, which we lead and which has none.

    Raises PermissionError if it controls another: that is never stolen, though root could.
    """
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)


def lead(terminal: int) -> None:
    """Become the leader of a session that this terminal controls. Raises OSError.

    It is called by who leads no group, whose session is a new one then, or else by who leads a
    session, which gives up its terminal.
    """
    try:
        os.setsid()
    except PermissionError:
        if own := own_terminal():
            with own:
                give_up(own.fileno())
    take(terminal)


@contextlib.contextmanager
def _no_hang_up() -> Iterator[None]:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
