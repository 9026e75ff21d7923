"""A cgroup of the container's own, below the one that the tests run in.

systemd-nspawn hands the container the cgroup that it was started in: the tests' own would have the
container's systemd as a second master.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE: Final = 10.0
PREFIX: Final = "spice-sessiond-test-"
_numbers = itertools.count()


class CgroupError(Exception):
    """There is no cgroup to be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A directory of a cgroup2 file system.

    ``legacy`` is its like in the old hierarchy of systemd, which systemd-nspawn makes where a host
    still has that; there may be none.
    """

    path: Path
    legacy: Path | None

    def enter_command(self) -> list[str]:
        """Return the start of an argv; the rest is run in this cgroup, as the same process."""
        enter = f'echo $$ > {shlex.quote(str(self.path))}/cgroup.procs; exec "$@"'
        return ["sh", "-euc", enter, "sh"]

    def end(self, timeout: float = PATIENCE) -> None:
        """Kill all that is in it and remove it. Raises CgroupError when something stays."""
        (self.path / "cgroup.kill").write_text("1")
        self.wait_empty(timeout)
        for top in filter(None, (self.path, self.legacy)):
            for directory, _, _ in os.walk(top, topdown=False):
                Path(directory).rmdir()

    def wait_empty(self, timeout: float = PATIENCE) -> None:
        """Wait until no process is in it or below. Raises CgroupError."""
        deadline = time.monotonic() + timeout
        with (self.path / "cgroup.events").open("rb", buffering=0) as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI | select.POLLERR)
            while b"populated 0" not in os.pread(events.fileno(), 4096, 0):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise CgroupError(f"{self.path}: not empty after {timeout:g} s")
                poll.poll(left * 1000)


@contextlib.contextmanager
def own_cgroup() -> Iterator[Cgroup]:
    """Give a new, empty cgroup, and end it with all that is in it. Raises CgroupError."""
    _remove_orphans()
    cgroup = _cgroup_of(f"{os.getpid()}.{next(_numbers)}")
    try:
        cgroup.path.mkdir()
    except OSError as error:
        raise CgroupError(f"cannot make {cgroup.path}: {error.strerror}") from error
    try:
        yield cgroup
    finally:
        cgroup.end()


def _cgroup_of(run: str) -> Cgroup:
    """Return the cgroup of a run of the tests, which is named by its pid and a number."""
    below = Path(_own_path()) / f"{PREFIX}{run}"
    mount, legacy = _maybe_mount("cgroup2"), _maybe_mount("cgroup", "name=systemd")
    if mount is None:
        raise CgroupError("no cgroup2 file system is mounted")
    return Cgroup(mount / below, legacy and legacy / below)


def _remove_orphans() -> None:
    """Remove what runs left that were killed; all that was in them ended with them."""
    for path in _cgroup_of("").path.parent.glob(f"{PREFIX}*"):
        run = path.name.removeprefix(PREFIX)
        if not Path("/proc", run.partition(".")[0]).exists():
            _cgroup_of(run).end()


def _maybe_mount(kind: str, option: str = "") -> Path | None:
    """Return where a file system of that kind, with that option, is mounted (proc(5))."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        name, *_, options = source.split()
        if name == kind and (not option or option in options.split(",")):
            return Path(fields.split()[4])
    return None


def _own_path() -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::/"):
            return line.removeprefix("0::/")
    raise CgroupError("this process is in no cgroup of cgroup2")
