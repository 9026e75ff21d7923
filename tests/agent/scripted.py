"""A display whose every answer a test decides."""

import os
import queue
import select
import threading
from typing import TYPE_CHECKING

from agent.capture.base import SLOTS, Capture, Changes, Cursor, Frame
from agent.stream.screen import Screen
from sessiond.errors import DisplayError
from sessiond.transport.fds import OwnedFd
from tests.fixtures.loop import Signal

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = (48, 32)


class ScriptedCapture(Capture):
    """Reports what ``tell`` says; picture n is grey of the shade n, from 1 on.

    ``gate``, once cleared, holds every ``grab`` up until it is set again.
    """

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[Changes | DisplayError] = queue.SimpleQueue()
        self._wake = OwnedFd(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        self._memory = [bytearray() for _ in range(SLOTS)]
        self.size_now = SIZE
        self.reason = ""
        self.shape: Cursor | None = None
        self.place = (0, 0)
        self.names: tuple[str, ...] = ()
        self.shade = 0
        self.grabs = 0
        self.changed: frozenset[int] | None = None  # what the next frames say of themselves
        self.calls: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def tell(self, news: Changes | DisplayError) -> None:
        """Let ``wait`` report or raise NEWS; from any thread."""
        self._told.put(news)
        os.eventfd_write(self._wake.fileno(), 1)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing that was told is still to be reported."""
        return self._told.empty()

    def draw(self) -> None:
        """Show the next picture and say so."""
        self.shade += 1
        self.tell(Changes.PICTURE)

    def describe(self) -> str:
        return "a script"

    @property
    def size(self) -> tuple[int, int]:
        return self.size_now

    @property
    def unavailable(self) -> str:
        return self.reason

    def begin(self) -> None:
        self.calls.append("begin")

    def end(self) -> None:
        self.calls.append("end")

    def wait(self, wake_fd: int) -> Changes:
        ready = select.select([self._wake.fileno(), wake_fd], [], [])[0]
        if self._wake.fileno() not in ready:
            return Changes.NONE
        os.eventfd_read(self._wake.fileno())
        changes = Changes.NONE
        while not self._told.empty():
            news = self._told.get_nowait()
            if isinstance(news, DisplayError):
                raise news
            changes |= news
        return changes

    def grab(self, slot: int) -> Frame | None:
        self.gate.wait()
        if self.reason:
            return None
        self.grabs += 1
        width, height = self.size_now
        # Like real shared memory: what is grabbed into a slot replaces what was there.
        if len(self._memory[slot]) != 4 * width * height:
            self._memory[slot] = bytearray(4 * width * height)
        self._memory[slot][:] = bytes([self.shade % 256]) * len(self._memory[slot])
        pixels = memoryview(self._memory[slot])
        return Frame(width, height, 4 * width, pixels, slot, self.changed)

    def cursor(self) -> Cursor | None:
        return self.shape

    def pointer(self) -> tuple[int, int]:
        return self.place

    def outputs(self) -> tuple[str, ...]:
        return self.names

    def close(self) -> None:
        self.calls.append("close")


class Listener:
    """Keeps what a screen says, and hands on what a test is interested in."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, object]] = []
        self.signal = Signal()
        self.changed: Callable[[], None] = lambda: None

    async def until(self, *expected: tuple[str, object]) -> None:
        """Wait until exactly EXPECTED was heard."""
        await self.signal.until(lambda: len(self.heard) >= len(expected))
        assert self.heard == list(expected)

    def on_opened(self, description: str) -> None:
        self._hear("opened", description)

    def on_changed(self) -> None:
        self._hear("changed", None)
        self.changed()

    def on_unavailable(self, reason: str) -> None:
        self._hear("unavailable", reason)

    def on_cursor(self, cursor: Cursor | None) -> None:
        self._hear("cursor", cursor)

    def on_pointer(self, position: tuple[int, int]) -> None:
        self._hear("pointer", position)

    def on_failed(self, error: DisplayError) -> None:
        self._hear("failed", str(error))

    def _hear(self, what: str, value: object) -> None:
        self.heard.append((what, value))
        self.signal.happened()


async def settled(screen: Screen) -> None:
    """Return when the screen's thread has told all that it was told, and done what it was asked."""
    signal, answers = Signal(), list[bool]()

    def look(capture: Capture) -> bool:
        # What wait() took has been passed on before any job; what it did not take has not.
        return not isinstance(capture, ScriptedCapture) or capture.is_quiet

    def answer(value: bool) -> None:
        answers.append(value)
        signal.happened()

    while not any(answers):
        count = len(answers)
        screen.call_nowait(look, answer)
        await signal.until(lambda count=count: len(answers) > count)  # type: ignore[misc]
