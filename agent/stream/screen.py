"""The thread that owns the display: the loop asks it to do things and hears what changed.

Calls of an X library block for as long as the X server likes. They all happen here, so that the
port is read and signals are answered whatever the server does; a thread that hangs in it does
not keep the process from ending.
"""

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from agent.capture.base import Capture, Changes, Cursor
from sessiond.errors import DisplayError
from sessiond.transport.fds import OwnedFd

log = logging.getLogger(__name__)

T = TypeVar("T")


class ScreenListener(Protocol):
    """Hears of the display, in the loop's thread."""

    def on_opened(self, description: str) -> None:
        """The display is open; once, before anything else."""

    def on_changed(self) -> None:
        """The picture differs from the last one captured, or may be captured again."""

    def on_unavailable(self, reason: str) -> None:
        """There is nothing to capture for ``reason``; empty when there is again."""

    def on_cursor(self, cursor: Cursor | None) -> None:
        """The cursor looks different now."""

    def on_pointer(self, position: tuple[int, int]) -> None:
        """The pointer is somewhere else now."""

    def on_failed(self, error: DisplayError) -> None:
        """The display cannot be opened or is lost; the last call."""


class Screen:
    """A display in a thread of its own, from ``start`` until ``close``.

    Owns one daemon thread: the interpreter does not wait for it at its end.
    """

    def __init__(self, open_capture: Callable[[], Capture], listener: ScreenListener) -> None:
        self._open_capture = open_capture
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[Callable[[Capture], None]] = queue.SimpleQueue()
        self._wake = OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._closed = False
        self._unavailable = ""
        self._cursor: Cursor | None = None
        self._pointer = (-1, -1)
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)

    def start(self) -> None:
        """Open the display; ``on_opened`` or ``on_failed`` follows."""
        self._thread.start()

    def call_nowait(self, job: Callable[[Capture], T], done: Callable[[T], None]) -> None:
        """Run ``job`` in the display's thread and hand its result to ``done`` in the loop's.

        Jobs run in the order of the calls. ``done`` is not called when the display fails.
        """
        self._jobs.put(lambda capture: self._post(done, job(capture)))
        os.eventfd_write(self._wake.fileno(), 1)

    def close(self, timeout: float) -> None:
        """Close the display, waiting at most ``timeout`` seconds for an unfinished call of it."""
        self._closed = True
        os.eventfd_write(self._wake.fileno(), 1)
        if self._thread.is_alive():
            self._thread.join(timeout)
        if self._thread.is_alive():
            log.warning("the display does not answer; leaving it")

    def refresh(self, capture: Capture) -> tuple[Cursor | None, tuple[int, int]]:
        """Return cursor and pointer as they are now; later reports are relative to these.

        To be run as a job.
        """
        self._cursor, self._pointer = capture.cursor(), capture.pointer()
        return self._cursor, self._pointer

    def _run(self) -> None:
        try:
            self._serve()
        except DisplayError as error:
            self._post(self._listener.on_failed, error)
        except Exception as error:
            # A bug of ours. Without this thread nothing would ever be captured again.
            self._post(self._listener.on_failed, DisplayError(f"internal error: {error!r}"))
            raise

    def _serve(self) -> None:
        capture = self._open_capture()
        try:
            self._post(self._listener.on_opened, capture.describe())
            self._tell_availability(capture)
            while not self._closed:
                self._tell(capture, capture.wait(self._wake.fileno()))
                self._run_jobs(capture)
        finally:
            capture.close()

    def _run_jobs(self, capture: Capture) -> None:
        try:
            os.eventfd_read(self._wake.fileno())
        except BlockingIOError:
            return
        while not self._closed:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            job(capture)

    def _tell(self, capture: Capture, changes: Changes) -> None:
        if not changes:
            return
        if Changes.AVAILABLE in changes:
            self._tell_availability(capture)
        if Changes.CURSOR in changes:
            cursor = capture.cursor()
            # An animated cursor comes sixty times a second with the same few shapes.
            if cursor != self._cursor:
                self._cursor = cursor
                self._post(self._listener.on_cursor, cursor)
        if changes & (Changes.POINTER | Changes.CURSOR):
            pointer = capture.pointer()
            if pointer != self._pointer:
                self._pointer = pointer
                self._post(self._listener.on_pointer, pointer)
        if Changes.PICTURE in changes:
            self._post(lambda _: self._listener.on_changed(), None)

    def _tell_availability(self, capture: Capture) -> None:
        if capture.unavailable != self._unavailable:
            self._unavailable = capture.unavailable
            self._post(self._listener.on_unavailable, self._unavailable)

    def _post(self, call: Callable[[T], None], value: T) -> None:
        try:
            self._loop.call_soon_threadsafe(call, value)
        except RuntimeError:  # the loop is closed: the process is ending
            log.debug("the loop is gone")
