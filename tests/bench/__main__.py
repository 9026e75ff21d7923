"""Measure the stream agent against its floor, and the daemon against its goals; print tables.

    python -m tests.bench [--short] [--seconds S] [--json FILE] [--agent COMMAND]

On a private Xvfb each load is run alone, under the floor program and under the agent, in turn,
several times; the table shows medians.  A millisecond is one of CPU, user + system.  Then comes the
daemon with agents of its own (`tests.bench.daemon`), and last its answers on a bus beside those of
a real logind (`tests.bench.bus`), where a container can run.  Needs Xvfb, a C compiler and the
headers that the Makefile names.  Exits with 0 when everything ran, whatever the numbers are.
"""

import argparse
import contextlib
import dataclasses
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import bus
from tests.bench.daemon import DaemonPlan, DaemonResult, run_daemon, show_daemon
from tests.bench.measure import (
    HERE,
    AgentRun,
    BenchError,
    Child,
    Load,
    Memory,
    Slice,
    Stage,
    agent_run,
    memory,
    usage,
    x_server,
)
from tests.fixtures.processes import FixtureError

MOVING = ("video", "desktop", "typing")
LOADS = (*MOVING, "static", "daemon", "bus")
WARM_UP = 0.7  # seconds from an agent's first frame to the first that counts
SLOW_FPS = 10.0  # for the age of a frame: each arrives before the next is drawn


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and for how long."""

    loads: tuple[str, ...]
    slices: int
    seconds: float  # a slice
    static_seconds: float
    age_seconds: float
    fps: float
    size: tuple[int, int]
    command: tuple[str, ...]  # empty: the floor only
    daemon: DaemonPlan
    questions: int  # of each kind to the daemon and to logind


@dataclasses.dataclass(slots=True)
class Moving:
    """The result of a load that moves; ms of CPU a frame unless said otherwise."""

    load: str
    drawing_ms: float
    floor_capture_ms: float
    floor_encode_ms: float
    floor_server_ms: float
    floor_ms: float
    floor_fps: float
    floor_bytes: int
    slices: dict[str, list[Slice]]
    fps: float = 0.0
    agent_ms: float = 0.0
    server_ms: float = 0.0
    sum_ms: float = 0.0
    ratio: float = 0.0
    bytes: int = 0
    wakeups: float = 0.0
    first_ms: float = 0.0  # elapsed time, START to the first frame
    age_asked_ms: float = 0.0  # elapsed time, a frame's request to its last byte in the port
    age_drawn_ms: float = 0.0
    memory: Memory | None = None
    after_stop: int = 0
    after_stop_ms: float = 0.0  # in one second
    picture_fault: str = ""


@dataclasses.dataclass(slots=True)
class Static:
    """The result of the load at rest: what came and what it cost in `seconds`."""

    load: str
    seconds: float
    messages: int
    agent_ms: float
    agent_wakeups: int
    server_ms: float
    server_wakeups: int
    alone_server_ms: float  # the same without an agent
    alone_server_wakeups: int
    memory: Memory
    picture_fault: str


# ---------------------------------------------------------------- running


def median_of(slices: list[Slice], value: Callable[[Slice], float]) -> float:
    """Take the median of a value over slices."""
    return statistics.median(value(each) for each in slices)


def run_moving(mode: str, plan: Plan, server: Child, display: str, directory: Path) -> Moving:
    """Load alone, floor and agent in turn; then what follows a STOP, the picture and its age."""
    slices: dict[str, list[Slice]] = {"alone": [], "floor": [], "agent": []}
    said: list[dict[str, float]] = []
    extra = Extra()
    with Load(mode, display, plan.fps, directory) as load:
        stage = Stage(server, display, load, directory)
        for number in range(plan.slices):
            slices["alone"].append(stage.alone(plan.seconds))
            measured, own = stage.floor(plan.seconds, plan.fps)
            slices["floor"].append(measured)
            said.append(own)
            if plan.command:
                with agent_run(stage, plan.command, plan.fps) as run:
                    extra.first_ms.append(run.wait_first())
                    time.sleep(WARM_UP)
                    slices["agent"].append(run.measure(plan.seconds))
                    if number == plan.slices - 1:
                        extra.finish(run)
    if plan.command:
        extra.ages_ms = run_ages(mode, plan, server, display, directory)
    return moving_result(mode, slices, said, extra)


class Extra:
    """What is gathered beside the slices."""

    def __init__(self) -> None:
        self.first_ms: list[float] = []
        self.ages_ms: list[tuple[float, float]] = []
        self.memory: Memory | None = None
        self.picture_fault = ""
        self.after_stop = (0, 0.0)

    def finish(self, run: AgentRun) -> None:
        """After the last slice: memory, the newest picture, and STOP."""
        self.memory = memory(run.agent.pid)
        self.picture_fault = run.picture_fault()
        self.after_stop = run.stopped(1.0)


def run_ages(
    mode: str, plan: Plan, server: Child, display: str, directory: Path
) -> list[tuple[float, float]]:
    """Measure the age of frames, on the same load drawn slowly."""
    with Load(mode, display, SLOW_FPS, directory) as load:
        stage = Stage(server, display, load, directory)
        with agent_run(stage, plan.command, plan.fps) as run:
            run.wait_first()
            time.sleep(WARM_UP)
            return run.ages_ms(plan.age_seconds)


def moving_result(
    mode: str, slices: dict[str, list[Slice]], said: list[dict[str, float]], extra: Extra
) -> Moving:
    """Take the medians of all slices."""
    drawing = median_of(slices["alone"], lambda each: each.server_ms / max(1, each.drawn))
    floor_server = median_of(slices["floor"], lambda each: each.server_ms_on_top(drawing))
    floor_client = median_of(slices["floor"], lambda each: each.client_ms)
    result = Moving(
        load=mode,
        drawing_ms=drawing,
        floor_capture_ms=statistics.median(own["capture_ms"] for own in said),
        floor_encode_ms=statistics.median(own["encode_ms"] for own in said),
        floor_server_ms=floor_server,
        floor_ms=floor_client + floor_server,
        floor_fps=median_of(slices["floor"], lambda each: each.frames / each.seconds),
        floor_bytes=int(median_of(slices["floor"], lambda each: each.bytes)),
        slices=slices,
    )
    agent = slices["agent"]
    if agent:
        result.fps = median_of(agent, lambda each: each.frames / each.seconds)
        result.agent_ms = median_of(agent, lambda each: each.client_ms)
        result.server_ms = median_of(agent, lambda each: each.server_ms_on_top(drawing))
        result.sum_ms = result.agent_ms + result.server_ms
        result.ratio = result.sum_ms / result.floor_ms
        result.bytes = int(median_of(agent, lambda each: each.bytes))
        result.wakeups = median_of(agent, lambda each: each.wakeups / max(1, each.frames))
        result.first_ms = statistics.median(extra.first_ms)
        result.memory = extra.memory
        result.after_stop, result.after_stop_ms = extra.after_stop
        result.picture_fault = extra.picture_fault
    if extra.ages_ms:
        result.age_asked_ms = statistics.median(asked for asked, _ in extra.ages_ms)
        result.age_drawn_ms = statistics.median(drawn for _, drawn in extra.ages_ms)
    return result


def run_static(plan: Plan, server: Child, display: str, directory: Path) -> Static:
    """Measure a screen at rest: without an agent, then with one that has sent its first frame."""
    seconds = plan.static_seconds
    with Load("static", display, plan.fps, directory) as load:
        stage = Stage(server, display, load, directory)
        time.sleep(WARM_UP)
        before = usage(server.pid)
        time.sleep(seconds)
        alone = usage(server.pid) - before
        with agent_run(stage, plan.command, plan.fps, keep=True) as run:
            run.wait_first()
            time.sleep(1 + WARM_UP)
            run.peer.ask("mark")
            before, agent = usage(server.pid), usage(run.agent.pid)
            time.sleep(seconds)
            used, agent = usage(server.pid) - before, usage(run.agent.pid) - agent
            tally = run.peer.ask("mark")
            run.agent.check_alive()
            return Static(
                load="static",
                seconds=seconds,
                messages=tally["frames"],
                agent_ms=agent.cpu_ms,
                agent_wakeups=agent.switches,
                server_ms=used.cpu_ms,
                server_wakeups=used.switches,
                alone_server_ms=alone.cpu_ms,
                alone_server_wakeups=alone.switches,
                memory=memory(run.agent.pid),
                picture_fault=run.picture_fault(is_moving=False),
            )


# ---------------------------------------------------------------- showing


def table(titles: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as their widest cell, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    lines = []
    for row in [titles, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def show_floor(results: list[Moving]) -> str:
    """Show the floor and what drawing alone costs, ms a frame."""
    titles = ["floor", "frames/s", "capture", "encode", "X on top", "sum", "bytes", "X drawing"]
    rows = [
        [
            one.load,
            f"{one.floor_fps:.1f}",
            f"{one.floor_capture_ms:.3f}",
            f"{one.floor_encode_ms:.2f}",
            f"{one.floor_server_ms:.2f}",
            f"{one.floor_ms:.2f}",
            str(one.floor_bytes),
            f"{one.drawing_ms:.2f}",
        ]
        for one in results
    ]
    return table(titles, rows)


def show_agent(results: list[Moving]) -> str:
    """Show the agent, ms of CPU a frame, with its ratio to the floor."""
    titles = ["agent", "frames/s", "agent", "X on top", "sum", "floor", "ratio", "bytes"]
    titles += ["wakeups", "first ms", "age ms", "peak MB", "anon", "file", "shared"]
    rows = []
    for one in results:
        held = one.memory or Memory(0, 0, 0, 0)
        rows.append(
            [
                one.load,
                f"{one.fps:.1f}",
                f"{one.agent_ms:.2f}",
                f"{one.server_ms:.2f}",
                f"{one.sum_ms:.2f}",
                f"{one.floor_ms:.2f}",
                f"{one.ratio:.2f}",
                str(one.bytes),
                f"{one.wakeups:.1f}",
                f"{one.first_ms:.0f}",
                f"{one.age_drawn_ms:.1f}",
                f"{held.peak:.1f}",
                f"{held.anonymous:.1f}",
                f"{held.file:.1f}",
                f"{held.shared:.1f}",
            ]
        )
    return table(titles, rows)


def show_notes(one: Moving) -> str:
    """Say what the table has no column for."""
    picture = one.picture_fault or "right"
    return (
        f"{one.load}: newest picture {picture}; in 1 s after STOP {one.after_stop} messages, "
        f"agent {one.after_stop_ms:.1f} ms; age from the request {one.age_asked_ms:.1f} ms"
    )


def show_static(one: Static) -> str:
    """Say what the screen at rest cost."""
    return (
        f"static, {one.seconds:g} s: {one.messages} DATA messages; agent {one.agent_ms:.2f} ms, "
        f"{one.agent_wakeups} wake-ups; X server {one.server_ms:.2f} ms, {one.server_wakeups} "
        f"wake-ups (without agent {one.alone_server_ms:.2f} ms, {one.alone_server_wakeups}); "
        f"peak {one.memory.peak:.1f} MB; picture {one.picture_fault or 'right'}"
    )


# ---------------------------------------------------------------- the program


def default_command() -> tuple[str, ...]:
    """Find the agent beside this Python if it is installed there, or in the source tree."""
    installed = Path(sys.executable).with_name("spice-session-agent")
    return (str(installed),) if installed.exists() else (sys.executable, "-m", "agent")


def read_plan(argv: list[str]) -> tuple[Plan, Path | None]:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=3.0, help="of one slice (3)")
    parser.add_argument("--slices", type=int, default=3, help="of each kind (3)")
    parser.add_argument(
        "--short", action="store_true", help="one slice of 2 s, static 5 s, idle 10"
    )
    parser.add_argument("--static-seconds", type=float, default=30.0, help="at rest (30)")
    parser.add_argument("--fps", type=float, default=60.0, help="of the load and of the agent (60)")
    parser.add_argument("--size", default="1920x1080", help="of the screen (1920x1080)")
    parser.add_argument("--load", action="append", choices=LOADS, help="only this part; repeatable")
    parser.add_argument("--agent", help="its command, without 'stream' and options")
    parser.add_argument("--floor-only", action="store_true", help="without an agent")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    options = parser.parse_args(argv)
    command = tuple(shlex.split(options.agent)) if options.agent else default_command()
    width, height = map(int, options.size.split("x"))
    plan = Plan(
        loads=tuple(options.load or LOADS),
        slices=1 if options.short else options.slices,
        seconds=min(2.0, options.seconds) if options.short else options.seconds,
        static_seconds=5.0 if options.short else options.static_seconds,
        age_seconds=2.0 if options.short else 4.0,
        fps=options.fps,
        size=(width, height),
        command=() if options.floor_only else command,
        daemon=DaemonPlan(
            command=command,
            size=(width, height),
            fps=options.fps,
            warm=20 if options.short else 60,
            cold=5 if options.short else 15,
            seconds=4.0 if options.short else 10.0,
            idle_seconds=10.0 if options.short else 60.0,
        ),
        questions=1000 if options.short else 5000,
    )
    return plan, options.json


def run(plan: Plan) -> tuple[list[Moving], list[Static], list[DaemonResult]]:
    """Everything planned: the agent on one X server, then the daemon on others."""
    subprocess.run(["make", "-s", "-C", HERE], check=True)
    moving: list[Moving] = []
    static: list[Static] = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server, display = stack.enter_context(x_server(*plan.size, directory / "xvfb.log"))
        for mode in plan.loads:
            if mode in MOVING:
                moving.append(run_moving(mode, plan, server, display, directory))
            elif plan.command and mode == "static":
                static.append(run_static(plan, server, display, directory))
    daemon: list[DaemonResult] = []
    if plan.command and "daemon" in plan.loads:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            daemon.append(run_daemon(plan.daemon, Path(name)))
    return moving, static, daemon


def run_bus(plan: Plan) -> str:
    """Ask the daemon and a real logind the same, where there can be one."""
    if lacks := bus.missing():
        return f"questions: not measured, for it needs {'; '.join(lacks)}"
    return bus.table(bus.measure(plan.questions))


def main() -> int:
    """Run the plan of the command line, print, and write the numbers down."""
    plan, json_path = read_plan(sys.argv[1:])
    try:
        moving, static, daemon = run(plan)
    except (BenchError, FixtureError, OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    parts = [show_floor(moving)] if moving else []
    if plan.command and moving:
        parts += [show_agent(moving), "\n".join(map(show_notes, moving))]
    parts += map(show_static, static)
    parts += map(show_daemon, daemon)
    if plan.command and "bus" in plan.loads:
        parts.append(run_bus(plan))
    sys.stdout.write("\n\n".join(parts) + "\n")
    if json_path is not None:
        results: list[Moving | Static | DaemonResult] = [*moving, *static, *daemon]
        numbers = [dataclasses.asdict(each) for each in results]
        json_path.write_text(json.dumps(numbers, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
