"""One thread for encoding: the interpreter's lock is free while a library encodes."""

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from sessiond.errors import EncoderError, SessiondError

log = logging.getLogger(__name__)

T = TypeVar("T")


def attempt(job: Callable[[], T]) -> T | SessiondError:
    """Return what ``job`` returns, or its SessiondError.

    Any other error of the job, which may be a plug-in's code, comes as EncoderError.
    """
    try:
        return job()
    except SessiondError as error:
        return error
    except Exception as error:
        log.debug("an encoder failed", exc_info=True)
        return EncoderError(f"{type(error).__name__}: {error}")


class Worker:
    """Runs one job at a time in a daemon thread; owns the thread until ``close``."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def call_nowait(self, job: Callable[[], T], done: Callable[[T | SessiondError], None]) -> None:
        """Run ``job``; ``done`` gets in the loop's thread what ``attempt`` made of it."""

        def run() -> None:
            result = attempt(job)
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
                self._loop.call_soon_threadsafe(done, result)

        self._jobs.put(run)

    def close(self) -> None:
        """Let the thread end after the job it is at."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
