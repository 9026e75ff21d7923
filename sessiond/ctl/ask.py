"""Lets polkit ask for a password on the terminal, where no desktop does it.

polkit's pkttyagent does the asking; it is a fall-back, so that a desktop's own window comes first.
It is started for orders of somebody who is not root and sits at a terminal, as systemctl does.
"""

import contextlib
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

_PROGRAM: Final = "pkttyagent"
_START_LIMIT: Final = 5.0  # seconds until it has told polkit that it is there
_END_LIMIT: Final = 2.0


@contextlib.contextmanager
def password_agent(*, is_wanted: bool) -> Iterator[None]:
    """Have it there meanwhile, if it is wanted, of use and installed."""
    program = shutil.which(_PROGRAM) if is_wanted else None
    if program is None or os.geteuid() == 0 or not sys.stdin.isatty():
        yield
        return
    agent = _start(program)
    try:
        yield
    finally:
        agent.terminate()
        try:
            agent.wait(_END_LIMIT)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()


def _start(program: str) -> "subprocess.Popen[bytes]":
    """Return it running; it closes its end of the pipe when polkit knows of it, or cannot."""
    ready, told = os.pipe()
    try:
        agent = subprocess.Popen(
            [program, "--process", str(os.getpid()), "--notify-fd", str(told), "--fallback"],
            pass_fds=(told,),
        )
        os.close(told)
        told = -1
        select.select([ready], [], [], _START_LIMIT)
    finally:
        for fd in (ready, told):
            if fd >= 0:
                os.close(fd)
    return agent
