"""A display manager in LightDM's way: one X server, root's, that outlives the logins on it.

    python3 -m tests.system.inside.display_manager DISPLAY VT USER:CLASS:NUMBER ...

Says ``server PID``, then logs one in after the other, each when the one before has ended: its
program shows the numbered picture and says so. The server ends after the last, and when the server
ends, so does all. The session's PAM_XDISPLAY is set, which gives it a Display in logind.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.system.inside import pam

if TYPE_CHECKING:
    from collections.abc import Sequence

SERVICE = "test-session"
PATH = "/usr/local/bin:/usr/bin:/bin"


def main(display: str, vt: str, logins: Sequence[str]) -> None:
    """Run the server and the logins."""
    cookie = secrets.token_hex(16)
    authority = Path("/run/lightdm/root") / display
    authority.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    add_cookie(authority, display, cookie)
    ready, told = os.pipe()
    server = subprocess.Popen(
        [
            *("/usr/bin/Xorg", display, "-seat", "seat0", "-auth", str(authority)),
            *("-nolisten", "tcp", f"vt{vt}", "-novtswitch", "-noreset", "-displayfd", str(told)),
        ],
        pass_fds=[told],
    )
    os.close(told)
    if not os.read(ready, 64):
        sys.exit("the X server did not start")
    say(f"server {server.pid}")
    # A server that dies takes its clients along, and each login ends with its program.
    for login in logins:
        user, role, number = login.split(":")
        child = os.fork()
        if child == 0:
            run_login(user, role, number, display=display, vt=vt, cookie=cookie)
        os.waitpid(child, 0)
        if server.poll() is not None:
            break
    server.terminate()
    server.wait()


def run_login(user: str, role: str, number: str, *, display: str, vt: str, cookie: str) -> None:
    """Be the leader of a session until its program has ended; do not return."""
    status = 1
    known = {
        "XDG_SEAT": "seat0",
        "XDG_VTNR": vt,
        "XDG_SESSION_TYPE": "x11",
        "XDG_SESSION_CLASS": role,
    }
    try:
        with pam.session(SERVICE, user, display=display, env=known) as env:
            status = run_program(user, number, {**env, "DISPLAY": display}, cookie)
    finally:
        os._exit(status)


def run_program(user: str, number: str, env: dict[str, str], cookie: str) -> int:
    """Run the session's program as ``user``, who has the cookie at home; return its status."""
    account = pwd.getpwnam(user)
    authority = Path(account.pw_dir) / ".Xauthority"
    env |= {"HOME": account.pw_dir, "PATH": PATH, "USER": user, "XAUTHORITY": str(authority)}

    def become() -> None:
        os.initgroups(user, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)

    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            become()
            add_cookie(authority, env["DISPLAY"], cookie)
            program = [sys.executable, "-m", "tests.system.inside.client", number]
            os.execve(program[0], program, env)
        os._exit(127)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def add_cookie(authority: Path, display: str, cookie: str) -> None:
    """Put a cookie into a file, which may not exist yet."""
    xauth = ["xauth", "-q", "-f", str(authority), "add", display, ".", cookie]
    subprocess.run(xauth, stderr=subprocess.DEVNULL, check=True)


def say(line: str) -> None:
    """Tell the test."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the console's hang-up when the server leaves it
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
