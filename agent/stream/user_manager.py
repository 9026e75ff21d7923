"""The environment of the user's manager: one DISPLAY for each user, however old.

It is asked by running busctl, which comes with systemd, and only where better evidence led to
nothing. The D-Bus library would stay in the agent's memory for good (4 to 7 MB) for a question that
few sessions come to, and a program can be killed where a call to a dead bus would hang.
"""

import subprocess
import threading
from typing import Final

from agent.stream.evidence import Environment, parse_manager
from agent.stream.places import Places

MAX_ANSWER: Final = 256 << 10  # bytes; as of any process's environment

# org.freedesktop.systemd1(5). Not started if it is not there: no manager, no answer.
_QUESTION: Final = (
    "--json=short", "--auto-start=no", "get-property", "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "Environment",
)  # fmt: skip


def manager_environment(places: Places, timeout: float) -> Environment:
    """Return DISPLAY and XAUTHORITY as the user's manager has them; empty if it does not say.

    Takes at most ``timeout`` seconds. Raises OSError where there is no busctl.
    """
    bus = places.runtime / "bus"
    if not bus.is_socket():
        return {}
    with subprocess.Popen(
        ["busctl", f"--address=unix:path={bus}", f"--timeout={timeout:g}", *_QUESTION],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    ) as process:
        # Its own --timeout counts from when the bus has let it in.
        limit = threading.Timer(timeout, process.kill)
        limit.daemon = True
        limit.start()
        try:
            assert process.stdout  # noqa: S101 (a pipe was asked for)
            untrusted = process.stdout.read(MAX_ANSWER + 1)
        finally:
            limit.cancel()
            process.kill()  # if it has more to say than we read
    return parse_manager(untrusted) if len(untrusted) <= MAX_ANSWER else {}
