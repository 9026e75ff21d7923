"""Measure the stream agent and the daemon against their floor and their goals; print tables.

    python -m tests.bench [--short] [--only PART] [--peer PROGRAM] [--output DIRECTORY]

On a private Xvfb each load is run alone, under the floor program and under the agent, in turn,
several times; the tables show medians.  A millisecond is one of CPU, user + system, unless it says
an age or a delay.  The daemon runs with agents of its own; its answers on a bus stand beside those
of a real logind, where a container can run; commands in a user's session stand beside a pipe and
ssh, and so do terminals of their own; one is handed over, and what listens to resizes is started,
and left alone.  With --peer the same loads go through another program too, in turn with ours.
Leaves result.json, goals.md and cost.png in the directory.  Needs Xvfb, a C compiler and the
headers that the Makefile names, sshd and ssh.  Exits with 0 when everything ran, whatever the
numbers are; docs/performance.md explains them.
"""

import subprocess
import sys

from tests.bench import plot, report
from tests.bench.goals import goals
from tests.bench.machine import facts
from tests.bench.plan import read_plan
from tests.bench.processes import BenchError
from tests.bench.run import run
from tests.fixtures.processes import FixtureError


def main() -> int:
    """Run the plan of the command line, print, and write the numbers down."""
    plan, output = read_plan(sys.argv[1:], __doc__)
    try:
        found = run(plan)
    except (BenchError, FixtureError, OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    rows, machine = goals(found, plan.size), facts()
    report.show(found, rows, machine)
    output.mkdir(parents=True, exist_ok=True)
    report.write(output / "result.json", plan, found, rows, machine)
    (output / "goals.md").write_text(report.markdown(rows))
    if found.shares:
        caption = f"{plan.size[0]}x{plan.size[1]}, {machine['cpu']}, {machine['cores']} cores"
        plot.draw(found.shares, caption, output / "cost.png")
    sys.stdout.write(f"\nwritten to {output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
