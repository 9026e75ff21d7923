"""Terminals in a user's real session: ``shell`` and ``exec --pty``, from a pane of a tmux outside.

Her agent is the one of her user unit, and the terminals are those of the container.
"""

from __future__ import annotations

import itertools
import re
import signal
from typing import TYPE_CHECKING, Final

import pytest

from tests.system.test_commands import alice, entries, hers
from tests.terminals.conftest import tmux

if TYPE_CHECKING:
    from tests.daemon.world import World
    from tests.system.container import Container
    from tests.system.sessions import XSession
    from tests.system.unit import Unit
    from tests.terminals.tmux import Pane, Tmux

__all__ = ["alice", "tmux"]

MARKS: Final = itertools.count()


def begin(container: Container, tmux: Tmux, user: str, *words: str) -> Pane:
    """Let USER begin our program in a pane, and wait for the shell that it starts."""
    pane = tmux.pane(*container.enter_command(user), "spice-sessionctl", *words)
    pane.wait(r"\$$")
    pane.type("PS1='inner> '; clear")
    pane.wait("^inner>$")
    return pane


def answer(pane: Pane, script: str) -> list[str]:
    """Return the lines that a script says in the shell there."""
    mark = f"answer {next(MARKS)}."
    pane.type(f"clear; {script}; echo {mark}")
    return pane.wait(f"^{mark}$").partition(mark)[0].splitlines()


def callers(container: Container, user: str) -> list[int]:
    """Return our program's pids."""
    find = ["pgrep", f"--uid={user}", "--full", "sessiond.ctl"]
    return [int(pid) for pid in container.run(find).stdout.split()]


def test_root_has_a_users_shell(
    container: Container, world: World, unit: Unit, alice: XSession, tmux: Tmux
) -> None:
    pane = begin(container, tmux, "root", "shell", "--user=alice")
    name, home, shell, session, tty, owner = answer(
        pane, 'whoami; pwd; echo $0; echo $XDG_SESSION_ID; tty; stat -c "%U %a" $(tty)'
    )
    assert (name, home, shell, session) == ("alice", "/home/alice", "-bash", alice.id)
    assert re.fullmatch(r"/dev/pts/\d+", tty)
    assert owner == "alice 620"
    # Root's own terminal is nowhere: a shell of hers could type at it.
    assert set(answer(pane, "readlink /proc/$$/fd/*")) == {tty}
    (cgroup,) = answer(pane, "sed -n 's/^0:://p' /proc/$$/cgroup")
    assert cgroup.startswith(hers(world))

    pane.type("clear; echo begun; cat")
    pane.wait("^begun$")
    pane.type("first")
    pane.wait("first\nfirst")
    pane.keys("C-z")
    pane.wait(r"Stopped +cat\ninner>$")
    pane.type("clear; fg")
    pane.wait("^cat$")
    pane.keys("C-c")
    pane.wait(r"\^C\ninner>$")
    pane.resize(100, 30)
    pane.type("clear; until [ \"$(stty size)\" = '30 100' ]; do :; done; echo is that big")
    pane.wait("^is that big$")

    pane.type("exit 9")
    pane.wait_gone()
    unit.wait_line("root -> alice: run 'login shell' .*: exit code 9")
    told = entries(container, unit)[-1]
    assert (told["CALLER"], told["COMMAND_USER"]) == ("root", "alice")


@pytest.mark.parametrize("user", ["alice", "root"])
@pytest.mark.usefixtures("alice")
def test_a_terminal_is_hung_up_with_its_caller(
    container: Container, world: World, tmux: Tmux, user: str
) -> None:
    options = [] if user == "alice" else ["--user=alice"]
    pane = begin(container, tmux, user, "exec", "--pty", *options, "bash")
    (shell,) = answer(pane, "echo $$")
    assert hers(world) in container.read(f"/proc/{shell}/cgroup").decode()
    pane.type("clear; sleep 1000 & echo begun; cat")
    pane.wait("^begun$")
    pane.type("first")
    pane.wait("first\nfirst")
    jobs = container.run(["pgrep", f"--parent={shell}"]).stdout.split()
    assert len(jobs) == 2
    (caller,) = callers(container, user)
    container.run(["kill", f"-{signal.SIGKILL.value}", str(caller)])
    pane.wait_gone()
    for pid in (shell, *jobs):
        world.wait_end(int(pid))
