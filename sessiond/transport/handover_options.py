"""The options of ``terminal serve`` and ``terminal attach``, which two programs have.

With ``agent.terminal`` it is all that an initramfs needs: the standard library alone.
"""

import argparse
import os
from typing import Final

NAME: Final = "init_console"
"""The address of the programs that did this first, with which ours understand one another."""
MAX_NAME: Final = 107  # bytes; unix(7): 108, of which an abstract name's first is NUL
MAX_WAIT: Final = 3600.0  # seconds; nobody waits longer for a boot


def add_terminal_options(terminal: argparse.ArgumentParser) -> None:
    """Add the two commands; ``action`` tells which of them it is."""
    actions = terminal.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "offer this terminal to a program elsewhere"
    serve = actions.add_parser("serve", help=text, description=text)
    text = "run a command on the terminal that is offered"
    attach = actions.add_parser("attach", help=text, description=text)
    for parser in (serve, attach):
        parser.allow_abbrev = False
        parser.add_argument(
            "--name", dest="terminal", type=_name, default=NAME, metavar="NAME",
            help=f"under which it is offered (default: {NAME})",
        )  # fmt: skip
    serve.add_argument(
        "--stay", action="store_true", help="stay until the terminal is gone, not only the program"
    )
    attach.add_argument(
        "--wait", type=_seconds, default=0.0, metavar="SECONDS",
        help="how long to try until it is offered (default: 0, once)",
    )  # fmt: skip
    attach.add_argument(
        "--fallback", action="store_true",
        help="run the command here if there is none, as the first process of a system always does",
    )  # fmt: skip
    attach.add_argument("program", metavar="COMMAND", help="what to run")
    attach.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="and with what"
    ).required = False  # it may be empty


def _name(text: str) -> str:
    if not 1 <= len(os.fsencode(text)) <= MAX_NAME:
        raise argparse.ArgumentTypeError(f"not 1 to {MAX_NAME} bytes")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT:
        raise argparse.ArgumentTypeError(f"not a number of seconds up to {MAX_WAIT:g}")
    return seconds
