"""A terminal's hand-over, and what listens to its resizes: how soon it does, and what it holds.

A hand-over is all that it takes from the start of ``spice-sessionctl terminal attach``, where a
terminal is offered, to the first byte of the program.  The listener's start is all that it takes
from the request in a loop to its first word.  Its memory is private as the daemon's is: what it
shares with the Python that has started it costs nothing.
"""

import asyncio
import contextlib
import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from sessiond.transport.resizes import listener_command, listening
from tests.bench.host import idle
from tests.bench.plan import Plan
from tests.bench.processes import ROOT, BenchError
from tests.bench.usage import Memory, family, memory
from tests.fixtures.pseudo import Pseudo
from tests.fixtures.screen import Screen

PATIENCE: Final = 10.0  # seconds for an end
TERMINAL: Final = (sys.executable, "-m", "sessiond.ctl", "terminal")


@dataclasses.dataclass(frozen=True, slots=True)
class TerminalsResult:
    """Milliseconds of each hand-over, and of each start of a listener.

    And what a listener holds, and its wake-ups while nothing happens.
    """

    handovers: Sequence[float]
    starts: Sequence[float]
    held: Memory
    rest_seconds: float
    idle: int

    @property
    def handover_ms(self) -> float:
        """The median."""
        return statistics.median(self.handovers)

    @property
    def start_ms(self) -> float:
        """The median."""
        return statistics.median(self.starts)


def run_terminals(plan: Plan) -> TerminalsResult:
    """Do each again and again, on terminals of our own; then watch the last listener at rest.

    Raises BenchError.
    """
    # The first, when nothing is warm, is left out.
    handovers = [_handover() for _ in range(1 + plan.call_rounds)][1:]
    return asyncio.run(_listen(plan, handovers))


def _handover() -> float:
    """Return the milliseconds of one."""
    name = ("--name", f"bench-{os.getpid()}")
    with contextlib.ExitStack() as stack:
        pane = stack.enter_context(Pseudo())
        # All of it one process, which ends with us.
        leading = ("setpriv", "--pdeathsig", "TERM", "setsid", "--ctty")
        serve = subprocess.Popen(
            [*leading, *TERMINAL, "serve", *name],
            stdin=pane.slave, stdout=pane.slave, stderr=pane.slave, cwd=ROOT,
        )  # fmt: skip
        stack.callback(serve.wait)
        stack.callback(serve.terminate)
        pane.leave()
        screen = Screen(pane.master)
        screen.wait(b"is offered")
        begun = time.perf_counter()
        attach = subprocess.Popen([*TERMINAL, "attach", *name, "--", "echo", "here"], cwd=ROOT)
        stack.callback(attach.wait)
        stack.callback(attach.terminate)
        screen.wait(rb"here\r?\n")
        lasted = time.perf_counter() - begun
        if attach.wait(PATIENCE):
            raise BenchError(f"terminal attach: exit status {attach.returncode}")
    return 1e3 * lasted


async def _listen(plan: Plan, handovers: Sequence[float]) -> TerminalsResult:
    command = listener_command()
    starts = []
    with Pseudo() as pty:
        # The first, when nothing is warm, is left out.
        for _ in range(1 + plan.call_rounds * plan.command_starts):
            begun = time.perf_counter()
            async with listening(pty.path, command) as sizes:
                starts.append(1e3 * (time.perf_counter() - begun))
        async with listening(pty.path, command) as sizes:
            (pid,) = family(os.getpid())[1:]
            pty.resize(80, 24)
            await anext(sizes)
            held = memory(pid)
            (woken,) = idle([pid], plan.rest_seconds)
    return TerminalsResult(handovers, starts[1:], held, plan.rest_seconds, woken)
