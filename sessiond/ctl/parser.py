"""The command line of ``spice-sessionctl``; the manual page is held against it."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NoReturn

from sessiond import __version__
from sessiond.ctl.client import NAME
from sessiond.ctl.screen import AUTO, FORMATS
from sessiond.errors import UsageError
from sessiond.transport.handover_options import add_terminal_options

LAST_VT: Final = 63  # linux/vt.h, MAX_NR_CONSOLES
SHELLS: Final = ("bash", "zsh", "fish")
AUTO_SWITCH: Final = ("off", "on-session-end")
EVENTS: Final = 20  # a screen of history
_DEFAULTS: Final = {
    "command": "status",
    "bus": "system",
    "name": NAME,
    "json": "off",
    "no_ask_password": False,
}

_Options = argparse._ActionsContainer  # noqa: SLF001 (a parser, or a group of its options)
Completer = Callable[..., list[str]]
"""Called by argcomplete with the keywords prefix, action, parser and parsed_args."""


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line as UsageError, in one line, instead of ending the process."""

    def __init__(self, **how: Any) -> None:  # noqa: ANN401 (the base's own)
        super().__init__(allow_abbrev=False, **how)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; see {self.prog} --help")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options, ``command`` among them. Raises UsageError."""
    parser = build_parser()
    options = parser.parse_args(argv, argparse.Namespace(**_DEFAULTS))
    if options.command == "terminal":
        parser.error("terminal: no option may stand before it")
    if options.command == "exec":
        if options.argv[:1] == ["--"]:
            del options.argv[0]
        if bool(options.argv) == bool(options.service):
            parser.error("exec: a COMMAND is needed, or else --service")
        if options.service and options.pty:
            parser.error("exec: a service has no terminal")
        for word in (*options.argv, options.service, options.cwd, *sum(options.env, ())):
            if not _is_utf8(word):  # which D-Bus carries nothing else than
                parser.error(f"exec: {word!r} is not UTF-8")
    return options


