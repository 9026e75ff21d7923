"""Puts an agent into a scope of its own, where systemd is PID 1.

There its memory and its tasks are limited, and its session can close without it. Not waited for:
an agent that systemd does not take runs where it was born, in the daemon's own unit.
"""

import logging
from pathlib import Path
from typing import Any, Final

from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_signals import Answer
from sessiond.transport.dbus import Variant

log = logging.getLogger(__name__)

MEMORY: Final = 1 << 30  # bytes: two frames of 8192x8192 are half of it
TASKS: Final = 64
STOP: Final = 5_000_000  # microseconds; the end of the machine does not wait longer for an agent
_BOOTED: Final = Path("/run/systemd/system")  # sd_booted(3)


def move_to_scope(bus: Bus, key: str, pid: int) -> None:
    """Ask systemd to take ``pid`` into ``spice-session-agent-PID.scope``."""
    if not _BOOTED.is_dir():
        return
    properties: list[list[Any]] = [
        ["Description", Variant("s", f"SPICE agent of {key}")],
        ["PIDs", Variant("au", [pid])],
        ["MemoryMax", Variant("t", MEMORY)],
        ["TasksMax", Variant("t", TASKS)],
        ["TimeoutStopUSec", Variant("t", STOP)],
        ["CollectMode", Variant("s", "inactive-or-failed")],
    ]
    call = Call(
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
        "StartTransientUnit",
        "ssa(sv)a(sa(sv))",
        [f"spice-session-agent-{pid}.scope", "fail", properties, []],
    )

    def done(answer: Answer) -> None:
        if isinstance(answer, Exception):
            log.info("agent %d stays in the daemon's unit: %s", pid, answer)

    bus.call_nowait(call, done)
