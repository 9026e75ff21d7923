"""What root can safely tell an agent about its session's display.

Three things: the Display that logind knows, X servers that run as root on the session's VT, with
their cookie where its file and all its folders are root's alone (LightDM), and the pids of the
session's cgroup. All else is in a user's reach, and is looked up by the agent, as the user.
"""

import contextlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from sessiond.errors import ProtocolError
from sessiond.model import Session
from sessiond.transport.fds import OwnedFd
from sessiond.wire.link import MAX_PIDS, Candidate
from sessiond.wire.xauth import find_cookie

MAX_COOKIE_FILE: Final = 64 << 10
_DISPLAY: Final = re.compile(r":\d{1,5}(\.\d{1,2})?")
_SERVERS: Final = frozenset({"X", "Xorg", "Xorg.bin"})
_ROOTS_OWN: Final = ("/run/", "/var/lib/")  # local, and root's down to what root gave away
_CGROUPS: Final = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")


@dataclass(frozen=True, slots=True)
class XServer:
    """What an X server's arguments say; ``display`` is "" with -displayfd, ``vt`` 0 without."""

    display: str
    vt: int
    authority: str


def parse_arguments(argv: Sequence[str]) -> XServer | None:
    """Return what an X server's command line says; None for another program's."""
    if not argv or os.path.basename(argv[0]) not in _SERVERS:
        return None
    display, vt, authority = "", 0, ""
    for argument, following in pairwise([*argv[1:], ""]):
        if _DISPLAY.fullmatch(argument):
            display = argument
        elif match := re.fullmatch(r"vt0*(\d{1,2})", argument):
            vt = int(match[1])
        elif argument == "-auth":
            authority = following
    return XServer(display, vt, authority)


def candidates(session: Session) -> tuple[Candidate, ...]:
    """Return the displays that may be this session's, the best first."""
    found = []
    if _DISPLAY.fullmatch(session.display):
        found.append(Candidate("logind", session.display))
    for server in _root_servers(Path("/proc")):
        if server.display and server.vt and server.vt == session.vt:
            cookie = _root_cookie(server.authority, server.display)
            found.insert(0, Candidate("x-server", server.display, cookie=cookie))
    return tuple(found)


def session_pids(session: Session, roots: Sequence[str] = _CGROUPS) -> tuple[int, ...]:
    """Return the pids in the session's scope, the leader first, at most ``MAX_PIDS``."""
    for root in roots:
        path = Path(root, "user.slice", f"user-{session.uid}.slice", session.scope, "cgroup.procs")
        try:
            pids = [int(line) for line in path.read_text(encoding="ascii").split()]
        except (OSError, ValueError):
            continue
        # A leader that is gone may be any other process by now: only its place is changed. The
        # sort is stable, and without a leader (0) it changes nothing.
        pids.sort(key=lambda pid: pid != session.leader)
        return tuple(pid for pid in pids if pid > 0)[:MAX_PIDS]
    return ()


def x_servers(pids: Sequence[int], proc: Path = Path("/proc")) -> tuple[int, ...]:
    """Return those that are X servers, by their names alone: arguments are a user's."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if (proc / str(pid) / "comm").read_text(errors="replace").strip() in _SERVERS:
                found.append(pid)
    return tuple(found)


def signs(session: Session, pids: Sequence[int]) -> frozenset[str]:
    """Return what there is that an agent of the session's user may capture, whosever it is.

    Each has a name; one that was started again has another.
    """
    found = [f"X server {pid}" for pid in x_servers(pids)]
    found += [f"compositor {inode}" for inode in compositors(session.uid)]
    return frozenset(found + [f"display {it.display} by {it.rule}" for it in candidates(session)])


def compositors(uid: int, folder: str = "/run/user") -> tuple[int, ...]:
    """Return the inodes of who listens where the user's Wayland compositors do in ``folder``."""
    return listeners(uid, r"wayland-\d+", folder)


def listeners(uid: int, name: str, folder: str = "/run/user") -> tuple[int, ...]:
    """Return the inodes of who listens in a runtime directory, at what ``name`` matches all of.

    The kernel's own list tells (proc_pid_net(5)): nothing there, links to elsewhere among it, is
    looked at. It is no proof, for it has the names as they were given, and every user can give such
    a one.
    """
    listening = r"^[0-9a-f]+: [0-9A-F]{8} 0{8} 00010000 0001 \d\d +(\d+) "
    place = rf"{re.escape(folder)}/{uid}/(?:{name})$"
    text = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")
    return tuple(map(int, re.findall(listening + place, text, re.MULTILINE)))


def _root_servers(proc: Path) -> list[XServer]:
    found = []
    for process in proc.iterdir():
        if not process.name.isdecimal():
            continue
        try:
            if not _is_roots_program(process):
                continue
            argv = (process / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue
        server = parse_arguments(argv)
        if server:
            found.append(server)
    return found


def _is_roots_program(process: Path) -> bool:
    """Whether a process is an X server that root itself has started.

    A set-user-ID program has arguments of its caller's, X servers among them: its real uid tells.
    """
    status = (process / "status").read_text(errors="replace")
    ids = re.search(r"^Uid:\t(\d+)\t(\d+)\t(\d+)\t(\d+)$", status, re.MULTILINE)
    program = os.path.basename(os.readlink(process / "exe")).removesuffix(" (deleted)")
    return ids is not None and set(ids.groups()) == {"0"} and program in _SERVERS


def _root_cookie(path: str, display: str, *, root: str = "/") -> str:
    """Return the display's cookie in hexadecimal, "" unless its file is root's alone.

    Every folder on the way must be root's and writable by nobody else, or a user could have put
    something else there; each is opened from the one before, and no link is followed.
    """
    path = re.sub(r"^/var/run/", "/run/", path)  # Debian's own link, the only one that is followed
    is_ours = path.startswith(_ROOTS_OWN) and not path.startswith("/run/user/")
    if not is_ours or ".." in path.split("/"):
        return ""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    folder = os.open(root, flags | os.O_DIRECTORY)
    try:
        *folders, name = [part for part in path.split("/") if part]
        for part in folders:
            deeper = os.open(part, flags | os.O_DIRECTORY, dir_fd=folder)
            os.close(folder)
            folder = deeper
            if not _is_roots(os.fstat(folder)):
                return ""
        return _read_cookie(os.open(name, flags, dir_fd=folder), display)
    except (OSError, ProtocolError):
        return ""
    finally:
        os.close(folder)


def _read_cookie(fd: int, display: str) -> str:
    with OwnedFd(fd):
        info = os.fstat(fd)
        if not (stat.S_ISREG(info.st_mode) and _is_roots(info)):
            return ""
        data = os.read(fd, MAX_COOKIE_FILE + 1)
    if len(data) > MAX_COOKIE_FILE:
        return ""
    return find_cookie(data, display).hex()


def _is_roots(info: os.stat_result) -> bool:
    return info.st_uid == 0 and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
