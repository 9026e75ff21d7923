"""A client of QEMU's monitor protocol (QMP), as small as the tests need.

docs/interop/qmp-spec.txt of QEMU: one JSON object per line; a greeting, the capabilities' exchange,
then one answer per command with events in between.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket


class MonitorError(Exception):
    """QEMU has refused a command, or has ended."""


class Monitor:
    """QEMU's monitor over a connected socket that it owns. Not for several threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._is_greeted = False

    def execute(self, command: str, /, **arguments: object) -> Any:  # noqa: ANN401 -- JSON
        """Run a command and return its answer, as JSON says. Raises MonitorError."""
        if not self._is_greeted:
            self._receive()
            self._is_greeted = True
            self.execute("qmp_capabilities")
        line = json.dumps({"execute": command, "arguments": arguments})
        try:
            self._connection.sendall(line.encode() + b"\n")
        except OSError as error:
            raise MonitorError(f"{command}: QEMU is gone ({error})") from error
        while "event" in (answer := self._receive()):
            pass
        if "error" in answer:
            raise MonitorError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def human(self, line: str) -> str:
        """Run a command of the monitor for people (``help`` lists them); return its text."""
        answer = self.execute("human-monitor-command", **{"command-line": line})
        assert isinstance(answer, str)
        return answer

    def close(self) -> None:
        """Hang up; the guest runs on."""
        self._lines.close()
        self._connection.close()

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except OSError as error:
            raise MonitorError(f"the monitor does not answer: {error}") from error
        if not line:
            raise MonitorError("QEMU has closed its monitor")
        answer: dict[str, Any] = json.loads(line)
        return answer
