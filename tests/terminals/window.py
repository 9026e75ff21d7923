"""A terminal's window: a pseudoterminal of the test's, what runs there, and what it has shown."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self

from tests.fixtures.child import ROOT
from tests.fixtures.processes import DIE_WITH_PARENT, end_process, wait_process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

LIMIT: Final = 30.0  # seconds; nothing takes as many


class Window:
    """ARGV as the leader of the session that the terminal controls, in a window of SIZE.

    SIZE is columns and rows. EXTRA is added to its environment.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        size: tuple[int, int] = (80, 24),
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self._changed = threading.Condition()
        self._shown = bytearray()
        self._is_over = False
        self._master, self.slave = os.openpty()
        self.resize(*size)
        self.before = self.modes()
        self.process = subprocess.Popen(
            [*DIE_WITH_PARENT, "setsid", "--ctty", *argv],  # all of it one process
            stdin=self.slave, stdout=self.slave, stderr=self.slave,
            cwd=ROOT, env={**os.environ, "TERM": "xterm", **(extra or {})},
        )  # fmt: skip
        self._stop, self._stopped = os.pipe()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what runs there, and close the window."""
        if self.process.poll() is None:
            self.process.terminate()
        end_process(self.process)
        self.hang_up()
        os.close(self.slave)

    def hang_up(self) -> None:
        """Close the window, whatever runs there; a second call does nothing."""
        self._read_to_the_end()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    @property
    def shown(self) -> str:
        """All that was written there so far, as it came."""
        with self._changed:
            return self._shown.decode(errors="replace")

    def now(self) -> int:
        """Return how much was shown so far: ``after`` for what follows."""
        return len(self.shown)

    def wait(self, pattern: str, *, after: int = 0, timeout: float = LIMIT) -> re.Match[str]:
        """Wait until PATTERN is found in what is shown later than AFTER; return the match."""
        deadline = time.monotonic() + timeout
        wanted = re.compile(pattern)
        with self._changed:
            while True:
                shown = self._shown.decode(errors="replace")
                if found := wanted.search(shown, after):
                    return found
                left = deadline - time.monotonic()
                if left <= 0 or self._is_over:
                    raise AssertionError(f"no {pattern!r} in {shown[after:]!r}")
                self._changed.wait(left)

    def type(self, keys: str | bytes) -> None:
        """Type on its keyboard."""
        data = keys.encode() if isinstance(keys, str) else keys
        while data:
            data = data[os.write(self._master, data) :]

    def resize(self, columns: int, rows: int) -> None:
        """Give it another size."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def modes(self) -> list[Any]:
        """Return what ``stty -a`` shows of its modes."""
        return termios.tcgetattr(self.slave)

    @property
    def is_raw(self) -> bool:
        """Whether each key goes to who reads there."""
        return not self.modes()[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def wait_exit(self) -> int:
        """Wait for the end of what runs there; return its exit status. All is shown then."""
        assert wait_process(self.process, LIMIT), f"it still runs: {self.shown!r}"
        self._read_to_the_end()
        return self.process.wait()

    def _read_to_the_end(self) -> None:
        if not self._is_over:
            os.close(self._stopped)
            self._reader.join()
            os.close(self._stop)

    def _read(self) -> None:
        while self._master in select.select([self._master, self._stop], [], [])[0]:
            data = os.read(self._master, 1 << 16)
            with self._changed:
                self._shown += data
                self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
