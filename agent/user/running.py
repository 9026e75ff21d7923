"""What a command of the daemon's is to this agent, whatever it is made of."""

import abc
import asyncio
import signal
from collections.abc import Callable
from typing import Final

from sessiond.model import TerminalSize

ENDING: Final = frozenset({
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL,
})  # fmt: skip
"""The signals that end whoever does nothing about them."""

GRACE: Final = 2.0  # seconds between being told to end and being killed

KILLED: Final = 128
"""What a shell adds to a signal's number for an exit code."""

OnExit = Callable[[int, int], None]
"""Gets the exit code, 128 and the signal's number for who was killed, and that number or 0."""


class Running(abc.ABC):
    """A command that runs. ``pid`` is its process; ``gone`` is done when nothing is left of it."""

    pid: int
    gone: asyncio.Future[None]

    @abc.abstractmethod
    def watch(self, on_exit: OnExit) -> None:
        """Have ``on_exit`` called when it has ended, once, in a later turn of the loop."""

    @abc.abstractmethod
    def signal(self, number: int) -> None:
        """Send it a signal. Raises CommandError where that is not ours to do."""

    @abc.abstractmethod
    def resize(self, size: TerminalSize) -> None:
        """Set the size of its terminal. Raises CommandError where it has none."""

    @abc.abstractmethod
    def hang_up(self) -> None:
        """Have it end, as one whose caller has gone: within GRACE, or it is killed."""

    @abc.abstractmethod
    def close(self) -> None:
        """Let it go, whatever it does; a second call does nothing."""
