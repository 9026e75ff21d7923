"""Every command but ``terminal``: command line in, exit status out (``sessiond.ctl.outcome``)."""

import asyncio
import contextlib
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Final

from sessiond.ctl.outcome import Exit, exec_status, explain
from sessiond.ctl.parser import parse
from sessiond.ctl.screen import Screen
from sessiond.ctl.view import Page
from sessiond.errors import SessiondError

_EXECUTING: Final = ("exec", "shell")


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    if "_ARGCOMPLETE" in os.environ:
        from sessiond.ctl.completion import complete  # noqa: PLC0415 (only for a shell)

        complete()
    _print_anything()
    options = Namespace(command="")
    try:
        options = parse(argv)
        return _run(options)
    except SessiondError as error:
        status, words = explain(error)
        print(f"spice-sessionctl: {words}", file=sys.stderr)  # noqa: T201
        return exec_status(error) if options.command in _EXECUTING else status
    except KeyboardInterrupt:
        # To be ended so is what a monitor is for.
        return Exit.OK if options.command == "monitor" else Exit.INTERRUPTED
    except BrokenPipeError:
        # Who read has enough; the interpreter's last flush must not complain of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED


def _run(options: Namespace) -> int:
    if options.command in _EXECUTING:  # which may have no stdout
        from sessiond.ctl.execute import execute  # noqa: PLC0415 (loads the D-Bus library)

        return execute(options)
    screen = Screen(options.json)
    page = _do_here(options)
    if page is None:
        from sessiond.ctl.commands import run  # noqa: PLC0415 (loads the D-Bus library)

        page = asyncio.run(run(options, screen.show))
    if page is None:
        return Exit.OK
    screen.show(page)
    return page.status


def _do_here(options: Namespace) -> Page | None:
    """Do what takes neither a daemon nor a bus; None for all other commands."""
    if options.command == "completion":
        from sessiond.ctl.completion import script  # noqa: PLC0415 (loads what others do not need)

        text = script(options.shell)
        return Page({"Shell": options.shell, "Script": text}, note=text)
    if options.command in {"install", "uninstall"}:
        from sessiond.ctl import install  # noqa: PLC0415 (likewise)

        return (install.install if options.command == "install" else install.uninstall)(options)
    return None


def _print_anything() -> None:
    """Let a name that the terminal's encoding lacks be printed as an escape, not as a failure."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a test's own
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
