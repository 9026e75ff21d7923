"""The program ``spice-sessiond``: command line in, exit status out.

0: told to end; 1: cannot go on; 2: wrong configuration or command line.
"""

from sessiond.transport import lean  # noqa: F401, I001 (first of all: see there)
# isort: split

import asyncio
import logging
import sys
from collections.abc import Sequence
from typing import Final

from sessiond import logs
from sessiond.config import load
from sessiond.daemon import Daemon
from sessiond.errors import SessiondError, UsageError
from sessiond.transport.memory import keep_freed

log = logging.getLogger("spice-sessiond")

_KEPT: Final = 16 << 20  # bytes; two frames of the largest size


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon and return its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        config = load(arguments)
    except UsageError as error:
        print(f"spice-sessiond: {error}", file=sys.stderr)  # noqa: T201 (no log yet)
        return 2
    logs.set_up(debug=config.debug)
    if config.without_effect:
        names = ", ".join(config.without_effect)
        log.warning("options of spice-streaming-agent that have no effect here: %s", names)
    keep_freed(_KEPT)
    try:
        asyncio.run(Daemon(config, lambda: load(arguments)).run())
    except BaseExceptionGroup as group:  # a TaskGroup wraps what its only task raised
        if not isinstance(group.exceptions[0], SessiondError):
            raise
        return _fail(group.exceptions[0])
    except SessiondError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return 0
    return 0


def _fail(error: BaseException) -> int:
    log.error("%s", error)
    log.debug("traceback", exc_info=error)
    return 1


if __name__ == "__main__":
    sys.exit(main())
