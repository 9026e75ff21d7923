"""Runs the parts of a plan, one after the other."""

import contextlib
import tempfile
from pathlib import Path

from tests.bench import bus, codecs
from tests.bench.codecs import CONTENTS, run_codecs
from tests.bench.commands import run_commands
from tests.bench.daemon import run_daemon
from tests.bench.fresh import SCREENS, run_fresh
from tests.bench.host import run_host
from tests.bench.lines import run_line
from tests.bench.moving import MOVING, run_moving
from tests.bench.plan import Plan
from tests.bench.processes import Child, build, x_server
from tests.bench.ptys import run_ptys
from tests.bench.rest import run_rest
from tests.bench.results import Results
from tests.bench.screens import run_screens
from tests.bench.share import SHARES, run_share
from tests.bench.speed import run_speed
from tests.bench.terminals import run_terminals
from tests.bench.versus import LOADS, run_at_rest, run_versus


def run(plan: Plan) -> Results:
    """Measure all that is planned. Raises BenchError, FixtureError, OSError, SubprocessError."""
    build()
    found = Results()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        server, display = stack.enter_context(x_server(*plan.size, directory / "xvfb.log"))
        _on_screen(plan, found, server, display, directory)
    if "daemon" in plan.parts:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            found.daemon = run_daemon(plan, Path(name))
    _over_lines(plan, found)
    if "host" in plan.parts:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            found.host = run_host(plan, Path(name))
    if "commands" in plan.parts:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            found.commands = run_commands(plan, Path(name))
    if "terminals" in plan.parts:
        found.terminals = run_terminals(plan)
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            found.ptys = run_ptys(plan, Path(name))
    if "screens" in plan.parts:
        _capture(plan, found)
    if "bus" in plan.parts:
        _ask(plan, found)
    return found


def _on_screen(plan: Plan, found: Results, server: Child, display: str, directory: Path) -> None:
    """Measure the agent alone, on one X server."""
    place = (plan, server, display, directory)
    found.moving = [run_moving(load, *place) for load in MOVING if load in plan.parts]
    if "static" in plan.parts:
        found.rest = run_rest(*place)
    if "speed" in plan.parts:
        found.speed = run_speed(*place)
    if "share" in plan.parts:
        found.shares = [run_share(share, *place) for share in SHARES]
    if "codecs" in plan.parts:
        found.codecs = [one for load in CONTENTS for one in run_codecs(load, *place)]
        if lacks := codecs.missing():
            found.missing[codecs.GSTREAMER] = lacks
    if plan.peer is not None and "peer" in plan.parts:
        found.versus = [run_versus(load, *place) for load in LOADS]
        found.at_rest = run_at_rest(*place)
    elif "peer" in plan.parts:
        found.missing["beside another program"] = "PEER=/path/to/spice-streaming-agent"


def _over_lines(plan: Plan, found: Results) -> None:
    """Measure what comes to a client behind a slow line."""
    if "fresh" in plan.parts:
        found.fresh = [run_fresh(plan, size, noise) for size, noise in SCREENS]
    if "lines" in plan.parts:
        found.lines = [run_line(plan, setting, mbit) for setting, mbit in plan.lines]


def _ask(plan: Plan, found: Results) -> None:
    """Ask the daemon and a real logind the same, where there can be one."""
    if lacks := bus.missing():
        found.missing["queries"] = "; ".join(lacks)
    else:
        found.answers = bus.measure(plan.questions)


def _capture(plan: Plan, found: Results) -> None:
    """Measure the back-ends, and what else is installed that captures such screens."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        found.screens = run_screens(plan, directory)
    if lacks := found.screens.missing:
        found.missing["beside others' capture"] = ", ".join(lacks)
