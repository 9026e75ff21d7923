"""A terminal handed over: a program in a pane whose own command is ``terminal serve``."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.fixtures.child import Child
from tests.fixtures.processes import family
from tests.terminals.tmux import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.terminals.tmux import Pane, Tmux

HERE: Final = Path(__file__).parent
TERMINAL: Final = (sys.executable, "-m", "sessiond.ctl", "terminal")
PYTHON: Final = (sys.executable, "-I", "-S", "-c")
SHELL: Final = ("env", "PS1=$ ", "TERM=screen", "/bin/sh", "-i")
# What a child is before it becomes what is tested: as a script's, a service's, a shell's job.
PLAIN: Final = ()
SERVICE: Final = ("setsid",)
JOB: Final = (
    *PYTHON,
    "import os, sys; os.setpgid(0, 0); os.execvp(sys.argv[1], sys.argv[1:])",
)
TRYING: Final = ("sh", "-c", 'while "$0" "$1"; [ $? = 1 ]; do :; done; exit 4')
WINCH: Final = """
import os, signal
signal.signal(signal.SIGWINCH, lambda *_: None)
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
print("ready", *os.get_terminal_size(), flush=True)
while signal.sigwait([signal.SIGWINCH]):
    print("now", *os.get_terminal_size(), flush=True)
"""
WAITING: Final = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [int(sys.argv[1])])
print("ready", flush=True)
sys.exit(5 if signal.sigwait([int(sys.argv[1])]) else 0)
"""


@pytest.fixture
def name() -> str:
    """Give a name that nobody else offers a terminal by."""
    return f"test-{os.getpid()}-{next(_NUMBERS)}"


_NUMBERS = itertools.count()


@pytest.fixture
def attach(name: str) -> Iterator[Callable[..., Child]]:
    """Give what attaches a command to the terminal of that name."""
    children: list[Child] = []

    def start(*words: str, options: tuple[str, ...] = (), before: tuple[str, ...] = ()) -> Child:
        command = [*before, *TERMINAL, "attach", "--name", name, "--wait", "20", *options, "--"]
        children.append(Child([*command, *words]))
        return children[-1]

    yield start
    for child in children:
        child.close()


@pytest.fixture
def pane(tmux: Tmux, name: str) -> Pane:
    """Give a pane whose own command offers its terminal."""
    return tmux.pane(*TERMINAL, "serve", "--name", name)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give what builds a C program of this folder."""
    folder = tmp_path_factory.mktemp("build")

    def build(program: str) -> Path:
        target = folder / program
        flags = ["-std=gnu17", "-Wall", "-Wextra", "-Werror"]
        subprocess.run(["gcc", *flags, "-o", target, HERE / f"{program}.c"], check=True)
        return target

    return build


@contextlib.contextmanager
def ended(pid: int) -> Iterator[None]:
    """Wait for the end of a process, which is another's child, when the block is left."""
    pidfd = os.pidfd_open(pid)
    try:
        yield
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(PATIENCE * 1000)
    finally:
        os.close(pidfd)


def fds_of(pid: int) -> list[int]:
    """Return the numbers of a process's descriptors."""
    return sorted(map(int, os.listdir(f"/proc/{pid}/fd")))


