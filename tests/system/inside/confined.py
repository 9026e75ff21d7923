"""Tries what the daemon's sandbox forbids, and what it has to allow, in place of the daemon.

    python3 -m tests.system.inside.confined HELD ...

Prints, as JSON, what came of each try: its result, or the name of its error. HELD are files that
others have open.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sessiond.stream.holder import holder_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PRIVATE: Final = "/home/alice/private"  # what only she may read
_CLONE_NEWUSER: Final = 0x10000000  # linux/sched.h
_PER_LINUX32: Final = 0x0008  # linux/personality.h
_libc: Final = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """Call a function of the C library. Raises OSError."""
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def as_alice(program: str) -> str:
    """Return what a shell says as that user, without privileges, as agents are."""
    drop = ["setpriv", "--reuid=alice", "--regid=alice", "--clear-groups", "--bounding-set=-all"]
    command = [*drop, "--no-new-privs", "sh", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def tries(held: Sequence[str]) -> dict[str, Callable[[], object]]:
    """Return what is tried, by name."""
    return {
        "write to /etc": lambda: Path("/etc/written").touch(),
        "write to /usr": lambda: Path("/usr/written").touch(),
        "write to /tmp": lambda: Path("/tmp/written").touch(),  # noqa: S108
        "write to /root": lambda: Path("/root/written").touch(),
        "write to /proc/sys": lambda: Path("/proc/sys/kernel/hostname").write_text("other"),
        "write to a control group": lambda: Path("/sys/fs/cgroup/written").mkdir(),
        "read a user's own": lambda: Path(PRIVATE).read_text(),
        "own a file": lambda: os.chown("/run/spice-sessiond", 1000, 1000),
        "make a device": lambda: os.mknod("/run/spice-sessiond/disk", stat.S_IFBLK | 0o600, 1792),
        "a TCP socket": lambda: socket.socket(socket.AF_INET).close(),
        "a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
        "a user namespace": lambda: call("unshare", _CLONE_NEWUSER),
        "a mount": lambda: call("mount", b"none", b"/mnt", b"tmpfs", 0, None),
        "another root": lambda: os.chroot("/mnt"),
        "real time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        "a nicer self": lambda: os.nice(-1),
        "another personality": lambda: call("personality", _PER_LINUX32),
        "code at run time": lambda: mmap.mmap(
            -1, mmap.PAGESIZE, prot=mmap.PROT_WRITE | mmap.PROT_EXEC
        ).close(),
        "the kernel's log": lambda: call("klogctl", 3, None, 0),
        "trace another": lambda: call("ptrace", 16, 1, None, None),
        "the holders": lambda: [holder_of(each) for each in held],
        "become alice": lambda: as_alice(f"cat {PRIVATE}; touch /home/alice/written"),
    }


def outcome(attempt: Callable[[], object]) -> object:
    """Return what it returned, or its error's name."""
    try:
        return attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


if __name__ == "__main__":
    print(json.dumps({name: outcome(each) for name, each in tries(sys.argv[1:]).items()}))  # noqa: T201
