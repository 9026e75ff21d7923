"""The same load through another program that streams a screen, in turn with our agent.

The other one is spice-streaming-agent, or whatever takes its options. Both get the same kind of
port, a pseudoterminal, for spice-streaming-agent can open devices only; so what our agent costs
here is somewhat more than elsewhere.
"""

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Final

from tests.bench.cost import Cost, cost, drawing_ms, ratio
from tests.bench.plan import Plan
from tests.bench.processes import Child, Load
from tests.bench.stage import WARM_UP, Program, Slice, Stage, agent_run
from tests.bench.usage import usage

LOADS: Final = ("video", "desktop", "typing")


@dataclasses.dataclass(frozen=True, slots=True)
class Versus:
    """A load that moves: ours, theirs, and our share of their cost."""

    load: str
    ours: Cost
    theirs: Cost
    ratio: float


@dataclasses.dataclass(frozen=True, slots=True)
class AtRest:
    """A screen at rest: percent of one CPU, and frames a second."""

    ours_percent: float
    ours_fps: float
    theirs_percent: float
    theirs_fps: float


def run_versus(mode: str, plan: Plan, server: Child, display: str, directory: Path) -> Versus:
    """A B A B: ours, theirs, ours, theirs."""
    alone: list[Slice] = []
    ours: list[Slice] = []
    theirs: list[Slice] = []
    with Load(mode, display, plan.fps, directory) as load:
        stage = Stage(server, display, load, directory)
        for _ in range(plan.rounds):
            alone.append(stage.alone(plan.seconds))
            ours.append(_slice(stage, _on_pty(plan.program), plan))
            theirs.append(_slice(stage, _theirs(plan), plan))
    drawing = drawing_ms(alone)
    shares = ratio(ours, theirs, drawing)
    return Versus(mode, cost(ours, drawing), cost(theirs, drawing), shares)


def run_at_rest(plan: Plan, server: Child, display: str, directory: Path) -> AtRest:
    """Let each stream a screen on which nothing is drawn."""
    found = []
    with Load("static", display, plan.fps, directory) as load:
        stage = Stage(server, display, load, directory)
        for program in (_on_pty(plan.program), _theirs(plan)):
            slices = [_rest(stage, program, plan) for _ in range(plan.rounds)]
            found += [statistics.median(values) for values in zip(*slices, strict=True)]
    return AtRest(*found)


def _theirs(plan: Plan) -> Program:
    assert plan.peer is not None
    return plan.peer


def _on_pty(program: Program) -> Program:
    return dataclasses.replace(program, is_pty=True)


def _slice(stage: Stage, program: Program, plan: Plan) -> Slice:
    with agent_run(stage, program, plan.fps) as run:
        run.wait_first()
        time.sleep(WARM_UP)
        return run.measure(plan.seconds)


def _rest(stage: Stage, program: Program, plan: Plan) -> tuple[float, float]:
    """Return percent of a CPU and frames a second."""
    with agent_run(stage, program, plan.fps) as run:
        run.wait_first()
        time.sleep(2 * WARM_UP)  # a frame may be sent once more after the first
        run.peer.ask("mark")
        before, begun = usage(run.agent.pid), time.monotonic()
        time.sleep(plan.seconds)
        used, lasted = usage(run.agent.pid) - before, time.monotonic() - begun
        run.agent.check_alive()
        return used.cpu_ms / lasted / 10, run.peer.ask("mark")["frames"] / lasted
