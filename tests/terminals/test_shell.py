"""``shell`` and ``exec --pty`` in a pane of tmux, typed at and read like a person's."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.fixtures.user_agent import ALICE
from tests.terminals.served import SHELL_USER, ctl, on_pty, script, serving, watching

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fixtures.daemon import Stage
    from tests.terminals.tmux import Pane, Tmux

pytestmark = pytest.mark.e2e

STATUS: Final = "echo status $?"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Return what a test leaves as it was."""
    with serving(tmp_path_factory.mktemp("stage"), (ALICE, SHELL_USER)) as (made, _):
        yield made


@pytest.fixture
def pane(tmux: Tmux) -> Pane:
    """Give a pane with a shell, from which our program is begun, and where it was cooked."""
    pane = tmux.pane("/bin/sh", "-i")
    pane.wait(r"^\$$")
    return pane


def modes(pane: Pane, name: str) -> str:
    """Return what the terminal's modes are."""
    pane.type(f"clear; echo {name}$(stty -g)")
    found = pane.wait(f"^{name}[0-9a-f:]+$")
    return next(it for it in found.splitlines() if it.startswith(name)).removeprefix(name)


def begin(pane: Pane, words: list[str]) -> None:
    pane.type(f"clear; {shlex.join(words)}; {STATUS}")


def prompt(pane: Pane) -> None:
    """Wait for a shell, and give it a prompt that no other has."""
    pane.wait(r"[#$]$")
    pane.type("PS1='inner> '; clear")
    pane.wait("^inner>$")


BASH: Final = ("bash", "--norc", "--noprofile", "-i")


@pytest.mark.parametrize("how", ["shell", "exec"])
def test_shell_and_its_jobs(stage: Stage, pane: Pane, how: str) -> None:
    before = modes(pane, "before")
    words = {"shell": ctl(stage, "shell", f"--user={SHELL_USER}"), "exec": on_pty(stage, *BASH)}
    begin(pane, words[how])
    prompt(pane)
    # What says that it is there is in front itself: the shell has given it the terminal.
    pane.type("clear; sh -c 'echo asleep; exec sleep 1000'")
    pane.wait("^asleep$")
    pane.keys("C-c")
    pane.wait(r"^asleep\n\^C\ninner>$")
    pane.type("clear; sh -c 'echo reading; exec cat'")
    pane.wait("^reading$")
    pane.type("first")
    pane.wait("^first\nfirst$")
    pane.keys("C-z")
    pane.wait(r"Stopped +sh -c .*\ninner>$")
    pane.type("clear; jobs; fg")
    pane.wait("^sh -c 'echo reading; exec cat'$")
    pane.type("second")
    pane.wait("^second\nsecond$")
    pane.keys("C-d")
    pane.wait("^inner>$")
    pane.type(r"clear; sleep 1000 &")
    pane.wait(r"\[1\] \d+\ninner>$")
    pane.type("clear; kill %1; wait; exit 9")
    pane.wait("^status 9$")
    assert modes(pane, "after") == before


def test_editor(stage: Stage, pane: Pane) -> None:
    """On the other screen, with keys that are no characters, in a window that changes its size."""
    before = modes(pane, "before")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "notes"
        path.parent.chmod(0o777)
        begin(pane, on_pty(stage, "vim.tiny", "-u", "NONE", "-N", str(path)))
        pane.wait(f'^(~\n){{22}}"{path}" \\[New\\]$')
        pane.keys("i")
        pane.type("one")
        pane.keys("t", "w", "o", "Up", "X", "Escape")
        pane.wait("^oneX\ntwo\n(~\n){21}")
        pane.resize(50, 12)
        pane.wait("^oneX\ntwo\n(~\n){8}~?$")
        pane.resize(80, 24)
        pane.wait("^oneX\ntwo\n(~\n){20}")
        pane.type(":wq")
        screen = pane.wait("^status 0$")
        assert path.read_text() == "oneX\ntwo\n"
    assert "~" not in screen.partition("status 0")[0].split("\n"), "it is the first screen again"
    assert modes(pane, "after") == before


def test_pager(stage: Stage, pane: Pane) -> None:
    begin(pane, script(stage, "seq 1000 | less"))
    pane.wait("^1\n2\n3\n")
    pane.keys("Space")
    pane.wait("^24\n25\n")
    pane.keys("G")
    pane.wait("^999\n1000\n")
    pane.resize(40, 10)
    pane.wait("^985\n986\n:$")
    pane.keys("q")
    pane.wait("^status 0$")


def test_resize_reaches_the_program(stage: Stage, pane: Pane) -> None:
    begin(pane, watching(stage))
    for columns, rows in ((80, 24), (100, 40), (20, 5), (500, 300)):
        pane.resize(columns, rows)
        pane.wait(rf"^size {columns}x{rows}\.$")
    pane.keys("C-c")
    pane.wait("status 0$")


def test_pane_that_is_closed(stage: Stage, tmux: Tmux) -> None:
    """The program is hung up."""
    mark = stage.daemon.now()
    pane = tmux.pane(*script(stage, "echo begun; exec cat"))
    pane.wait("^begun$")
    pane.kill()
    stage.daemon.wait_line(r"run 'sh' .*: killed by signal 1", after=mark)


def test_pane_of_its_own_ends_with_the_program(stage: Stage, tmux: Tmux) -> None:
    pane = tmux.pane(*on_pty(stage, *BASH))
    prompt(pane)
    pane.type("exit")
    pane.wait_gone()
