"""``terminal``: the agent's program of that name, and nothing else, is loaded and executed."""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from agent import options as agents
from sessiond.ctl.parser import build_parser, parse
from sessiond.errors import UsageError

pytestmark = pytest.mark.parts

ROOT: Final = Path(__file__).parents[3]
# Without what is installed (-S) there is no D-Bus library to be found.
CODE: Final = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from sessiond.ctl.__main__ import main
sys.exit(main())
"""
TIMEOUT: Final = 20.0


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", CODE, *words],
        capture_output=True, text=True, timeout=TIMEOUT, check=False, cwd="/",
    )  # fmt: skip


def test_it_works_without_the_libraries_that_other_commands_need() -> None:
    name = f"nobody-{os.getpid()}"
    attach = run("terminal", "attach", "--name", name, "--fallback", "--", "sh", "-c", "exit 7")
    assert attach.returncode == 7
    assert attach.stderr == (
        f"spice-sessionctl: nobody offers a terminal as {name!r}; going on here\n"
    )
    assert "needs dbus_fast" in run("status").stderr  # else this had proved nothing


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "the following arguments are required: ACTION"),
        (("watch",), "invalid choice: 'watch'"),
        (("attach",), "the following arguments are required: COMMAND"),
        (("attach", "--wait", "3601", "true"), "not a number of seconds up to 3600"),
        (("attach", "--wait", "nan", "true"), "not a number of seconds up to 3600"),
        (("attach", "--fall", "true"), "unrecognized arguments: --fall"),
        (("serve", "--name", "x" * 108), "not 1 to 107 bytes"),
        (("serve", "--name", ""), "not 1 to 107 bytes"),
    ],
)
def test_wrong_command_line(words: tuple[str, ...], complaint: str) -> None:
    done = run("terminal", *words)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.startswith("usage: spice-sessionctl terminal ")


def test_help_is_in_the_name_of_what_was_called() -> None:
    done = run("terminal", "attach", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: spice-sessionctl terminal attach ")


def test_an_option_before_it_is_an_error_and_not_ignored() -> None:
    with pytest.raises(UsageError, match=r"^terminal: no option may stand before it; see"):
        parse(["--json=short", "terminal", "serve"])


def test_both_programs_have_the_same_options() -> None:
    ours, the_agents = (_terminal(parser) for parser in (build_parser(), agents.build_parser()))
    for action in ("serve", "attach"):
        assert _help(ours, action) == _help(the_agents, action)


def _terminal(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    return _commands(parser)["terminal"]


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    [found] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(found.choices)


def _help(terminal: argparse.ArgumentParser, action: str) -> str:
    text = _commands(terminal)[action].format_help()
    return text.partition("\n\n")[2]  # behind the usage, which has the program's name
