"""Runs what may block, and need never return, beside the loop.

A look-up in the user database may hang for as long as its server does. asyncio's own threads are
few, and waited for at the program's end, which then never comes.
"""

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def run_aside(function: Callable[[], T]) -> "asyncio.Future[T]":
    """Call ``function`` in a thread of its own; the future has what it returns, or raises.

    That is BlockingIOError where the kernel has no thread for it.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error:
            future.set_exception(error)
        else:
            future.set_result(outcome)  # type: ignore[arg-type]  # None, if that is its result

    def run() -> None:
        outcome, error = None, None
        try:
            outcome = function()
        except Exception as raised:  # noqa: BLE001 (the future's)
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, outcome, error)

    # A daemon thread, which the program's end does not wait for.
    thread = threading.Thread(target=run, name="aside", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        future.set_exception(BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
    return future
