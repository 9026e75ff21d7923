"""``terminal``: its command line in, its exit status out. The standard library is enough."""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import Final

from agent.terminal.attach import attach
from agent.terminal.serve import serve
from agent.terminal.stderr import Stderr
from sessiond.errors import SessiondError
from sessiond.transport.handover_options import add_terminal_options

FAILED: Final = 1
NO_TERMINAL: Final = 125  # as env(1) has it, when no command was run
_PROGRAM: Final = "spice-session-agent"


def terminal(options: argparse.Namespace) -> None:
    """Be that command of ``spice-session-agent``; end the process with its exit status."""
    sys.exit(run(options, _PROGRAM))


def main(argv: Sequence[str], program: str) -> int:
    """Return the exit status of the words behind ``terminal``; ``program`` is what was called."""
    parser = argparse.ArgumentParser(prog=f"{program} terminal", allow_abbrev=False)
    add_terminal_options(parser)
    return run(parser.parse_args(argv), program)


def run(options: argparse.Namespace, program: str) -> int:
    """Return the exit status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # to end of it, as others do
    stderr = Stderr(program)
    try:
        if options.action == "serve":
            serve(options.terminal, stderr, stay=options.stay)
            return 0
        words = [options.program, *options.arguments]
        how = {"wait": options.wait, "fallback": options.fallback}
        return attach(options.terminal, words, stderr, **how)
    except SessiondError as error:
        stderr.say(str(error))
        return FAILED if options.action == "serve" else NO_TERMINAL
