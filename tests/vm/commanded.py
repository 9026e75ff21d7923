"""What guests and containers have in common: they take commands, and have a console's log."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.vm.channel import PATIENCE, Channel, Completed, GuestTimeoutError, Process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack
    from pathlib import Path


class Commanded:
    """The base of both, from their entering to their end; raises the errors of ``channel``.

    ``patience``: how long a command may take, in seconds, where nothing else is said.
    """

    patience = PATIENCE
    channel: Channel
    console_log: Path
    _resources: ExitStack

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def console(self) -> str:
        """All that the kernel and systemd have written to the console."""
        return self.console_log.read_text(errors="replace").replace("\r", "")

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        check: bool = True,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bytes = b"",
    ) -> Completed:
        """Run a command to its end; with ``check``, raise CommandFailedError for a status but 0.

        It runs in the user's home or ``cwd``, with a plain environment and ``env``, outside any
        logind session. At the time-out it is killed and GuestTimeoutError raised.
        """
        process = self.spawn(argv, user=user, env=env, cwd=cwd, stdin=stdin)
        try:
            return process.wait(self.patience if timeout is None else timeout, check=check)
        except GuestTimeoutError:
            process.kill(signal.SIGKILL)
            raise

    def spawn(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bytes = b"",
    ) -> Process:
        """Start a command and return at once; it ends by itself, by ``kill`` or with the rest."""
        return self.channel.start(argv, user=user, env=env, cwd=cwd, stdin=stdin)

    def read(self, path: str) -> bytes:
        """Return the content of a file inside."""
        process = self.spawn(["cat", "--", path])
        process.wait(self.patience, check=True)
        return process.output()

    def push(self, path: str, data: bytes, *, mode: int = 0o644, user: str = "root") -> None:
        """Write a file inside, owned by ``user``, and the directories above it."""
        install = ["install", "-D", f"--mode={mode:o}", f"--owner={user}", "/dev/stdin", path]
        self.run(install, stdin=data)
