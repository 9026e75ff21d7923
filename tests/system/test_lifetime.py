"""A container that ends in an unusual way leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.system import cgroup
from tests.system.cgroup import Cgroup
from tests.system.container import TREE

# A program that boots a container, tells of the cgroup and waits. It leaves the consoles alone: the
# other tests' container has them.
PARENT = """
import contextlib, sys
from pathlib import Path
from tests.system import cgroup, consoles
from tests.system.container import Container

consoles.reserved = lambda timeout: contextlib.nullcontext()
with Container(Path(sys.argv[1]), directory=Path(sys.argv[2])):
    print(cgroup._cgroup_of(f"{cgroup.os.getpid()}.0").path, flush=True)
    sys.stdin.read()
"""


def test_it_dies_with_its_parent(container_root: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", PARENT, str(container_root), str(tmp_path)]
    with subprocess.Popen(
        argv, cwd=TREE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        left = Cgroup(Path(parent.stdout.readline().strip()), None)
        assert "populated 1" in (left.path / "cgroup.events").read_text()
        parent.kill()
    left.wait_empty()
    cgroup._remove_orphans()  # as the next run does
    assert not left.path.exists()


def test_two_containers_can_share_a_root(container_root: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", PARENT, str(container_root), str(tmp_path)]
    done = subprocess.run(argv, cwd=TREE, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == 0
