"""A guest that qrexec's host has commands run in: the daemon, users' agents, and their services."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.fixtures.daemon import Stage
from tests.fixtures.public import public_agent
from tests.fixtures.qrexec import AGENT, FIRST_PORT, Host
from tests.fixtures.user_agent import ALICE, UserAgent, as_user

if TYPE_CHECKING:
    from collections.abc import Iterator

# Who may run what here: all that these tests run.
RULES: Final = """
[[rule]]
caller = "qrexec"
service = "command"
user = "*"
allow = true

[[rule]]
caller = "qrexec"
service = "test.Forbidden"
user = "*"
allow = false

[[rule]]
caller = "*"
service = "test.NotForYou"
user = "*"
allow = false
"""


class Guest:
    """A daemon that is domain 42, and a folder that all its users may use.

    RULES are the policy. HAS_VCHAN: the folder of the vchans, ``vchan``, is there.
    """

    def __init__(self, rules: str = RULES, *, has_vchan: bool = True) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="guest-")
        self.folder = Path(self._folder.name)
        self.folder.chmod(0o755)
        self.vchan = self.folder / "vchan"
        if has_vchan:
            self.make_vchan()
        self.calls = self.folder / "calls"
        self.services = self.folder / "rpc"
        self.services.mkdir()
        policy = self.folder / "exec.toml"
        policy.write_text(rules, encoding="utf-8")
        self.stage = Stage(
            self.folder / "no-port",
            [
                f"qrexec.domain={AGENT}",
                f'qrexec.socket_dir="{self.vchan}"',
                f'qrexec.calls="{self.calls}"',
                f'exec.policy="{policy}"',
            ],
        )
        self.daemon = self.stage.daemon

    def __enter__(self) -> Self:
        self.daemon.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.stage.close()
        self._folder.cleanup()

    @contextlib.contextmanager
    def user(self, name: str) -> Iterator[UserAgent]:
        """Let a user's agent be there."""
        mark = self.daemon.now()
        extra = {"QREXEC_SERVICE_PATH": str(self.services)}
        with UserAgent(self.daemon.agent_socket, name, extra=extra) as agent:
            self.daemon.wait_line(f"the agent of {name} has connected", after=mark)
            yield agent

    @contextlib.contextmanager
    def host(self, *, version: int = 4, first_port: int = FIRST_PORT) -> Iterator[Host]:
        """Let the host's daemon be there, and known to be."""
        mark = self.daemon.now()
        with Host(self.vchan, version=version, first_port=first_port) as host:
            host.connect()
            self.daemon.wait_line("a qrexec daemon has connected", after=mark)
            yield host

    def make_vchan(self) -> None:
        """Make the folder: clients in the guest serve their channels there."""
        self.vchan.mkdir()
        self.vchan.chmod(0o1777)

    def service(self, name: str, text: str, mode: int = 0o755) -> None:
        """Make a service."""
        path = self.services / name
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(mode)

    def descriptors(self) -> int:
        """Return how many the daemon has."""
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def client(self, service: str, *options: str, user: str = ALICE) -> subprocess.Popen[bytes]:
        """Let a program of a user's call a service of another domain."""
        argv = [*public_agent(), "qrexec-client", "--agent-socket", str(self.calls)]
        return subprocess.Popen(
            [*as_user(user), *argv, *options, "somewhere", service],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={
                "PATH": os.environ["PATH"],
                "VCHAN_DOMAIN": str(AGENT),
                "VCHAN_SOCKET_DIR": str(self.vchan),
            },
        )
