"""Times questions over the system bus, ours beside logind's: runs where the daemon is.

``python3 -m tests.bench.ask COUNT`` asks each question COUNT times, the two services in turn, one
question at a time, and prints a JSON object: the median of each in microseconds.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from typing import Final

from sessiond.transport.bus import Bus, Call

OURS: Final = "org.spice_space.Sessiond1"
PATH: Final = "/org/spice_space/Sessiond1"
LOGIN1: Final = "org.freedesktop.login1"
SEAT: Final = "/org/freedesktop/login1/seat/seat0"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
QUESTIONS: Final = {
    "get": Call(OURS, PATH, PROPERTIES, "Get", "ss", [f"{OURS}.Manager", "ActiveSession"]),
    "get_logind": Call(LOGIN1, SEAT, PROPERTIES, "Get", "ss", [f"{LOGIN1}.Seat", "ActiveSession"]),
    "list": Call(OURS, PATH, f"{OURS}.Manager", "ListSessions"),
    "list_logind": Call(LOGIN1, "/org/freedesktop/login1", f"{LOGIN1}.Manager", "ListSessions"),
}
ROUND: Final = 50  # questions of one kind before the next kind's turn


async def ask(count: int) -> dict[str, float]:
    """Return the median of each question in microseconds."""
    times: dict[str, list[float]] = {name: [] for name in QUESTIONS}
    with await Bus.connect("system") as bus:
        for _ in range(count // ROUND):
            for name, question in QUESTIONS.items():
                for _ in range(ROUND):
                    begin = time.perf_counter()
                    await bus.call(question)
                    times[name].append(1e6 * (time.perf_counter() - begin))
    return {name: round(statistics.median(each), 1) for name, each in times.items()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(int(sys.argv[1])))))