def own_children() -> list[str]:
    """Return the pids of our children, zombies too."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.mark.parametrize("before", [PLAIN, SERVICE, JOB], ids=["plain", "service", "job"])
def test_a_shell_has_the_terminal_and_its_jobs(
    pane: Pane, attach: Callable[..., Child], before: tuple[str, ...]
) -> None:
    attach(*SHELL, before=before)
    pane.wait(r"^\$$")
    pane.type("tty; stty size; echo $((6 * 7))")
    pane.wait(rf"^{pane.tty}\n24 80\n42\n\$$")
    # Each step waits for the one before: what is typed early is echoed early, and ^C drops it.
    pane.type("sh -c 'echo begun; exec sleep 1000'")
    pane.wait("^begun$")
    pane.keys("C-c")
    pane.wait(r"^\^C\n\$$")
    pane.type("echo status $?")
    pane.wait(r"^status 130$")
    pane.type("echo open; cat")
    pane.wait("^open$")
    pane.type("hello")
    pane.wait(r"^hello\nhello$")
    pane.keys("C-z")
    pane.wait(r"Stopped")
    pane.type("jobs")
    pane.wait(r"^\[1\] \+ Stopped +cat$")
    pane.type("fg")
    pane.wait(r"fg\ncat$")
    pane.type("again")
    pane.wait(r"^again\nagain$")
    pane.keys("C-d")
    pane.wait(r"again\n\$$")
    pane.type("exit")
    pane.wait_gone()


@pytest.mark.parametrize("before", [PLAIN, SERVICE, JOB], ids=["plain", "service", "job"])
def test_the_exit_status_and_its_words_are_the_commands(
    pane: Pane, attach: Callable[..., Child], before: tuple[str, ...]
) -> None:
    child = attach("sh", "-c", "echo here >&2; exit 7", before=before)
    assert child.wait_exit() == 7
    assert child.lines == []
    pane.wait_gone()


@pytest.mark.parametrize("before", [PLAIN, JOB], ids=["plain", "job"])
def test_a_change_of_size_reaches_the_program(
    pane: Pane, attach: Callable[..., Child], before: tuple[str, ...]
) -> None:
    attach(*PYTHON, WINCH, before=before)
    pane.wait(r"^ready 80 24$")
    for columns, rows in ((100, 30), (33, 7), (80, 24)):
        pane.resize(columns, rows)
        pane.wait(rf"^now {columns} {rows}$")
    pane.keys("C-c")
    pane.wait_gone()


def test_vim(pane: Pane, attach: Callable[..., Child], tmp_path: Path) -> None:
    file = tmp_path / "file"
    vim = shutil.which("vim.tiny")
    assert vim, "apt-get install vim-tiny"
    child = attach("env", "TERM=screen", vim, "-u", "NONE", "-N", "--", str(file))
    pane.wait(r"\[New\]")
    pane.tmux.wait_until(lambda: pane.screen().count("\n~") == 22, pane.screen)
    pane.keys("i")
    pane.type("one")
    pane.keys("t", "w", "o", "Escape")
    pane.wait(r"^one\ntwo\n~$")
    pane.resize(60, 12)
    pane.tmux.wait_until(lambda: pane.screen().count("\n~") == 9, pane.screen)
    pane.type(":wq")
    assert child.wait_exit() == 0
    pane.wait_gone()
    assert file.read_text() == "one\ntwo\n"


def test_less(pane: Pane, attach: Callable[..., Child], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("".join(f"line {number}\n" for number in range(1, 1001)))
    child = attach("env", "TERM=screen", "LESS=", "less", "--", str(file))
    assert pane.wait(r"^line 23$").startswith("line 1\n")
    pane.keys("G")
    pane.wait(r"^line 1000$")
    pane.resize(60, 6)
    pane.tmux.wait_until(
        lambda: re.fullmatch(r"(line \d+\n){5}:", pane.screen()) is not None, pane.screen
    )
    pane.keys("q")
    assert child.wait_exit() == 0
    pane.wait_gone()


@pytest.mark.parametrize(("before", "status"), [(PLAIN, -signal.SIGHUP), (JOB, 129)])
def test_the_program_ends_with_the_pane(
    pane: Pane, attach: Callable[..., Child], before: tuple[str, ...], status: int
) -> None:
    child = attach("sh", "-c", "echo ready; exec sleep 1000", before=before)
    pane.wait("^ready$")
    with ended(pane.pid):
        pane.kill()
        assert child.wait_exit() == status


def test_a_pane_may_stay_until_it_is_closed(
    tmux: Tmux, name: str, attach: Callable[..., Child]
) -> None:
    pane = tmux.pane(*TERMINAL, "serve", "--stay", "--name", name)
    child = attach("echo", "last words")
    assert child.wait_exit() == 0
    pane.wait("^last words$")
    assert pane.exists()
    with ended(pane.pid):
        pane.kill()


def test_the_pane_is_closed_while_it_is_offered(pane: Pane) -> None:
    pane.wait("is offered as")
    with ended(pane.pid):
        pane.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_signals_reach_the_command_of_a_job(
    pane: Pane, attach: Callable[..., Child], number: signal.Signals
) -> None:
    child = attach(*PYTHON, WAITING, str(number.value), before=JOB)
    pane.wait("^ready$")
    child.signal(number)
    assert child.wait_exit() == 5


def test_as_the_job_of_a_shell_it_says_that_keys_do_not_reach_the_program(
    tmux: Tmux, name: str, attach: Callable[..., Child]
) -> None:
    pane = tmux.pane(*SHELL)
    pane.wait(r"^\$$")
    pane.type(" ".join((*TERMINAL, "serve", "--name", name)))
    pane.wait(r"\^C and \^Z will not\s+reach the program")
    child = attach("sh", "-c", "echo ready; read line; echo got $line; exit 3")
    child.wait_line(r"will not reach the command: another session has the terminal")
    pane.wait("^ready$")
    pane.keys("C-c", "C-\\", "C-z")  # else the shell would be at its prompt again, and read, too
    pane.type("hello")
    pane.wait(r"got hello\n\$$")
    assert child.wait_exit() == 3
    pane.type("echo $((6 * 7))")
    pane.wait("^42$")


def test_nothing_stays_open_and_nobody_stays_behind(
    tmux: Tmux, name: str, attach: Callable[..., Child]
) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    children = own_children()
    for way in (PLAIN, JOB):
        pane = tmux.pane(*TERMINAL, "serve", "--name", name)
        child = attach("sh", "-c", "ls -l /proc/self/fd; echo ready; read line", before=way)
        screen = pane.wait("^ready$")
        # The program has its three, and ls the folder that it lists.
        assert re.findall(r"(\d) -> (\S+)", screen)[:3] == [(str(n), pane.tty) for n in range(3)]
        assert len(re.findall("->", screen)) == 4
        server = [os.readlink(f"/proc/{pane.pid}/fd/{fd}") for fd in fds_of(pane.pid)]
        # The terminal once, to see its end; and the client's process.
        assert sorted(server) == sorted([pane.tty, "anon_inode:[pidfd]"])
        if way is JOB:
            assert not [fd for fd in fds_of(child.pid) if fd > 2]
        assert family(pane.pid) == [pane.pid]
        with ended(pane.pid):
            pane.type("")
            assert child.wait_exit() == 0
        child.close()
    assert own_children() == children
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_ours_attaches_to_the_c_server(
    tmux: Tmux, name: str, attach: Callable[..., Child], build: Callable[[str], Path]
) -> None:
    pane = tmux.pane(build("terminal-server"), name)
    child = attach("sh", "-c", "tty; read line; echo got $line; read line")
    child.wait_line("will not reach the command: another session has the terminal")
    pane.wait(rf"^{pane.tty}$")
    pane.type("hello")
    pane.wait("^got hello$")
    pane.type("")
    assert child.wait_exit() == 0
    pane.wait_gone()  # of which the server keeps nothing open


def test_the_c_client_attaches_to_ours(pane: Pane, name: str, build: Callable[[str], Path]) -> None:
    with Child([*TRYING, build("terminal-client"), name]) as child:
        pane.wait(r"^[#$]$")
        pane.type("tty; echo $((6 * 7))")
        pane.wait(rf"^{pane.tty}\n42$")
        pane.type("exit 4")
        assert child.wait_exit() == 4
    pane.wait_gone()


def test_the_c_pair_itself(tmux: Tmux, name: str, build: Callable[[str], Path]) -> None:
    """Else the two tests before could pass with what understands only us."""
    pane = tmux.pane(build("terminal-server"), name)
    with Child([*TRYING, build("terminal-client"), name]) as child:
        pane.wait(r"^[#$]$")
        pane.type("tty")
        pane.wait(rf"^{pane.tty}$")
        pane.type("exit 4")
        assert child.wait_exit() == 4
