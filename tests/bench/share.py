"""Cost against the share of the screen that changes: a video in the middle of a desktop at rest."""

import dataclasses
from pathlib import Path
from typing import Final

from tests.bench.cost import cost, drawing_ms
from tests.bench.plan import Plan
from tests.bench.processes import Child, Load
from tests.bench.stage import Slice, Stage, agent_run

SHARES: Final = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """Milliseconds of CPU a frame, program and X server beyond drawing together."""

    share: float  # of the screen's pixels, 0 to 1
    agent_ms: float
    part_ms: float  # the floor of what changed
    whole_ms: float  # the floor of a whole frame
    bytes: int  # of the agent's frame


def run_share(share: float, plan: Plan, server: Child, display: str, directory: Path) -> Share:
    """Measure one share of the screen."""
    alone, part, whole, agent = [list[Slice]() for _ in range(4)]
    seconds = plan.share_seconds
    with Load("part", display, plan.fps, directory, share=share) as load:
        stage = Stage(server, display, load, directory)
        with agent_run(stage, plan.program, plan.fps) as run:
            run.wait_first()
            run.pause()
            for _ in range(plan.share_rounds):
                alone.append(stage.alone(seconds))
                part.append(stage.floor(seconds, plan.fps, only_part=True))
                whole.append(stage.floor(seconds, plan.fps))
                agent.append(run.turn(seconds))
    drawing = drawing_ms(alone)
    ours = cost(agent, drawing)
    return Share(
        share=share,
        agent_ms=ours.total,
        part_ms=cost(part, drawing).total,
        whole_ms=cost(whole, drawing).total,
        bytes=ours.bytes,
    )
