"""What is installed beside the program says what the program does."""

from __future__ import annotations

import configparser
import re
import subprocess
from typing import Final

import pytest

from sessiond.indicator.__main__ import build_parser
from tests.fixtures.child import ROOT

AUTOSTART: Final = ROOT / "packaging" / "spice-session-indicator.desktop"
PAGE: Final = ROOT / "docs" / "man" / "spice-session-indicator.1"


@pytest.mark.parts
@pytest.mark.lint
def test_autostart_file_is_valid() -> None:
    done = subprocess.run(
        ["desktop-file-validate", AUTOSTART], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_autostart_file_starts_the_program() -> None:
    file = configparser.ConfigParser(interpolation=None)
    file.optionxform = str  # type: ignore[assignment, method-assign]
    file.read(AUTOSTART)
    entry = file["Desktop Entry"]
    command = build_parser().prog
    assert (entry["Exec"], entry["TryExec"], AUTOSTART.stem) == (command, command, command)


@pytest.mark.lint
def test_manual_page_names_every_option() -> None:
    items = re.findall(r"^\.It (Fl .*)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    documented = {flag for line in items for flag in re.findall(r"Fl (-?[\w-]+)", line)}
    options = {o.removeprefix("-") for a in build_parser()._actions for o in a.option_strings}
    assert options == documented


@pytest.mark.parametrize("value", ["-1", "nan", "x", "4000"])
def test_wrong_wait_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        build_parser().parse_args(["--wait", value])
    assert error.value.code == 2
    assert "--wait" in capsys.readouterr().err
