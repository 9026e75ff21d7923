"""What logind signals on the container's bus, as it comes: a busctl(1) that monitors.

Nothing here polls: who waits is woken by each line that the monitor writes.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from tests.system.container import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.system.container import Container
    from tests.vm.channel import Process

MATCH: Final = "type='signal',sender='org.freedesktop.login1'"


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal. ``properties`` are those of a PropertiesChanged, by name."""

    path: str
    member: str
    arguments: tuple[Any, ...]
    properties: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_json(cls, line: bytes) -> Self:
        """Make one of a line of ``busctl --json=short monitor``."""
        message = json.loads(line)
        arguments = tuple(message.get("payload", {}).get("data", ()))
        properties = {}
        if message["member"] == "PropertiesChanged":
            properties = {name: value["data"] for name, value in arguments[1].items()}
        return cls(message["path"], message["member"], arguments, properties)


class Signals:
    """A context manager: entered, no signal of logind is missed until it is left."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._monitor: Process
        self._parsed: list[Signal] = []
        self._bytes = 0

    def __enter__(self) -> Self:
        self._monitor = self._container.spawn(
            ["busctl", "monitor", "--json=short", f"--match={MATCH}"]
        )
        self._monitor.wait_for_output("Monitoring", "stderr", PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._monitor.kill()
        self._monitor.wait(PATIENCE)

    @property
    def all(self) -> list[Signal]:
        """All signals so far, oldest first."""
        with self._container.channel.changed:
            # Whole lines only: the rest of one may be on its way.
            data = self._monitor.output()[self._bytes :]
            whole = data[: data.rfind(b"\n") + 1]
            self._bytes += len(whole)
            self._parsed += map(Signal.of_json, whole.splitlines())
            return list(self._parsed)

    def now(self) -> int:
        """Return how many have come: ``after`` for what follows."""
        return len(self.all)

    def wait_for(
        self,
        wanted: Callable[[Signal], bool],
        timeout: float = PATIENCE,
        *,
        after: int = 0,
    ) -> Signal:
        """Wait for the first signal, of those after the first AFTER ones, for which WANTED holds.

        Raises GuestTimeoutError, which shows what has come instead.
        """
        found: Signal | None = None

        def came() -> bool:
            nonlocal found
            found = next(filter(wanted, self.all[after:]), None)
            return found is not None

        def fault() -> str:
            lines = "\n".join(map(str, self.all[after:]))
            return f"the wanted signal is not among these:\n{lines}\nand did not come"

        self._container.channel.wait_until(came, fault, timeout)
        assert found is not None
        return found

    def wait_for_active(self, id_: str, timeout: float = PATIENCE, *, after: int = 0) -> Signal:
        """Wait until the seat tells that this session is in front; none, for an empty id."""
        return self.wait_for(
            lambda signal: signal.properties.get("ActiveSession", [None])[0] == id_,
            timeout,
            after=after,
        )

    def wait_for_new(self, id_: str, timeout: float = PATIENCE, *, after: int = 0) -> Signal:
        """Wait for a session's SessionNew."""
        return self.wait_for(
            lambda signal: signal.member == "SessionNew" and signal.arguments[0] == id_,
            timeout,
            after=after,
        )

    def wait_until(self, holds: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
        """Wait until HOLDS, which is asked now and after each signal; WHAT names it in the error.

        For what a signal announces but does not tell. Raises GuestTimeoutError.
        """
        deadline = time.monotonic() + timeout
        while True:
            seen = self.now()
            if holds():
                return
            self._wait_beyond(seen, what, max(0.0, deadline - time.monotonic()))

    def _wait_beyond(self, seen: int, what: str, timeout: float) -> None:
        def fault() -> str:
            return f"not yet: {what}; signals:\n" + "\n".join(map(str, self.all))

        self._container.channel.wait_until(lambda: self.now() > seen, fault, timeout)
