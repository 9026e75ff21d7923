"""This machine with a skin: what is written to /usr, /etc and /var is in memory, and ends with it.

A mount namespace with overlays, so that packages can be installed and removed for real. /run is
empty there: nothing reaches this machine's systemd or message bus. Takes root.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final

from tests.fixtures.processes import DIE_WITH_PARENT, FixtureError, end_process

FOLDERS: Final = ("usr", "etc", "var")
OWN: Final = ("/var/lib/dpkg/", "/var/log/", "/var/cache/")  # dpkg's, its triggers'
_MOUNT: Final = f"""
mount -t tmpfs skin "$1"
for folder in {" ".join(FOLDERS)}; do
    mkdir "$1/$folder" "$1/work-$folder"
    options="lowerdir=/$folder,upperdir=$1/$folder,workdir=$1/work-$folder"
    mount -t overlay -o "$options" skin "/$folder"
done
mount -t tmpfs skin /run
echo ready
exec cat
"""


class Machine:
    """It lasts until ``close``; SKIN is an empty directory outside of its folders."""

    def __init__(self, skin: Path) -> None:
        self._skin = skin
        self._process = subprocess.Popen(
            [
                *(*DIE_WITH_PARENT, "unshare", "--mount", "--propagation=private"),
                *("sh", "-euc", _MOUNT, "mount", str(skin)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        if self._process.stdout.readline() != "ready\n":
            self.close()
            raise FixtureError("the kernel mounts no overlays here")

    def close(self) -> None:
        """Forget all that was written."""
        self._process.terminate()
        end_process(self._process)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream
            stream.close()

    def run(self, *command: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:  # noqa: ANN401
        """Run a command there, and return its output and status."""
        inside = ("nsenter", "--mount", f"--target={self._process.pid}", "--")
        return subprocess.run(
            [*inside, *map(str, command)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **how,
        )  # fmt: skip

    def do(self, *command: str | Path, **how: Any) -> str:  # noqa: ANN401
        """Run a command that has to succeed, and return its output."""
        done = self.run(*command, **how)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def written(self) -> set[str]:
        """Return what was written or removed since the beginning, as find's type, size and path.

        Without what a package manager keeps for itself, and folders that were there before.
        """
        folders = [str(self._skin / name) for name in FOLDERS]
        found = self.do("find", *folders, "-mindepth", "1", "-printf", "%y %s %H/%P %l\\n")
        lines = found.replace(str(self._skin), "").splitlines()
        paths = {line: line.split()[2] for line in lines}
        return {
            line if line[0] != "d" else f"d {path}"
            for line, path in paths.items()
            if not path.startswith(OWN) and not (line[0] == "d" and Path(path).is_dir())
        }
