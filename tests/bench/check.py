"""Fail when a cost has grown by more than a fifth against the kept ratios (make bench-check).

    python -m tests.bench.check [--keep] [--only PART] [--agent COMMAND]

What is held is a ratio of two numbers of the same run, or of a number to its goal: times differ
from machine to machine, and from hour to hour.  What is over its limit is measured again, up to
twice, and the best counts: a real loss is there each time, a busy machine is not.  --keep measures
three times and writes the medians to baseline.json beside this file.
"""

import argparse
import dataclasses
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.bench.goals import AGENT_MB, DAEMON_MB, USER_AGENT_MB
from tests.bench.plan import SHORT, Plan
from tests.bench.processes import AGENT, BenchError
from tests.bench.results import Results
from tests.bench.run import run
from tests.fixtures.processes import FixtureError

BASELINE: Final = Path(__file__).with_name("baseline.json")
LOSS: Final = 1.2
TRIES: Final = 3
# Each measure, and the part of the benchmark that has it.
PART_OF: Final = {
    "video, CPU to the floor": "video",
    "desktop, CPU to the floor": "desktop",
    "typing, CPU to the floor": "typing",
    "video, bytes to the floor": "video",
    "desktop, bytes to the floor": "desktop",
    "typing, bytes to the floor": "typing",
    "static, frames and wake-ups": "static",
    "relay, CPU to a plain relay": "daemon",
    "daemon, memory to its goal": "daemon",
    "agent, memory to its goal": "daemon",
    "daemon, wake-ups at rest": "daemon",
    "routed calls at once, CPU": "host",
    "user's agent, memory": "host",
    "user's agent, wake-ups": "host",
}
# Many short turns: what disturbs the machine for a second or two then spoils few of them.
PLAN: Final = dataclasses.replace(
    SHORT, rounds=7, seconds=0.6, age_seconds=0, warm=4, cold=1, relay_seconds=4, asks=False,
    call_rounds=15, call_seconds=0.1,
)  # fmt: skip


def measured(found: Results, size: tuple[int, int]) -> dict[str, float]:
    """Return the measures of PART_OF that a run has; less is better."""
    values: dict[str, float] = {}
    for one in found.moving:
        values[f"{one.load}, CPU to the floor"] = one.ratio
        values[f"{one.load}, bytes to the floor"] = one.agent.bytes / one.floor.bytes
    if rest := found.rest:
        on_top = max(0, rest.server_wakeups - rest.alone_server_wakeups)
        values["static, frames and wake-ups"] = rest.frames + rest.agent_wakeups + on_top
    if daemon := found.daemon:
        frame_mb = size[0] * size[1] * 4 / 1e6
        values["relay, CPU to a plain relay"] = daemon.relayed.ratio
        values["daemon, memory to its goal"] = daemon.daemon.peak / DAEMON_MB
        values["agent, memory to its goal"] = daemon.agent.peak / (AGENT_MB + frame_mb)
        values["daemon, wake-ups at rest"] = daemon.idle_daemon + daemon.idle_agents
    if host := found.host:
        values["routed calls at once, CPU"] = host.agent_ratios.pipelined_cpu
        values["user's agent, memory"] = host.held.pss / USER_AGENT_MB
        values["user's agent, wake-ups"] = host.idle_agent + host.idle_daemon
    return values


def losses(values: Mapping[str, float], kept: Mapping[str, float]) -> list[str]:
    """Return the measures that are over their limit."""
    return [name for name, value in values.items() if value > LOSS * kept[name]]


def measure_again(values: dict[str, float], kept: Mapping[str, float], plan: Plan) -> None:
    """Let what is lost have another try; VALUES keep the better one."""
    parts = tuple({PART_OF[name] for name in losses(values, kept)})
    for name, value in measured(run(dataclasses.replace(plan, parts=parts)), plan.size).items():
        values[name] = min(values[name], value)


def check(plan: Plan) -> int:
    """Return the exit status: 1 when something is lost in every try."""
    kept: dict[str, float] = json.loads(BASELINE.read_text())
    values = measured(run(plan), plan.size)
    for _ in range(TRIES - 1):
        if losses(values, kept):
            show(values, kept)
            sys.stdout.write("measuring again what is over its limit\n")
            measure_again(values, kept, plan)
    show(values, kept)
    return 1 if losses(values, kept) else 0


def show(values: Mapping[str, float], kept: Mapping[str, float]) -> None:
    """Print a line for each measure."""
    lost = losses(values, kept)
    for name, value in values.items():
        verdict = "LOST" if name in lost else ""
        sys.stdout.write(
            f"{name:30}{value:8.3f}  kept {kept[name]:6.3f}, limit {LOSS * kept[name]:6.3f}"
            f"  {verdict}\n"
        )


def keep(plan: Plan) -> int:
    """Measure three times and write the medians down."""
    runs = [measured(run(plan), plan.size) for _ in range(TRIES)]
    values = {name: round(statistics.median(each[name] for each in runs), 3) for name in runs[0]}
    kept = json.loads(BASELINE.read_text()) | values  # which has no other part's with --only
    BASELINE.write_text(json.dumps(kept, indent=1) + "\n")
    sys.stdout.write(BASELINE.read_text())
    return 0


def main(argv: Sequence[str]) -> int:
    """Check, or keep; 1 for a loss, 2 when the benchmark did not run."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.check", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="write the baseline")
    parser.add_argument("--only", action="append", choices=sorted(set(PART_OF.values())))
    parser.add_argument("--agent", type=shlex.split, default=AGENT, help="another agent's command")
    options = parser.parse_args(argv)
    parts = tuple(options.only or dict.fromkeys(PART_OF.values()))
    plan = dataclasses.replace(PLAN, parts=parts, agent=tuple(options.agent))
    try:
        return keep(plan) if options.keep else check(plan)
    except (BenchError, FixtureError, OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"bench-check: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
