"""The daemon as its own units run it in the container, sandbox included, and what it says.

Owns what an installation puts in place, the configuration, and the journal; the program is the
project's tree.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.system.root import PROJECT, SHARED

if TYPE_CHECKING:
    from tests.fixtures.spice import SpiceHost
    from tests.system.container import Container
    from tests.vm.channel import Process

TREE: Final = Path(__file__).parents[2]
SERVICE: Final = "spice-sessiond.service"
SOCKETS: Final = (
    "spice-sessiond.socket", "spice-sessiond-agent.socket", "spice-sessiond-kms.socket",
)  # fmt: skip
NAME: Final = "org.spice_space.Sessiond1"
PROGRAM: Final = f"""\
#!/bin/sh
PYTHONPATH={PROJECT} exec python3 -P -m {{}} "$@"
"""
PROGRAMS: Final = {
    "spice-sessiond": "sessiond",
    "spice-sessiond-kms": "sessiond.kms",
    "spice-session-agent": "agent",
    "spice-sessionctl": "sessiond.ctl",
}
AGENT: Final = ["/usr/bin/env", f"PYTHONPATH={PROJECT}", "python3", "-m", "agent"]
USER_AGENT: Final = "spice-session-agent.service"  # the users' own managers'
# Where the host is heard: by a file of the sandbox's, and not by a port.
HOST_CHANNEL: Final = "/run/spice-sessiond/host.sock"
CONFIG: Final = "/etc/spice-sessiond/config.toml"
OPTIONS: Final = "/etc/default/spice-sessiond"
# Where a package puts them.
PLACES: Final = {
    "/usr/lib/systemd/system": ("systemd/*.service", "systemd/*.socket"),
    "/usr/lib/systemd/user": ("systemd/user/*.service",),
    "/usr/lib/systemd/user-preset": ("systemd/user/*.preset",),
    "/usr/share/dbus-1/system.d": (f"dbus/{NAME}.conf",),
    "/usr/share/dbus-1/system-services": (f"dbus/{NAME}.service",),
    "/usr/share/polkit-1/actions": (f"dbus/{NAME}.policy",),
}
PATIENCE: Final = 15.0


def install(container: Container) -> None:
    """Put the units in place as they are, and enable them; nothing is started."""
    for place, patterns in PLACES.items():
        for file in (file for pattern in patterns for file in TREE.glob(pattern)):
            container.push(f"{place}/{file.name}", file.read_bytes())
    for name, module in PROGRAMS.items():
        container.push(f"/usr/bin/{name}", PROGRAM.format(module).encode(), mode=0o755)
    container.run(["systemctl", "enable", SERVICE])  # and reloads all units
    container.run(["systemctl", "--global", "preset", USER_AGENT])
    container.run(["systemctl", "reload", "dbus"])


class Unit:
    """The installed service, not running; its sockets listen. A context manager.

    Left, all of it is stopped. It streams to ``host``, which lies in the shared directory.
    """

    def __init__(self, container: Container, host: SpiceHost) -> None:
        self.container = container
        self._host = host
        self._follow: Process
        self._since = ""

    def __enter__(self) -> Self:
        self.configure()
        self.container.push(OPTIONS, b"SPICE_SESSIOND_EXTRA_ARGS=--debug\n")
        last = self._journal("--lines=1", "--show-cursor")
        self._since = f"--after-cursor={last.rpartition('-- cursor: ')[2].strip()}"
        self._follow = self.container.spawn(["journalctl", *self._wanted(), "--follow"])
        self.systemctl("start", *SOCKETS)
        return self

    def __exit__(self, *_: object) -> None:
        self.close_sockets()
        self.systemctl("stop", SERVICE)
        self._follow.kill()
        self._follow.wait(PATIENCE)
        self.container.run(["rm", CONFIG, OPTIONS])
        self.systemctl("reset-failed")

    def configure(self, *lines: str, **settings: str) -> None:
        """Write the configuration: ``lines``, and keys of [stream].

        What the container needs is there, too; of [stream] it can be replaced.
        """
        port = f"{SHARED}/{self._host.socket_path.name}"
        table = {"port": port, "agent": AGENT, **settings}
        # Texts, and lists of them, look alike in JSON and in TOML.
        given = [f"stream.{key} = {json.dumps(value)}" for key, value in table.items()]
        whole = [f'host_channel = "unix:{HOST_CHANNEL}"', *given, *lines, ""]
        self.container.push(CONFIG, "\n".join(whole).encode())

    def start(self) -> None:
        """Start the service; it is ready when this returns."""
        self.systemctl("start", SERVICE)

    def stop(self) -> None:
        """Stop the service, which has to end well."""
        self.systemctl("stop", SERVICE)
        assert (self.show("Result"), self.show("ExecMainStatus")) == ("success", "0")

    def close_sockets(self) -> None:
        """Let nobody connect: users' agents come back, and that starts what was stopped."""
        self.systemctl("stop", *SOCKETS)

    def systemctl(self, *arguments: str) -> str:
        """Run systemctl, which has to succeed; return what it prints."""
        return self.container.run(["systemctl", *arguments], timeout=PATIENCE).stdout.strip()

    def show(self, name: str, unit: str = SERVICE) -> str:
        """Return a property of a unit."""
        return self.systemctl("show", "--value", f"--property={name}", unit)

    def now(self) -> int:
        """Return a mark in what the daemon has said: ``after`` for what follows."""
        self.container.run(["journalctl", "--sync"])  # what was sent to it is there to be read
        said = self._journal(*self._wanted())
        return len(said.splitlines()) - 1

    def wait_line(self, pattern: str, *, after: int = -1) -> None:
        """Wait until the daemon says a line in which PATTERN is found."""
        wanted = re.compile(pattern)
        self.container.channel.wait_until(
            lambda: any(map(wanted.search, self.said()[after + 1 :])),
            lambda: "\n".join([*self.said()[-40:], f"that said the daemon, but no {pattern!r}"]),
            PATIENCE,
        )

    def said(self) -> list[str]:
        """Return the whole lines of the daemon that have come from the journal so far."""
        text = self._follow.output().decode(errors="replace")
        return text[: text.rfind("\n") + 1].splitlines()

    def _wanted(self) -> list[str]:
        """Return the options for what the daemon has said, by its own name, since we are here."""
        return ["--output=cat", "--identifier=spice-sessiond", "--no-tail", self._since]

    def _journal(self, *options: str) -> str:
        return self.container.run(["journalctl", "--quiet", *options]).stdout
