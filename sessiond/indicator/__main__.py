"""The program ``spice-session-indicator``: command line in, exit status out.

0: nothing more to do, told to end, or a bus has gone; 1: a bus cannot be reached; 2: wrong usage.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

from sessiond import __version__
from sessiond.errors import SessiondError
from sessiond.indicator.app import Settings, run

log = logging.getLogger("spice-session-indicator")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its options are those of the manual page."""
    parser = argparse.ArgumentParser(
        prog="spice-session-indicator",
        description="Tell the person at this screen that it is being streamed.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--system-bus",
        metavar="ADDRESS",
        default="system",
        help="where spice-sessiond is; by default the system bus",
    )
    parser.add_argument(
        "--session-bus",
        metavar="ADDRESS",
        default=_session_bus(),
        help="where the desktop is; by default DBUS_SESSION_BUS_ADDRESS",
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_seconds,
        default=30.0,
        help="how long to wait for a desktop that shows nothing, before ending (30)",
    )
    parser.add_argument("-d", "--debug", action="store_true", help="log to stderr what is done")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run until there is nothing more to do, and return the exit status."""
    options = build_parser().parse_args(argv)
    level = logging.DEBUG if options.debug else logging.WARNING
    logging.basicConfig(level=level, format="spice-session-indicator: %(message)s")
    settings = Settings(
        system_bus=options.system_bus,
        session_bus=options.session_bus,
        session_id=os.environ.get("XDG_SESSION_ID", ""),
        wait=options.wait,
    )
    try:
        asyncio.run(run(settings))
    except SessiondError as error:
        log.error("%s", error)  # noqa: TRY400 (one line for a person)
        log.debug("traceback", exc_info=error)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


def _session_bus() -> str:
    """Return where the session bus is: as sd_bus_default_user(3) finds it."""
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    directory = os.environ.get("XDG_RUNTIME_DIR", "")
    return address or (f"unix:path={directory}/bus" if directory else "")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 3600:
        raise ValueError
    return value


if __name__ == "__main__":
    sys.exit(main())
