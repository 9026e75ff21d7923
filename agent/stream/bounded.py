"""A call that may never return, with a time limit."""

import threading
from collections.abc import Callable
from typing import TypeVar

from sessiond.errors import DisplayError, SessiondError

T = TypeVar("T")


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
