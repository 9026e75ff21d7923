"""How many frames come in a second when the host takes all, and the screen always has a new one."""

import dataclasses
import statistics
from pathlib import Path
from typing import Final

from agent.options import FRAMERATE
from tests.bench.plan import Plan
from tests.bench.processes import Child, Load
from tests.bench.stage import Stage, agent_run

UNLIMITED: Final = 1000.0  # frames a second, for the floor


@dataclasses.dataclass(frozen=True, slots=True)
class Speed:
    """Frames a second; the agent is asked for the most that its option takes."""

    asked: float
    fps: float
    floor_fps: float
    drawn_fps: float


def run_speed(plan: Plan, server: Child, display: str, directory: Path) -> Speed:
    """Floor and agent in turn, on a video of twice the asked rate."""
    asked = float(FRAMERATE.high)
    floor, agent, drawn = [], [], []
    with Load("video", display, 2 * asked, directory) as load:
        stage = Stage(server, display, load, directory)
        with agent_run(stage, plan.program, asked) as run:
            run.wait_first()
            run.pause()
            for _ in range(plan.rounds):
                one = stage.floor(plan.seconds, UNLIMITED)
                floor.append(one.frames / one.seconds)
                one = run.turn(plan.seconds)
                agent.append(one.frames / one.seconds)
                drawn.append(one.drawn / one.seconds)
    return Speed(asked, *map(statistics.median, (agent, floor, drawn)))
