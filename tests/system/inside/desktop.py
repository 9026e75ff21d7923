"""An X session's program that is a desktop as systemd knows them: it has graphical-session.target.

    python3 -m tests.system.inside.desktop NUMBER

Runs ``tests.system.inside.client`` between the start and the end of the target: login and logout.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Final

# systemd.special(7): nobody starts graphical-session.target itself.
TARGET: Final = "test-desktop.target"
UNIT: Final = """\
[Unit]
Description=The desktop of the tests
BindsTo=graphical-session.target
Before=graphical-session.target
"""


def main(number: str) -> None:
    """Log in, draw, log out."""
    systemctl("start")
    client = subprocess.Popen([sys.executable, "-m", "tests.system.inside.client", number])
    # All processes of a session that is ended are told so; we, and who helps, have to do that yet.
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    client.wait()
    systemctl("stop")


def systemctl(verb: str) -> None:
    """Let the user's manager do so."""
    subprocess.run(["systemctl", "--user", verb, TARGET], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
