"""The command line: what is understood, what is refused, and how."""

import argparse

import pytest

from sessiond import __version__
from sessiond.ctl.__main__ import main
from sessiond.ctl.commands import ORDERS, READERS
from sessiond.ctl.outcome import Exit
from sessiond.ctl.parser import build_parser, parse
from sessiond.errors import UsageError


def test_defaults() -> None:
    assert vars(parse([])) == {
        "command": "status", "bus": "system", "name": "org.spice_space.Sessiond1", "json": "off",
        "no_ask_password": False,
    }  # fmt: skip


@pytest.mark.parametrize("argv", [["--json=short", "list"], ["list", "--json=short"],
                                  ["list", "--json", "short"]])  # fmt: skip
def test_common_options_stand_on_either_side(argv: list[str]) -> None:
    options = parse(["--bus=unix:path=/a", *argv, "--no-ask-password"])
    assert (options.bus, options.json, options.command) == ("unix:path=/a", "short", "list")
    assert options.no_ask_password


def test_the_one_behind_the_command_wins() -> None:
    assert parse(["--json=short", "list", "--json=pretty"]).json == "pretty"


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("fly", "invalid choice"),
        ("--json=yes status", "--json"),
        ("--js=short status", "--js"),
        ("show", "SESSION"),
        ("activate 1 2", "2"),
        ("switch 0", "'0' is not a number from 1 to 63"),
        ("switch 64", "'64'"),
        ("switch ²", "'²'"),
        ("history -n x", "'x'"),
        ("history -n 4294967296", "4294967296"),
        ("set-auto-switch on", "on-session-end"),
        ("completion tcsh", "tcsh"),
        ("pause 1", "1"),
        ("displays alice :0", ":0"),
        ("screens", "DISPLAY"),
        ("screens a b c", "c"),
        ("connect-display --show", "DISPLAY"),
        ("exec", "exec: a COMMAND is needed, or else --service"),
        ("exec --", "exec: a COMMAND is needed, or else --service"),
        ("exec --service x -- y", "exec: a COMMAND is needed, or else --service"),
        ("exec --user a --session 1 x", "--session"),
        ("exec --env A x", "'A' is not NAME=VALUE"),
        ("exec --env =A x", "'=A' is not NAME=VALUE"),
        ("exec --cwd a x", "'a' is no absolute path"),
        ("exec --pty", "exec: a COMMAND is needed, or else --service"),
        ("exec --pty --service x", "exec: a service has no terminal"),
        ("shell id", "id"),
        ("shell --pty", "--pty"),
        ("shell --user a --session 1", "--session"),
    ],
)
def test_wrong_usage_is_one_line(line: str, wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == Exit.USAGE
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("spice-sessionctl: ")
    assert wrong in said
    assert "--help" in said


def test_a_wrong_argument_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["\x1b[31m"]) == Exit.USAGE
    assert "\x1b" not in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"spice-sessionctl {__version__}\n"


@pytest.mark.parametrize(
    ("line", "user", "display"),
    [
        ("screens :0", "", ":0"),
        ("screens alice :0", "alice", ":0"),
        ("connect-display :0 --show", "", ":0"),
        ("connect-display --show alice :0", "alice", ":0"),
    ],
)
def test_who_names_no_user_means_themselves(line: str, user: str, display: str) -> None:
    options = parse(line.split())
    assert (options.user, options.display) == (user, display)
    assert getattr(options, "show", False) == ("--show" in line)


def test_every_command_does_something() -> None:
    [commands] = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    elsewhere = {"monitor", "doctor", "exec", "shell", "completion", "install", "uninstall"}
    elsewhere |= {"terminal"}
    assert set(commands.choices) == {*READERS, *ORDERS, *elsewhere}


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("exec ls -l", ["ls", "-l"]),
        ("exec -- ls -l", ["ls", "-l"]),
        ("exec --user a ls --user b", ["ls", "--user", "b"]),
        ("exec --user a -- -x -- --", ["-x", "--", "--"]),
        ("exec echo --", ["echo", "--"]),
        ("exec --service x", []),
        ("exec --pty ls -t", ["ls", "-t"]),
        ("exec -t -- ls --pty", ["ls", "--pty"]),
        ("exec --env A=1 ls -t", ["ls", "-t"]),
        ("shell --user a", []),
    ],
)
def test_what_is_the_commands_own(line: str, argv: list[str]) -> None:
    options = parse(line.split())
    assert options.argv == argv
    assert options.user == ("a" if "--user a" in line else "")
    assert options.pty == line.startswith(("exec --pty", "exec -t", "shell"))


@pytest.mark.parametrize(
    "words",
    [["\udcff"], ["--env=A=\udcff", "--", "x"], ["--service=\udcff"], ["--cwd=/\udcff", "x"]],
)
def test_what_d_bus_cannot_carry(words: list[str]) -> None:
    with pytest.raises(UsageError, match="is not UTF-8"):
        parse(["exec", *words])


def test_what_a_command_gets() -> None:
    options = parse(["exec", "--env", "A=1=2", "--env=B=", "--cwd=/x", "--session", "c2", "y"])
    assert (options.env, options.cwd) == ([("A", "1=2"), ("B", "")], "/x")
    assert (options.session, options.user, options.service) == ("c2", "", "")
    shell = parse(["shell", "--session=c2"])
    assert (shell.session, shell.user, shell.argv, shell.service) == ("c2", "", [], "")
    assert (shell.env, shell.cwd, shell.pty) == ([], "", True)


def test_no_abbreviations() -> None:
    with pytest.raises(UsageError):
        parse(["pause", "--sess", "1"])
