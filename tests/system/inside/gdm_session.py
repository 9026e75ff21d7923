"""What GDM starts in a session that it has opened: the user's own X server, then the program.

    python3 -m tests.system.inside.gdm_session DISPLAY VT NUMBER [PROGRAM]

PROGRAM is a module of this package, ``client`` if none is named.
As with gdm-x-session, the cookie is in ``$XDG_RUNTIME_DIR/gdm/Xauthority`` and the server a process
of the session. Its arguments are not GDM's: with -keeptty it would not follow the switches here.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path


def main(display: str, vt: str, number: str, name: str = "client") -> None:
    """Become xinit, which ends the one when the other has ended."""
    cookie = Path(os.environ["XDG_RUNTIME_DIR"]) / "gdm" / "Xauthority"
    cookie.parent.mkdir(mode=0o711, exist_ok=True)
    xauth = ["xauth", "-q", "-f", str(cookie), "add", f":{display}", ".", secrets.token_hex(16)]
    subprocess.run(xauth, stderr=subprocess.DEVNULL, check=True)
    # What the server needs to switch consoles, without being root, is not the program's.
    without = ["/usr/bin/setpriv", "--ambient-caps=-all", "--inh-caps=-all"]
    program = [*without, sys.executable, "-m", f"tests.system.inside.{name}", number]
    server = ["/usr/bin/Xorg", f":{display}", f"vt{vt}", "-auth", str(cookie)]
    options = ["-noreset", "-nolisten", "tcp"]
    os.environ["XAUTHORITY"] = str(cookie)
    os.execvp("xinit", ["xinit", *program, "--", *server, *options])


if __name__ == "__main__":
    main(*sys.argv[1:])
