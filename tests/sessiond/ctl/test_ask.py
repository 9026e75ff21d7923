"""The password's asker on a terminal: when it is started, and that it ends."""

import os
import sys
from pathlib import Path

import pytest

from sessiond.ctl.ask import password_agent

FAKE = """\
#!{python}
import os, pathlib, signal, sys
said = pathlib.Path({said!r})
said.write_text(" ".join(sys.argv[1:]) + "\\n")
def end(*_):
    said.write_text(said.read_text() + "ended\\n")
    sys.exit()
signal.signal(signal.SIGTERM, end)
os.close(int(sys.argv[4]))
while True:
    signal.pause()
"""


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where a stand-in for pkttyagent says what it was told."""
    program, said = tmp_path / "pkttyagent", tmp_path / "said"
    program.write_text(FAKE.format(python=sys.executable, said=str(said)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    return said


def at_terminal(monkeypatch: pytest.MonkeyPatch, *, so: bool = True) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: so)


@pytest.mark.parts
def test_it_asks_for_us_and_ends_with_the_order(
    said: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_terminal(monkeypatch)
    with password_agent(is_wanted=True):
        told = said.read_text().split()
        assert told[:2] == ["--process", str(os.getpid())]
        assert told[4:] == ["--fallback"]
    assert said.read_text().splitlines()[-1] == "ended"


def test_it_is_not_started_where_nobody_sits(said: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_terminal(monkeypatch, so=False)
    with password_agent(is_wanted=True):
        assert not said.exists()


def test_it_is_not_started_when_nobody_shall_be_asked(
    said: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_terminal(monkeypatch)
    with password_agent(is_wanted=False):
        assert not said.exists()


def test_root_is_not_asked(said: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_terminal(monkeypatch)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with password_agent(is_wanted=True):
        assert not said.exists()
