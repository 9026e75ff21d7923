"""Logind sessions in a guest, as a display manager would make them.

Each is a transient unit of systemd with a PAM session of its own on a VT, without a password (the
image's PAM service ``test-session``).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.vm.guest import Guest


@contextlib.contextmanager
def x_session(
    guest: Guest, user: str, *, display: int, vt: int, options: Sequence[str] = ()
) -> Iterator[None]:
    """Run ``user``'s own Xorg, not root's, in a session on a VT; entered, it takes clients.

    The VT is brought to the front, and stays there. Any local user may connect. The session may
    end before the context does. Raises as ``Guest.run``.
    """
    # First, for the server gets the card from logind only while its session is active.
    guest.run(["chvt", str(vt)])
    unit = f"x-session-{display}.service"
    # -keeptty: the VT is the session's controlling terminal already, opened by systemd.
    xorg = ["Xorg", f":{display}", f"vt{vt}", "-keeptty", "-noreset", "-nolisten", "tcp"]
    process = guest.spawn([*session_command(user, vt), f"--unit={unit}", *xorg, *options])
    try:
        guest.wait_for(["xdpyinfo", "-display", f":{display}"])
        yield
    finally:
        # Not systemd-run, that waits for it: without it the session would go on.
        guest.run(["systemctl", "stop", unit], check=False)
        process.wait()


def session_command(user: str, vt: int, *, kind: str = "x11", role: str = "user") -> list[str]:
    """Return the start of an argv; the rest runs in a new session of ``user`` on a VT of seat0.

    ``kind`` and ``role`` are logind's Type and Class.
    """
    properties = (
        f"User={user}",
        "PAMName=test-session",
        f"TTYPath=/dev/tty{vt}",
        "StandardInput=tty",
        "UtmpMode=user",
        f"UtmpIdentifier=tty{vt}",
    )
    environment = (
        "XDG_SEAT=seat0",
        f"XDG_VTNR={vt}",
        f"XDG_SESSION_TYPE={kind}",
        f"XDG_SESSION_CLASS={role}",
    )
    return [
        *("systemd-run", "--quiet", "--collect", "--wait", "--pipe"),
        *(part for each in properties for part in ("--property", each)),
        *(part for each in environment for part in ("--setenv", each)),
    ]
