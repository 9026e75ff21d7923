"""The recipe of docs/terminals.md: PID 1 gets a terminal elsewhere, then becomes the real init.

A container of its own beside that of the other tests, without the kernel's consoles. Its terminal
is a pane of a tmux outside, whose network namespace it shares.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.fixtures.processes import end_process
from tests.system.cgroup import own_cgroup
from tests.system.container import BOOT_PATIENCE
from tests.system.root import PROJECT, SHARED
from tests.terminals.conftest import tmux
from tests.terminals.test_handover import TERMINAL, ended

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.terminals.tmux import Tmux

__all__ = ["tmux"]

TREE: Final = Path(__file__).resolve().parents[2]
NAME: Final = f"test-init-{os.getpid()}"
# What the recipe leaves out: this is what a system asks before it starts.
ASKS: Final = """
echo "process $$ knows '$passphrase'"
tty=$(stty size) && echo "of size $tty"
sh -c 'echo waiting; exec sleep 1000'
echo "interrupted: $?"
read -r line
"""


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Give the folder that the container has as SHARED, with the recipe's second script in it."""
    page = (TREE / "docs" / "terminals.md").read_text(encoding="utf-8")
    [script] = re.findall(r"^```sh\n(#!/bin/sh\ntrap .*?)^```", page, re.MULTILINE | re.DOTALL)
    assert script.endswith("\n# ...\nexec /sbin/init\n")
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "init.console").write_text(script.replace("# ...\n", ASKS))
    (folder / "init.console").chmod(0o755)
    return folder


@contextlib.contextmanager
def booting(root: Path, shared: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a container whose first process is the recipe's; it ends with the block."""
    # As the recipe has it: the container's program is that of the tree.
    attach = f"cd {PROJECT} && exec python3 -m sessiond.ctl terminal attach"
    command = f"{attach} --name {NAME} --wait 20 -- {SHARED}/init.console"
    with own_cgroup() as cgroup, (shared.parent / "console.log").open("wb") as log:
        nspawn = subprocess.Popen(
            [
                *cgroup.enter_command(),
                # See tests.system.container.
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit"),
                *(f"--directory={root}", "--volatile=overlay", "--machine=terminal"),
                *(
                    "--console=read-only",
                    f"--bind-ro={TREE}:{PROJECT}",
                    f"--bind={shared}:{SHARED}",
                ),
                *("--setenv=PYTHONDONTWRITEBYTECODE=1", "/bin/sh", "-c", command),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            start_new_session=True,
        )
        try:
            yield nspawn
        finally:
            nspawn.kill()
            end_process(nspawn)


def accept(listener: socket.socket, nspawn: subprocess.Popen[bytes]) -> socket.socket:
    """Wait for the command channel of a container that has booted."""
    pidfd = os.pidfd_open(nspawn.pid)
    try:
        wanted: list[Any] = [listener, pidfd]
        ready, _, _ = select.select(wanted, [], [], BOOT_PATIENCE)
    finally:
        os.close(pidfd)
    assert listener in ready
    return listener.accept()[0]


def test_the_first_process_gets_a_terminal_and_becomes_the_real_init(
    container_root: Path, shared: Path, tmux: Tmux
) -> None:
    pane = tmux.pane(*TERMINAL, "serve", "--name", NAME)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(shared / "commands"))
        listener.listen(1)
        with booting(container_root, shared) as nspawn:
            pane.wait(r"^passphrase:$")
            pane.type("open sesame")
            pane.wait(r"^process 1 knows 'open sesame'\nof size 24 80\nwaiting$")
            pane.keys("C-c")
            pane.wait(r"^\^Cinterrupted: 130$")
            assert not select.select([listener], [], [], 0)[0]
            pane.type("")
            accept(listener, nspawn).close()
            with ended(pane.pid):
                nspawn.send_signal(signal.SIGKILL)
    pane.wait_gone()
