"""What a process costs, read from outside: CPU time, wake-ups, memory.

CPU time comes from the kernel's clock of the whole process, which counts in nanoseconds and keeps
what ended threads have used.
"""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Final, Self

CPUCLOCK_SCHED: Final = 2  # include/linux/posix-timers_types.h: the clock of user + system time


def cpu_ns(pid: int) -> int:
    """User + system time of all threads of `pid`, those that ended too, in nanoseconds."""
    return time.clock_gettime_ns((~pid << 3) | CPUCLOCK_SCHED)  # clock_getcpuclockid(3)


def family(pid: int) -> list[int]:
    """`pid` and all processes below it, as they are now."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found.extend(int(child) for child in children.read_text().split())
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """CPU time in nanoseconds and voluntary context switches (each a wake-up) so far."""

    cpu_ns: int
    switches: int

    def __sub__(self, other: Self) -> "Usage":
        return Usage(self.cpu_ns - other.cpu_ns, self.switches - other.switches)

    @property
    def cpu_ms(self) -> float:
        """CPU time in milliseconds."""
        return self.cpu_ns / 1e6


def usage(pid: int) -> Usage:
    """Sum up what `pid` and the processes below it have used; an ended one counts nothing."""
    total, switches = 0, 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            total += cpu_ns(member)
            for task in Path(f"/proc/{member}/task").iterdir():
                switches += status_fields(task)["voluntary_ctxt_switches"]
    return Usage(total, switches)


def wakeups(pid: int) -> int:
    """Return how often the threads of a process have gone to sleep or were interrupted so far."""
    names = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
    fields = [status_fields(task) for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(each[name] for each in fields for name in names)


def status_fields(directory: Path) -> dict[str, int]:
    """Read the numeric fields of a ``status`` file, memory in kB; see proc_pid_status(5)."""
    fields = {}
    for line in (directory / "status").read_text().splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            fields[name] = int(words[0])
    return fields


@dataclasses.dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes (10^6) resident: at the most, and as of now nobody else's.

    ``pss`` counts what is shared, too, divided by the number of those that share it.
    """

    peak: float
    private: float
    pss: float


def memory(pid: int) -> Memory:
    """Return what one process holds."""
    private, pss = 0, 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_"):
            private += int(line.split()[1])
        elif line.startswith("Pss:"):
            pss = int(line.split()[1])
    peak = status_fields(Path(f"/proc/{pid}"))["VmHWM"]
    return Memory(*(kilobytes * 1024 / 1e6 for kilobytes in (peak, private, pss)))
