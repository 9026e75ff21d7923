"""Calls that may never return, with a time limit."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from sessiond.errors import DisplayError, SessiondError

log = logging.getLogger(__name__)

T = TypeVar("T")

TIMEOUT: Final = 2.0  # seconds for one step of the search for a display


def within(seconds: float, job: Callable[[], T], what: str) -> T:
    """Return what ``job`` returns or raise what it raises, at the latest after ``seconds``.

    It runs in a daemon thread, which is left behind when it hangs (a file on a dead mount cannot
    be let go of). Raises DisplayError naming ``what`` then.
    """
    results = list[T]()
    errors = list[Exception]()

    def run() -> None:
        try:
            results.append(job())
        except Exception as error:  # noqa: BLE001 (raised again in the caller's thread)
            errors.append(error)

    thread = threading.Thread(target=run, name="bounded", daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    if errors:
        if isinstance(errors[0], SessiondError | OSError):
            raise errors[0] from None
        raise errors[0]
    raise DisplayError(f"{what}: no answer in {seconds:g} s")


def look(source: Callable[[], Iterable[T]], deadline: float) -> list[T]:
    """Return what a look-up finds until it hangs, fails or is out of time.

    ``deadline`` is on the clock of ``time.monotonic``.
    """
    found = list[T]()

    def collect() -> None:
        found.extend(source())

    seconds = min(TIMEOUT, deadline - time.monotonic())
    if seconds > 0:
        try:
            within(seconds, collect, "looking for evidence")
        except (DisplayError, OSError) as error:
            log.info("%s", error)
    return list(found)
