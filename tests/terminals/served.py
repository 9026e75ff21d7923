"""A daemon with users' agents, and programs on terminals in their sessions."""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.fixtures.daemon import Stage
from tests.fixtures.user_agent import ALICE, IS_ROOT, UserAgent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

# Who has a shell that is one: Alice has nologin(8), as users have that nobody logs in as.
SHELL_USER: Final = "root" if IS_ROOT else ALICE

WATCH: Final = """
import os, signal
awaited = {signal.SIGWINCH, signal.SIGINT}
signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
print("size %dx%d." % os.get_terminal_size(0), flush=True)
while signal.sigwait(awaited) != signal.SIGINT:
    print("size %dx%d." % os.get_terminal_size(0), flush=True)
"""


@contextlib.contextmanager
def serving(folder: Path, users: Sequence[str] = (ALICE,)) -> Iterator[tuple[Stage, UserAgent]]:
    """Have a daemon and users' agents; the first of them is the one that is returned."""
    with contextlib.ExitStack() as stack:
        stage = stack.enter_context(Stage(folder / "no-port", ["users.allow_root=true"]))
        stage.daemon.wait_ready()
        agents = []
        for user in dict.fromkeys(users):
            mark = stage.daemon.now()
            home = {"HOME": pwd.getpwnam(user).pw_dir}
            agent = UserAgent(stage.daemon.agent_socket, user, extra=home)
            agents.append(stack.enter_context(agent))
            stage.daemon.wait_line(f"the agent of {user} has connected", after=mark)
        yield stage, agents[0]


def ctl(stage: Stage, *words: str) -> list[str]:
    """Return the words of a program of ours."""
    return [sys.executable, "-m", "sessiond.ctl", f"--bus={stage.bus.address}", *words]


def on_pty(stage: Stage, *words: str, user: str = ALICE, options: Sequence[str] = ()) -> list[str]:
    """Return the words that have a command run on a terminal of its own."""
    return ctl(stage, "exec", "--pty", f"--user={user}", *options, "--", *words)


def script(stage: Stage, text: str, *, user: str = ALICE, options: Sequence[str] = ()) -> list[str]:
    """Return the words that have a shell's script run there."""
    return on_pty(stage, "sh", "-c", text, user=user, options=options)


def watching(stage: Stage) -> list[str]:
    """Return the words for a program that says how big its terminal is, until it is interrupted."""
    return on_pty(stage, "/usr/bin/python3", "-c", WATCH)


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for what nobody tells of."""
    for _ in range(3000):
        if is_so():
            return
        select.select([], [], [], 0.02)
    raise AssertionError("it never is")


def open_files(pid: int) -> list[str]:
    """Return what a process has open."""
    found = []
    for it in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(it))
    return sorted(found)
