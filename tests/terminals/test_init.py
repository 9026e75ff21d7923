"""The recipe of docs/terminals.md for a machine without a console, word for word.

Its system is a PID namespace, a network namespace and the files of this machine.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.fixtures.processes import end_process
from tests.terminals.tmux import PATIENCE

if TYPE_CHECKING:
    from tests.terminals.tmux import Tmux

PAGE: Final = Path(__file__).parents[2] / "docs" / "terminals.md"
# Found by the scripts as on a machine where all is installed.
PROGRAM: Final = f'#!/bin/sh\nexec {sys.executable} -m sessiond.ctl "$@"\n'
INIT: Final = """#!/bin/sh
trap 'echo interrupted' INT
echo "real init, process $$, TERM=$TERM"
until read line; do :; done
echo "got $line"
exit 3
"""


def write_script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def system(folder: Path) -> Path:
    """Write all scripts, and return that of the first process."""
    page = PAGE.read_text(encoding="utf-8")
    first, second = re.findall(r"^```sh\n(#!/bin/sh\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert first.endswith("-- /init.console\n")
    assert second.endswith("exec /sbin/init\n")
    write_script(folder / "spice-sessionctl", PROGRAM)
    init = write_script(folder / "sbin-init", INIT)
    console = write_script(folder / "console", second.replace("/sbin/init", str(init)))
    return write_script(folder / "init", first.replace("/init.console", str(console)))


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_a_passphrase_is_typed_at_a_terminal_of_pid_1(tmux: Tmux, tmp_path: Path) -> None:
    environ = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(PAGE.parents[1]),
        "TMUX_TMPDIR": str(tmux.directory),
        "LANG": "C.UTF-8",
    }
    machine = subprocess.Popen(
        ["unshare", "--pid", "--net", "--fork", "--kill-child", "--mount-proc", system(tmp_path)],
        env=environ,
        stdin=subprocess.DEVNULL,
    )
    try:
        # Who comes by ssh, and tries until the machine is there.
        ssh = tmux.pane(
            *("sh", "-c", "until tmux -N attach -t boot 2> /dev/null; do :; done"),
            env={**environ, "TMUX": "", "TERM": "screen"},
        )
        ssh.wait(r"^passphrase:$")
        ssh.type("open sesame")
        ssh.wait(r"^real init, process 1, TERM=screen$")
        ssh.keys("C-c")
        ssh.wait(r"^\^Cinterrupted$")
        ssh.type("hello")
        assert machine.wait(PATIENCE) == 3
    finally:
        machine.kill()
        end_process(machine)
