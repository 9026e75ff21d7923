"""Text, colour or JSON: what is chosen, and what is loaded for it."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiond.ctl.screen import AUTO, Screen
from sessiond.ctl.view import Cell, Page, Style, Table, clock, moment, safe, size

PAGE = Page({"a": [1, "é\x7f\x9b"]}, Table(((Cell("one", Style.GOOD), Cell("[bold]two")),)))
TERMINAL = {"TERM": "xterm-256color", "COLUMNS": "80"}


def pretend_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """To be called in the test: each of its phases has another stdout."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for name, value in TERMINAL.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "COLORTERM", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def test_a_pipe_gets_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(environ=TERMINAL | {"FORCE_COLOR": "1"}).show(PAGE)
    assert capsys.readouterr().out == "one [bold]two\n"


def test_a_pipe_has_no_edge(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().show(Page(None, Table(((Cell("a"), Cell("b " * 500 + "c")),))))
    assert capsys.readouterr().out == f"a {'b ' * 500}c\n"


def test_a_terminal_gets_colour(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_terminal(monkeypatch)
    Screen(environ=TERMINAL).show(PAGE)
    text = capsys.readouterr().out
    assert "\x1b[32mone\x1b[0m" in text
    assert "[bold]two" in text


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_without_colour(
    environ: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_terminal(monkeypatch)
    Screen(environ=TERMINAL | environ).show(PAGE)
    assert capsys.readouterr().out == "one [bold]two\n"


def test_long_text_is_folded_at_a_terminals_edge(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_terminal(monkeypatch)
    Screen(environ=TERMINAL | {"NO_COLOR": "1"}).show(Page(None, Table(((Cell("b " * 100),),))))
    assert [len(line) for line in capsys.readouterr().out.splitlines()] == [79, 79, 39]


def test_json_is_ascii_and_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Screen("short").show(PAGE)
    text = capsys.readouterr().out
    assert text == '{"a": [1, "\\u00e9\\u007f\\u009b"]}\n'
    assert json.loads(text) == PAGE.document


def test_pretty_json(capsys: pytest.CaptureFixture[str]) -> None:
    Screen("pretty").show(Page({"a": 1}))
    assert capsys.readouterr().out == '{\n  "a": 1\n}\n'


def test_the_short_option_is_short_in_a_pipe() -> None:
    assert Screen(AUTO).mode == "short"


def test_the_short_option_is_pretty_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_terminal(monkeypatch)
    assert Screen(AUTO).mode == "pretty"


@pytest.mark.parametrize(
    ("untrusted", "clean"),
    [
        ("plain, déjà vu, 漢字", "plain, déjà vu, 漢字"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("two\nlines\r\t", r"two\nlines\r\t"),
        ("\x9b\u202e\u2028", r"\x9b\u202e\u2028"),
        ("\ud800\U000e0001", r"\ud800\U000e0001"),
        (7, "7"),
    ],
)
def test_safe(untrusted: object, clean: str) -> None:
    assert safe(untrusted) == clean


@given(st.text())
def test_whatever_was_told_is_one_printable_line(untrusted: str) -> None:
    clean = safe(untrusted)
    assert clean.isprintable()
    assert safe(clean) == clean


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (33_100, "33.1 kB"), (4_200_000, "4.2 MB"),
     (10**18, "1000000.0 TB")],
)  # fmt: skip
def test_size(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.usefixtures("_utc")
def test_times() -> None:
    assert moment(1_790_000_000_250_000) == "2026-09-21 14:13:20"
    assert clock(1_790_000_000_250_000) == "14:13:20.250"
    assert moment((1 << 64) - 1) == f"{(1 << 64) - 1} us"


@pytest.mark.parts
@pytest.mark.parametrize("command", ["status", "list", "history", "show 1"])
def test_json_loads_neither_rich_nor_argcomplete(command: str) -> None:
    """What a script calls often does not wait for what only a person needs."""
    code = (
        "import sys; import sessiond.ctl.commands; from sessiond.ctl.__main__ import main\n"
        "main(['--json=short', '--bus=unix:path=/nowhere', *sys.argv[1:]])\n"
        "sys.exit(str({'rich', 'argcomplete'} & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command.split()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "message bus" in done.stderr
    assert "{" not in done.stderr
