"""The program ``spice-session-agent``: command line in, exit status out.

0: told to end, or the daemon is gone; 1: cannot go on; 2: wrong command line; 3: another agent of
the user runs.
"""

from sessiond.transport import lean  # noqa: F401, I001 (first of all: see there)
# isort: split

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final, cast

from agent.options import parse
from sessiond.errors import RunningError, SessiondError, UsageError

log = logging.getLogger("spice-session-agent")

_STATUSES: Final = {UsageError: 2, RunningError: 3}
_INTERRUPTED: Final = 128 + 2  # SIGINT: as a shell has it
_PR_SET_DUMPABLE: Final = 4  # linux/prctl.h

# Each imports what it needs, and nothing of what the others do.
_COMMANDS: Final = {
    "stream": ("agent.stream.main", "stream"),
    "placeholder": ("agent.stream.main", "placeholder"),
    "user": ("agent.user.main", "user"),
    "call": ("agent.user.call", "call"),
    "qrexec": ("agent.qrexec.main", "qrexec"),
    "qrexec-client": ("agent.qrexec.client_main", "qrexec_client"),
    "terminal": ("agent.terminal.main", "terminal"),
    "pty": ("agent.terminal.pty", "pty"),
}
_AGENTS: Final = ("stream", "placeholder", "user", "qrexec")  # which go on until told to end


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    logging.basicConfig(format="spice-session-agent: %(message)s", level=logging.INFO)
    command = ""
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        command = options.command
        if getattr(options, "kms_fd", None) is not None:
            _hide()  # before all that is still to be loaded
        if options.debug:
            logging.getLogger().setLevel(logging.DEBUG)
        _command(command)(options)
    except SessiondError as error:
        log.error("%s", error)  # noqa: TRY400 (the traceback is for developers)
        log.debug("traceback", exc_info=True)
        return _STATUSES.get(type(error), 1)
    except KeyboardInterrupt:  # before anybody took the signal over
        return 0 if command in _AGENTS else _INTERRUPTED
    return 0


def _hide() -> None:
    """Keep others of our user out of this process, and its memory out of files (prctl(2)).

    Who is given the card runs as nobody, as others may; what it sees is for the host alone.
    """
    import ctypes  # noqa: PLC0415 (for this alone)

    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _command(name: str) -> Callable[[argparse.Namespace], None]:
    module, function = _COMMANDS[name]
    run = getattr(import_module(module), function)
    return cast("Callable[[argparse.Namespace], None]", run)


if __name__ == "__main__":
    sys.exit(main())
