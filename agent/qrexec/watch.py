"""Signals, and the end of who started us, as things that poll(2) tells.

Every process here is single-threaded and waits in one place; a signal is a byte of a pipe, and no
handler acts in the middle of something.
"""

import contextlib
import select
import signal
import socket
import time
from collections.abc import Iterable, Mapping
from types import FrameType, TracebackType
from typing import Final, Self

ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class EndedError(Exception):
    """We are to end: by a signal, or because who started us has gone."""


class Watch:
    """Collects the signals that it is made for, from now on until it is closed.

    With a ``life_line`` the end of its peer is one more thing that ends us.
    """

    def __init__(
        self, signals: Iterable[signal.Signals], *, life_line: socket.socket | None = None
    ) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)  # set_wakeup_fd demands it
        self._life_line = life_line
        self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        # Python hands a signal to the descriptor only if it has a handler. Who sends us many can
        # leave no room there for another one, which is then known by its handler alone.
        self._handled: set[int] = set()
        self._handlers = {number: signal.signal(number, self._note) for number in signals}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let signals do what they did before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before)
        self._reader.close()
        self._writer.close()

    def forget(self) -> None:
        """Leave signals to the process that we were forked from; ours do what they do by default.

        For the first moment in a forked child: what comes then must not reach the parent.
        """
        signal.set_wakeup_fd(-1)
        for number in self._handlers:
            signal.signal(number, signal.SIG_DFL)

    def take(self) -> set[int]:
        """Return the signals that came. Raises EndedError if one of them is for us to end."""
        numbers: set[int] = set()
        with contextlib.suppress(BlockingIOError):
            while data := self._reader.recv(4096):
                numbers.update(data)
        handled, self._handled = self._handled, set()
        numbers |= handled
        if numbers & ENDING:
            raise EndedError(f"by signal {min(numbers & ENDING)}")
        return numbers

    def wait(
        self, wanted: Mapping[int, int], timeout: float | None = None
    ) -> tuple[dict[int, int], set[int]]:
        """Wait for events of descriptors (see poll(2)) or signals, and return both.

        Nothing of either after ``timeout`` seconds. Raises EndedError.
        """
        poll = select.poll()
        for fd, events in wanted.items():
            poll.register(fd, events)
        for sock in filter(None, (self._reader, self._life_line)):
            poll.register(sock, select.POLLIN)
        ready = dict(poll.poll(None if timeout is None else timeout * 1000))
        # What has woken us may have come about behind a signal that poll(2) was too early for.
        signals = self.take()
        if self._life_line and self._life_line.fileno() in ready and not _is_alive(self._life_line):
            raise EndedError("since who started us has gone")
        return {fd: events for fd, events in ready.items() if fd in wanted}, signals

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Take note of a signal; the byte in the pipe wakes who waits."""
        self._handled.add(number)


class Deadline:
    """A point in time that is ``seconds`` from now."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Return the seconds until then, 0 if it has passed."""
        return max(0.0, self._at - time.monotonic())


def _is_alive(line: socket.socket) -> bool:
    try:
        return bool(line.recv(1, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False