def build_parser(completers: Mapping[str, Completer] = MappingProxyType({})) -> Parser:
    """Return the parser; ``completers`` offer a shell values, by SESSION, USER and DISPLAY."""
    common = _common()
    parser = Parser(
        prog="spice-sessionctl", parents=[common],
        description="Shows and controls spice-sessiond, which streams the screen of whoever is at "
        "the seat to the SPICE host. Without a command: status.",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def add(name: str, text: str) -> Parser:
        return commands.add_parser(name, help=text, description=text, parents=[common])

    def add_known(to: _Options, *names: str, metavar: str = "SESSION", **how: Any) -> None:  # noqa: ANN401
        action = to.add_argument(*names, metavar=metavar, **how)
        action.completer = completers.get(metavar)  # type: ignore[attr-defined]

    def add_user(to: Parser) -> Parser:
        help_text = "you, if none is named"
        add_known(to, "user", nargs="?", default="", metavar="USER", help=help_text)
        return to

    add("status", "show what is streamed, and why or why not")
    add("list", "list the sessions")
    add_known(add("show", "show one session"), "session")
    add_known(add("activate", "bring a session to the front"), "session")
    add("switch", "bring a virtual terminal to the front").add_argument(
        "vt", type=_vt, metavar="VT", help=f"from 1 to {LAST_VT}"
    )
    for name, text in (("pause", "pause the stream"), ("resume", "resume the stream")):
        help_text = "that of one session only, as its user may"
        add_known(add(name, text), "--session", default="", help=help_text)
    add("restart-agent", "end the shown session's agent and start a new one")
    add("history", "show what was decided, and why").add_argument(
        "-n", "--lines", type=_count, default=EVENTS, metavar="N",
        help=f"how many changes; 0 for all that are kept (default: {EVENTS})",
    )  # fmt: skip
    add("monitor", "print what happens, as it happens")
    add("users", "list the users' agents that are connected")
    add_user(add("displays", "list the displays of a user"))
    screens = add_user(add("screens", "list the screens of a display that is connected"))
    connect = add_user(add("connect-display", "let a user's agent connect to a display"))
    for command in (screens, connect):
        add_known(command, "display", metavar="DISPLAY", help="such as :0")
    help_text = "bring the session that it belongs to to the front, too"
    connect.add_argument("--show", action="store_true", help=help_text)
    _add_exec(add("exec", "run a command, or a service, in a user's session"), add_known)
    shell = add("shell", "open a login shell, on a terminal of its own, in a user's session")
    _add_whose(shell, add_known)
    shell.set_defaults(argv=[], service="", env=[], cwd="", pty=True)
    add("set-auto-switch", "choose what follows the end of the shown session").add_argument(
        "value", choices=AUTO_SWITCH
    )
    add("reload", "let the daemon read its configuration again")
    add("doctor", "find what keeps the picture away").add_argument(
        "--config", type=Path, metavar="FILE", help="the daemon's, if it has one of its own"
    )
    _add_installing(add)
    terminal = "hand a terminal over to a program elsewhere"
    add_terminal_options(commands.add_parser("terminal", help=terminal, description=terminal))
    add("completion", "print a shell's completion script").add_argument("shell", choices=SHELLS)
    return parser


def _add_installing(add: Callable[[str, str], Parser]) -> None:
    installing = add("install", "put the data files of a pip installation in place")
    installing.add_argument(
        "--prefix", type=_absolute, default=Path("/usr/local"), metavar="DIR",
        help="above share/man and the like (default: /usr/local)",
    )  # fmt: skip
    for command in (installing, add("uninstall", "take away what install put in place")):
        command.add_argument(
            "--root", type=_absolute, default=Path("/"), metavar="DIR",
            help="the system's root, where it is not this one",
        )  # fmt: skip


def _add_whose(to: Parser, add_known: Callable[..., None]) -> None:
    whose = to.add_mutually_exclusive_group()
    help_text = "whose session; yours, if none is named"
    add_known(whose, "--user", default="", metavar="USER", help=help_text)
    add_known(whose, "--session", default="", help="which one; the best that there is, else")


def _add_exec(to: Parser, add_known: Callable[..., None]) -> None:
    _add_whose(to, add_known)
    help_text = "give it a terminal of its own, as a shell needs one"
    to.add_argument("-t", "--pty", action="store_true", help=help_text)
    to.add_argument("--service", default="", metavar="NAME", help="a service, not a command")
    to.add_argument(
        "--env", action="append", type=_assignment, default=[], metavar="NAME=VALUE",
        help="set a variable of its environment",
    )  # fmt: skip
    help_text = "the folder that it runs in; the user's home, else"
    to.add_argument("--cwd", type=_folder, default="", metavar="DIR", help=help_text)
    help_text = "the command and its arguments"
    to.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND", help=help_text)


def _common() -> Parser:
    """Return the options that may stand before and behind a command."""
    common = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--bus", metavar="ADDRESS", help='"system" (default) or a D-Bus address')
    common.add_argument("--name", help=f"the daemon's name on it (default: {NAME})")
    common.add_argument(
        "--no-ask-password", action="store_true", help="fail where a password would be asked for"
    )
    common.add_argument(
        "--json", choices=FORMATS, metavar="MODE", help=f"print JSON: {', '.join(FORMATS)}"
    )
    common.add_argument(
        "-j", dest="json", action="store_const", const=AUTO,
        help="--json=pretty on a terminal, else --json=short",
    )  # fmt: skip
    return common


def _absolute(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("not a folder's name")
    return Path(os.path.abspath(text))


def _is_utf8(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _assignment(text: str) -> tuple[str, str]:
    name, is_assigned, value = text.partition("=")
    if not name or not is_assigned:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _folder(text: str) -> str:
    if text and not text.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is no absolute path")
    return text


def _vt(text: str) -> int:
    return _number(text, 1, LAST_VT)


def _count(text: str) -> int:
    return _number(text, 0, (1 << 32) - 1)


def _number(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and low <= int(text) <= high):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {high}")
    return int(text)
