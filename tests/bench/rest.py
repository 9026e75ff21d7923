"""A screen at rest: what comes, and what it costs, while nothing is drawn."""

import dataclasses
import time
from pathlib import Path
from typing import Final

from tests.bench.plan import Plan
from tests.bench.processes import Child, Load
from tests.bench.stage import WARM_UP, Stage, agent_run
from tests.bench.usage import Usage, usage

SETTLE: Final = 9.0  # seconds until the agent has sent the last picture as often as it does


@dataclasses.dataclass(frozen=True, slots=True)
class Rest:
    """What came in `seconds`, and what it cost."""

    seconds: float
    frames: int
    agent_ms: float
    agent_wakeups: int
    server_ms: float
    server_wakeups: int
    alone_server_ms: float  # the same without an agent
    alone_server_wakeups: int
    picture_fault: str


def run_rest(plan: Plan, server: Child, display: str, directory: Path) -> Rest:
    """Measure without an agent, then with one that has sent its first frame."""
    seconds = plan.rest_seconds
    with Load("static", display, plan.fps, directory) as load:
        stage = Stage(server, display, load, directory)
        time.sleep(WARM_UP)
        (alone,) = _used([server.pid], seconds)
        with agent_run(stage, plan.program, plan.fps, keep=True) as run:
            run.wait_first()
            time.sleep(SETTLE)
            run.peer.ask("mark")
            used, agent = _used([server.pid, run.agent.pid], seconds)
            tally = run.peer.ask("mark")
            run.agent.check_alive()
            fault = run.picture_fault(is_moving=False)
    return Rest(
        seconds=seconds,
        frames=tally["frames"],
        agent_ms=agent.cpu_ms,
        agent_wakeups=agent.switches,
        server_ms=used.cpu_ms,
        server_wakeups=used.switches,
        alone_server_ms=alone.cpu_ms,
        alone_server_wakeups=alone.switches,
        picture_fault=fault,
    )


def _used(pids: list[int], seconds: float) -> list[Usage]:
    before = [usage(pid) for pid in pids]
    time.sleep(seconds)
    return [usage(pid) - was for pid, was in zip(pids, before, strict=True)]
