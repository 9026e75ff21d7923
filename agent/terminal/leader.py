"""A script: becomes the program on a terminal, as the leader of the session that it controls.

Between fork(2) and execve(2) of a process with threads nothing of Python's may run, for a lock that
another thread had will never be released; and what may, in subprocess, does not know TIOCSCTTY
(ioctl_tty(2)). So that is done behind an execve(2) of this script, which leads a session already:
its stdin is the terminal. All signals are as in a new login.

Its words are the number of a descriptor, the program's file, and the program's words. There it
writes the error's number if that cannot be executed; it is closed if it is. It needs no more than
the standard library, and none of that but what is imported here.
"""

import fcntl
import os
import signal
import sys
import termios

_ENVIRONMENT = "/proc/self/environ"


def main() -> None:
    """Do that."""
    report = int(sys.argv[1])
    file, *words = map(os.fsencode, sys.argv[2:])
    os.set_inheritable(report, False)
    # What keys send is not to be lost because whoever began us ignores it, as a script's "&" does;
    # and this interpreter ignores some itself.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        os.execvpe(file, words, environment())
    except OSError as error:
        os.write(report, b"%d" % (error.errno or 0))


def environment() -> dict[bytes, bytes]:
    """Return it as it was given to us: the interpreter may have added a locale (PEP 538)."""
    with open(_ENVIRONMENT, "rb") as file:
        variables = file.read().split(b"\0")
    return dict(variable.split(b"=", 1) for variable in variables if b"=" in variable)


if __name__ == "__main__":
    main()
