"""Services to be called, in directories of their own."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

ME: Final = pwd.getpwuid(os.geteuid()).pw_name


class Services:
    """Two directories of services, the first before the second, and one of their settings."""

    def __init__(self, root: Path) -> None:
        self.first = root / "first"
        self.second = root / "second"
        self.settings = root / "settings"
        for directory in (root, self.first, self.second, self.settings):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """Return what leads there, and junk that must not get any further."""
        return {
            "QREXEC_SERVICE_PATH": f"{self.first}:{self.second}",
            "QUBES_RPC_CONFIG_PATH": str(self.settings),
            "QREXEC_SERVICE_ARGUMENT": "junk",
            "QREXEC_REQUESTED_TARGET": "junk",
            "QREXEC_REQUESTED_TARGET_KEYWORD": "junk",
            "QREXEC_WHATEVER": "junk",
            "INHERITED": "yes",
        }

    def script(self, name: str, text: str, directory: Path | None = None) -> Path:
        """Make an executable; return its path."""
        path = (directory or self.second) / name
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    def configure(self, name: str, text: str) -> None:
        """Write a service's settings."""
        (self.settings / name).write_text(text, encoding="utf-8")


class Gate:
    """A FIFO at PATH, and both of its ends: whoever does ``read go <PATH`` waits to be let go."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        self._fd = os.open(path, os.O_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def open(self) -> None:
        """Let one of them go, who may yet have to come."""
        os.write(self._fd, b"\n")


def shell(command: str) -> str:
    """Return the command line of our own user's COMMAND."""
    return f"{ME}:{command}"


def service(call: str) -> str:
    """Return the command line of a CALL: a service, and who calls it."""
    return f"{ME}:QUBESRPC {call}"
