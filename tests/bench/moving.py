"""Loads that move: what a frame costs beside the floor, and how old it is when it has come."""

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Final

from tests.bench.cost import Cost, cost, drawing_ms, ratio
from tests.bench.plan import Plan
from tests.bench.processes import Child, Load
from tests.bench.stage import WARM_UP, Slice, Stage, agent_run
from tests.bench.usage import Memory, memory

MOVING: Final = ("video", "desktop", "typing")
PARTLY: Final = ("typing",)  # has a second floor: that of what changed alone
AGED: Final = ("video", "typing")  # whose frames' age has a goal
SLOW_FPS: Final = 10.0  # for the age of a frame: each arrives before the next is drawn


@dataclasses.dataclass(frozen=True, slots=True)
class Moving:
    """The result of a load that moves."""

    load: str
    drawing_ms: float  # X server CPU a frame that nobody captures
    floor: Cost  # the whole screen, each frame
    part: Cost | None  # only what changed
    agent: Cost
    ratio: float  # the agent's total to the floor's, in the same round
    part_ratio: float | None
    first_ms: float  # elapsed time, START to a new agent's first frame
    age_asked_ms: float | None  # elapsed time, a frame's request to its last byte in the port
    age_drawn_ms: float | None  # likewise from when it was drawn
    memory: Memory
    after_stop: int  # messages in the second after STOP
    after_stop_ms: float  # and the agent's CPU
    picture_fault: str


@dataclasses.dataclass(slots=True)
class _Slices:
    alone: list[Slice] = dataclasses.field(default_factory=list)
    floor: list[Slice] = dataclasses.field(default_factory=list)
    part: list[Slice] = dataclasses.field(default_factory=list)
    agent: list[Slice] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class _End:
    """What is looked at after the last slice."""

    memory: Memory
    picture_fault: str
    after_stop: tuple[int, float]


def run_moving(mode: str, plan: Plan, server: Child, display: str, directory: Path) -> Moving:
    """Load alone, floor and agent in turn; then what follows a STOP, the picture and its age."""
    slices = _Slices()
    with Load(mode, display, plan.fps, directory) as load:
        stage = Stage(server, display, load, directory)
        with agent_run(stage, plan.program, plan.fps) as run:
            first_ms = run.wait_first()
            run.pause()
            for _ in range(plan.rounds):
                slices.alone.append(stage.alone(plan.seconds))
                slices.floor.append(stage.floor(plan.seconds, plan.fps))
                if mode in PARTLY:
                    slices.part.append(stage.floor(plan.seconds, plan.fps, only_part=True))
                slices.agent.append(run.turn(plan.seconds))
            run.resume()
            end = _End(memory(run.agent.pid), run.picture_fault(), run.stopped(1.0))
    is_aged = mode in AGED and plan.age_seconds > 0
    ages = _ages(mode, plan, server, display, directory) if is_aged else []
    return _result(mode, slices, first_ms, ages, end)


def _ages(
    mode: str, plan: Plan, server: Child, display: str, directory: Path
) -> list[tuple[float, float]]:
    """Measure the age of frames, on the same load drawn slowly."""
    with Load(mode, display, SLOW_FPS, directory) as load:
        stage = Stage(server, display, load, directory)
        with agent_run(stage, plan.program, plan.fps) as run:
            run.wait_first()
            time.sleep(WARM_UP)
            return run.ages_ms(plan.age_seconds)


def _result(
    mode: str,
    slices: _Slices,
    first_ms: float,
    ages: list[tuple[float, float]],
    end: _End,
) -> Moving:
    drawing = drawing_ms(slices.alone)
    after_stop, after_stop_ms = end.after_stop
    return Moving(
        load=mode,
        drawing_ms=drawing,
        floor=cost(slices.floor, drawing),
        part=cost(slices.part, drawing) if slices.part else None,
        agent=cost(slices.agent, drawing),
        ratio=ratio(slices.agent, slices.floor, drawing),
        part_ratio=ratio(slices.agent, slices.part, drawing) if slices.part else None,
        first_ms=first_ms,
        age_asked_ms=statistics.median(asked for asked, _ in ages) if ages else None,
        age_drawn_ms=statistics.median(drawn for _, drawn in ages) if ages else None,
        memory=end.memory,
        after_stop=after_stop,
        after_stop_ms=after_stop_ms,
        picture_fault=end.picture_fault,
    )
