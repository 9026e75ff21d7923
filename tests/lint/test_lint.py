"""The linters are tests: what they complain of fails the suite."""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from agent.options import build_parser
from sessiond import config
from sessiond.ctl import parser as ctl
from sessiond.ctl.outcome import Exit
from sessiond.model import Reason
from tests.lint import example_config
from tests.lint.dbus_reference import PAGE, reference

ROOT: Final = Path(__file__).parents[2]
BIN: Final = Path(sys.executable).parent
PYTHON_ENDINGS: Final = {".py", ".pyi", ".pyc", ".so"}

pytestmark = pytest.mark.lint


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "--quiet", "."],
        ["ruff", "format", "--check", "--quiet", "."],
        ["mypy"],
        ["lint-imports"],
    ],
    ids=" ".join,
)
def test_linter_has_no_complaint(command: list[str]) -> None:
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("directory", ["dbus", "packaging", "systemd"])
def test_data_directory_holds_no_python(directory: str) -> None:
    """A module there would shadow dbus-python or systemd-python for who runs us from here."""
    python = [p for p in (ROOT / directory).rglob("*") if p.suffix in PYTHON_ENDINGS]
    assert (ROOT / directory).is_dir()
    assert python == []


def test_every_pinned_package_is_installed_in_that_version() -> None:
    """What runs here is what constraints.txt says, not what happened to be there."""
    pinned = {
        line.strip().lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("setuptools")
    }
    freeze = subprocess.run(
        [sys.executable, "-m", "pip", "freeze", "--exclude-editable"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert {line.lower().replace("_", "-") for line in freeze.splitlines()} == pinned


def test_shell_scripts_parse() -> None:
    for script in [*ROOT.glob("packaging/*.sh"), *ROOT.glob("tests/**/*.sh"), ROOT / ".ci/run"]:
        subprocess.run(["/bin/sh", "-n", script], check=True)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "man").iterdir()), ids=lambda p: p.name)
def test_manual_page_is_well_formed(page: Path) -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_manual_page_names_every_option() -> None:
    text = (ROOT / "docs" / "man" / "spice-session-agent.1").read_text()
    documented = set(re.findall(r"^\.It (Fl .*)", text, re.MULTILINE))
    documented = {flag for line in documented for flag in re.findall(r"Fl (-?[\w-]+)", line)}
    assert {option.removeprefix("-") for option in _options(build_parser())} == documented


def test_manual_page_of_the_daemon_names_every_key_and_option() -> None:
    text = (ROOT / "docs" / "man" / "spice-sessiond.8").read_text()
    keys = set(re.findall(r"^\.It Cm ([\w.]+) No =", text, re.MULTILINE))
    assert keys == set(config.KEYS)
    flags = {
        f
        for line in re.findall(r"^\.It (Fl .*)", text, re.MULTILINE)
        for f in re.findall(r"Fl (-?[\w-]+)", line)
    }
    assert {o.removeprefix("-") for o in _options(config.build_parser())} == flags


def test_manual_page_of_the_control_program_names_everything() -> None:
    text = (ROOT / "docs" / "man" / "spice-sessionctl.1").read_text()
    flags = {
        flag
        for line in re.findall(r"^\.It (Fl .*)", text, re.MULTILINE)
        for flag in re.findall(r"Fl (-?[\w-]+)", line)
    }
    assert {option.removeprefix("-") for option in _options(ctl.build_parser())} == flags
    [commands] = [a for a in ctl.build_parser()._actions if a.dest == "command"]
    assert set(re.findall(r"^\.It Cm ([\w-]+)", text, re.MULTILINE)) == set(commands.choices or ())
    statuses = re.findall(r"^\.It (\d+)$", text, re.MULTILINE)
    assert [int(status) for status in statuses] == sorted(Exit)


def test_readme_says_what_to_do_about_every_reason() -> None:
    """The table has all states and reasons, in the order of their rank."""
    text = (ROOT / "README.md").read_text().partition("## When there is no picture")[2]
    rows = re.findall(r"^\| (?:`([\w-]+)` )?\| `([\w-]+)` \| \S", text, re.MULTILINE)
    state = ""
    documented = [(state := row[0] or state, row[1]) for row in rows]
    assert documented == [(reason.state, reason) for reason in Reason]


def test_dbus_reference_is_that_of_the_contract() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: make docs"


def test_example_of_the_configuration_is_that_of_the_keys() -> None:
    assert example_config.FILE.read_text(encoding="utf-8") == example_config.example(), (
        "run: make docs"
    )


def test_example_of_the_configuration_says_what_is_so_without_it(tmp_path: Path) -> None:
    """With all its lines in force nothing is otherwise."""
    file = tmp_path / "config.toml"
    file.write_text(re.sub(r"^#(?=[\w.]+ = )", "", example_config.example(), flags=re.MULTILINE))
    loaded = config.load(["--config", str(file)])
    assert loaded.values == {name: key.default for name, key in config.KEYS.items()}
    assert len(config._read(file, required=True)) == len(config.KEYS)


def _options(parser: argparse.ArgumentParser) -> set[str]:
    found: set[str] = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                found |= _options(command)
    return found
