"""An X session's program that tells the daemon of its display, as an autostart entry would.

    python3 -m tests.system.inside.helped NUMBER

Runs spice-session-helper, says how it ended, and becomes ``tests.system.inside.client``.
"""

from __future__ import annotations

import os
import subprocess
import sys


def main(number: str) -> None:
    """Tell, then draw."""
    done = subprocess.run(
        [sys.executable, "-m", "agent.helper"], capture_output=True, text=True, check=False
    )
    print(f"helper {done.returncode} {done.stderr.strip()}", flush=True)  # noqa: T201 (its answer)
    os.execv(sys.executable, [sys.executable, "-m", "tests.system.inside.client", number])


if __name__ == "__main__":
    main(sys.argv[1])
