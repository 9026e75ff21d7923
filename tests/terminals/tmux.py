"""A private tmux: terminals of a real terminal emulator, typed at and read like a person's.

Owns the server, its panes and the waiting: a client in tmux's control mode is told of each output
and each pane that ends, so that nothing here sleeps. What runs in a pane is the tests'.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final, Self

from tests.fixtures.processes import (
    DIE_WITH_PARENT,
    EventTimeoutError,
    FixtureError,
    end_process,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

PATIENCE: Final = 20.0  # seconds
_SESSION: Final = "tests"


class Tmux:
    """A server of its own, whose socket is in ``directory``; a context manager.

    Each pane is a window of the given size, with exactly ``environ`` and what tmux adds to it.
    """

    def __init__(
        self, directory: Path, environ: Mapping[str, str], size: tuple[int, int] = (80, 24)
    ) -> None:
        program = shutil.which("tmux")
        assert program, "apt-get install tmux"
        self.directory = directory
        self._tmux = [program, "-f", "/dev/null", "-S", str(directory / "tmux")]
        self._environ = {"LANG": "C.UTF-8", **environ}
        self._size = size
        self._changed = threading.Condition()
        self._changes = 0
        self._server: subprocess.Popen[bytes]
        self._watch: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        # The server stays our child, and ends with us. It never has no session.
        self._server = subprocess.Popen(
            [*DIE_WITH_PARENT, *self._tmux, "-D"], env=self._environ, stdin=subprocess.DEVNULL
        )
        width, height = map(str, self._size)
        self._retry("new-session", "-d", "-s", _SESSION, "-x", width, "-y", height, "cat")
        self.run("set-option", "-g", "default-size", f"{width}x{height}")
        self._watch = subprocess.Popen(
            [*DIE_WITH_PARENT, *self._tmux, "-C", "attach", "-t", _SESSION],
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._watch.stdout
        self._reader = threading.Thread(target=self._read, args=(self._watch.stdout,), daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._watch.stdin
        self._watch.stdin.close()  # at which it leaves
        end_process(self._watch)
        self._reader.join()
        self._server.terminate()
        end_process(self._server)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._server.pid

    def run(self, *words: str) -> str:
        """Run a command of tmux's; return what it prints. Raises FixtureError."""
        done = subprocess.run(
            [*self._tmux, "-N", *words],  # -N: never a server of its own, before ours listens
            env=self._environ,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            encoding="utf-8",
        )
        if done.returncode:
            raise FixtureError(f"tmux {' '.join(words)}: {done.stderr}")
        return done.stdout

    def pane(self, *argv: str | Path, env: Mapping[str, str] | None = None) -> Pane:
        """Return a new pane, whose own command this is: no shell is between."""
        settings = [
            word for name, value in (env or {}).items() for word in ("-e", f"{name}={value}")
        ]
        shown = "#{pane_id} #{pane_pid} #{pane_tty}"
        words = ["new-window", "-d", "-P", "-F", shown, "-t", f"{_SESSION}:", *settings, "--"]
        id_, pid, tty = self.run(*words, *map(str, argv)).split()
        return Pane(self, id_, int(pid), tty)

    def wait_until(self, holds: Callable[[], bool], describe: Callable[[], str]) -> None:
        """Wait until that holds: it is asked at once, and whenever a pane has changed.

        Raises EventTimeoutError with what ``describe`` returns.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            with self._changed:
                seen = self._changes
            if holds():
                return
            with self._changed:
                while self._changes == seen:
                    left = deadline - time.monotonic()
                    if left <= 0 or not self._changed.wait(left):
                        raise EventTimeoutError(f"after {PATIENCE} s: {describe()}")

    def _retry(self, *words: str) -> None:
        """Run a command as soon as the server listens."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.run(*words)
            except FixtureError:
                if self._server.poll() is not None or time.monotonic() > deadline:
                    raise
            else:
                return

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            for _ in stream:
                with self._changed:
                    self._changes += 1
                    self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Pane:
    """One terminal; ``pid`` is its command's, ``tty`` its device's path."""

    tmux: Tmux
    id: str
    pid: int
    tty: str

    def type(self, text: str) -> None:
        """Type a line, and Enter."""
        self.tmux.run("send-keys", "-t", self.id, "-l", "--", text)
        self.keys("Enter")

    def keys(self, *names: str) -> None:
        """Press keys by tmux's names for them, such as C-c."""
        self.tmux.run("send-keys", "-t", self.id, *names)

    def screen(self) -> str:
        """Return what is on the screen: whole lines, without the blanks behind them."""
        lines = self.tmux.run("capture-pane", "-p", "-J", "-t", self.id).splitlines()
        return "\n".join(line.rstrip() for line in lines).rstrip("\n")

    def wait(self, pattern: str) -> str:
        """Wait until the pattern is found on the screen, of which a line is a line; return that.

        Raises EventTimeoutError with the screen.
        """
        wanted = re.compile(pattern, re.MULTILINE)
        screens = [""]

        def is_there() -> bool:
            screens[0] = self.screen()
            return wanted.search(screens[0]) is not None

        self.tmux.wait_until(is_there, lambda: f"no {pattern!r} on the screen:\n{screens[0]}")
        return screens[0]

    def resize(self, columns: int, rows: int) -> None:
        """Give its window another size."""
        self.tmux.run("resize-window", "-t", self.id, "-x", str(columns), "-y", str(rows))

    def kill(self) -> None:
        """Close it, as its user does."""
        self.tmux.run("kill-pane", "-t", self.id)

    def exists(self) -> bool:
        """Return whether it has not been closed, by its command's end or otherwise."""
        return (
            self.id in self.tmux.run("list-panes", "-s", "-t", _SESSION, "-F", "#{pane_id}").split()
        )

    def wait_gone(self) -> None:
        """Wait until it is closed. Raises EventTimeoutError with the screen."""
        self.tmux.wait_until(lambda: not self.exists(), lambda: f"still there:\n{self.screen()}")
