"""Listens to the resizes of a terminal that no session controls. A program, and no module of ours.

    python3 -I -S -B sigwinch.py BINDING TTY PIPE

The kernel tells of a resize by SIGWINCH, and only to the terminal's foreground process group. So
this process leads a session of its own, takes the terminal TTY (a descriptor) for its controlling
one, and writes one line feed to PIPE when it listens, and one for each resize; several at once may
be one. It ends when the last reader of the pipe has gone (exit status 0), and when a pty's master
closes or the device goes, by SIGHUP. Exit status 3: the terminal is another session's.

BINDING is the path of libseccomp's Python binding without its suffix, "" for none. A process that
lives as long as its terminal is to be small: what is imported here is measured (make bench).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import operator
import os
import select
import signal
import sys
import termios

TYPE_CHECKING = False  # as typing has it, whose import alone costs a megabyte
if TYPE_CHECKING:
    from typing import Any, Final, NoReturn

NOT_OURS: Final = 3  # exit status

_LINE: Final = b"\n"
_STDERR: Final = 2
_PTYS: Final = range(136, 144)  # UNIX98_PTY_SLAVE_MAJOR, linux/major.h
# What is typed at the terminal goes to its foreground group, which is us: it must not end us.
_TYPED: Final = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)

ALLOWED: Final = (
    # poll(2) for the pipe's end and for signals; the C library's poll is ppoll where the kernel
    # has no other (arm64, riscv64).
    ("poll",),
    ("ppoll",),
    # A poll that was stopped and goes on (SIGSTOP and SIGCONT, a debugger).
    ("restart_syscall",),
    # What Python's handler has written, in C, into the pipe of its own.
    ("read",),
    # That handler; the line feed; the last words of a bug.
    ("write",),
    # The end of every handler; 32-bit machines have the first.
    ("sigreturn",),
    ("rt_sigreturn",),
    # Memory, now and then, for what is read. No kernel's brk fails with an error: the C library
    # would take it for an address, and crash.
    ("brk",),
    # ... and where that has no room, and for Python's objects: private, of no file, and no code.
    ("mmap", (2, mmap.PROT_READ | mmap.PROT_WRITE), (3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)),
    ("munmap",),
    # SIGHUP is ignored for the very end: who gives a terminal up gets one.
    ("rt_sigaction",),
    # ... by this, and nothing else is asked of a terminal any more.
    ("ioctl", (1, termios.TIOCNOTTY)),
    # The end.
    ("exit_group",),
)
"""What is called after the set-up, as strace(1) shows it over millions of resizes and at every end:
a call, and the values that its arguments must have, by number."""


def confine(binding: Any) -> None:  # noqa: ANN401 (a module that need not be there)
    """Let this process do no more than is ALLOWED; all else fails with EPERM.

    It does not kill: an interpreter that tries what no other did goes on without. Raises OSError
    where the kernel has no filters.
    """
    rules = binding.SyscallFilter(binding.ERRNO(errno.EPERM))
    for name, *values in ALLOWED:
        wanted = [binding.Arg(number, binding.EQ, value) for number, value in values]
        rules.add_rule(binding.ALLOW, name, *wanted)
    rules.load()


def main(binding: str, tty: int, pipe: int) -> NoReturn:
    """Listen to the end."""
    _close_all_but(_STDERR, tty, pipe)
    _reset_signals()
    os.set_blocking(pipe, False)
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    # A handler in C, for one in Python is interrupted by the next signal, and so without end.
    signal.signal(signal.SIGWINCH, operator.is_)
    _take(tty)
    # Held open, a pty's master would never hear that nobody else has it; any other terminal would
    # be taken from us when the last one closes it.
    is_pty = os.major(os.fstat(tty).st_rdev) in _PTYS
    if is_pty:
        os.close(tty)
    if binding:
        _confine_by(binding)
    _listen(woken, pipe)
    if not is_pty:
        # The end of a session hangs its terminal up for everybody, but not where it was given up.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        fcntl.ioctl(tty, termios.TIOCNOTTY)
    os._exit(0)  # without all that an interpreter does at its end


def _close_all_but(*kept: int) -> None:
    last = -1
    for fd in sorted(kept):
        os.closerange(last + 1, fd)
        last = fd
    os.closerange(last + 1, os.sysconf("SC_OPEN_MAX"))


def _reset_signals() -> None:
    """Ignore and block none of those that whoever has started us does, but for what is typed."""
    for number in range(1, signal.NSIG):
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):  # KILL, STOP, and the C library's own
            continue
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # EPIPE is enough
    for number in _TYPED:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _take(tty: int) -> None:
    """Let the terminal be our controlling one, and us its foreground, unless we are already."""
    try:
        is_ours = os.tcgetpgrp(tty) == os.getpgrp()
    except OSError:  # ENOTTY: it is not our controlling one
        is_ours = False
    if is_ours:
        return
    os.setsid()
    try:
        fcntl.ioctl(tty, termios.TIOCSCTTY, 0)  # 0: never steal it
    except PermissionError:
        sys.exit(NOT_OURS)
    except OSError as error:  # it has just gone
        sys.exit(f"the listener to resizes cannot have its terminal: {error.strerror}")


def _confine_by(binding: str) -> None:
    folder, name = os.path.split(binding)
    sys.path.append(folder)
    try:
        confine(__import__(name))
    except (ImportError, OSError, RuntimeError) as error:
        sys.stderr.write(f"the listener to resizes runs without a seccomp filter: {error}\n")


def _listen(woken: int, pipe: int) -> None:
    """Say that we listen, and tell of resizes until nobody is there to hear of them."""
    waiter = select.poll()
    waiter.register(woken, select.POLLIN)
    waiter.register(pipe, 0)  # POLLERR, when the last reader has gone
    has_reader = _tell(pipe)
    while has_reader:
        if any(fd == pipe for fd, _ in waiter.poll()):
            return
        os.read(woken, 4096)
        has_reader = _tell(pipe)


def _tell(pipe: int) -> bool:
    """Write a line feed; return whether somebody may read it."""
    try:
        os.write(pipe, _LINE)
    except BlockingIOError:  # it is full: a line feed waits there anyway
        return True
    except BrokenPipeError:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
