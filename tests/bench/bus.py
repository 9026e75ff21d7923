"""Questions to the daemon beside the same ones to a real logind, in the container of the tests."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.fixtures.spice import SpiceHost
from tests.system import container as containers
from tests.system import root as roots
from tests.system.root import PROJECT, SHARED

LIBRARIES: Final = ("dbus_fast", "dbus_next")
POLICY: Final = "org.spice_space.Sessiond1.conf"


@dataclass(frozen=True, slots=True)
class Answers:
    """Medians in microseconds with one D-Bus library on the daemon's side."""

    served_by: str
    get: float
    get_logind: float
    list: float
    list_logind: float


def missing() -> list[str]:
    """Tell what this machine lacks for it."""
    return [*containers.missing(), *roots.missing()]


def measure(count: int) -> list[Answers]:
    """Ask each question COUNT times with each library."""
    with tempfile.TemporaryDirectory(prefix="bus-") as folder:
        directory = Path(folder)
        with containers.Container(roots.cached_or_built(), directory=directory) as container:
            container.run(["cp", f"{PROJECT}/dbus/{POLICY}", f"/etc/dbus-1/system.d/{POLICY}"])
            container.run(["systemctl", "reload", "dbus"])
            with SpiceHost(multi=True, directory=container.shared) as host:
                return [_measure(container, host, library, count) for library in LIBRARIES]


def _measure(container: containers.Container, host: SpiceHost, library: str, count: int) -> Answers:
    port = f'stream.port="{SHARED}/{host.socket_path.name}"'
    env = {"SPICE_SESSIOND_DBUS": library}
    daemon = container.spawn(["python3", "-m", "sessiond", "--set", port], env=env, cwd=PROJECT)
    daemon.wait_for_output("on the bus as", stream="stderr")
    asked = container.run(
        ["python3", "-m", "tests.bench.ask", str(count)],
        env={"SPICE_SESSIOND_DBUS": "dbus_fast"}, cwd=PROJECT, timeout=120,
    )  # fmt: skip
    daemon.kill()
    daemon.wait(10)
    return Answers(served_by=library, **json.loads(asked.stdout))
