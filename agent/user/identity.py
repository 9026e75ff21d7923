"""Who this agent is: becomes another user, for good, or says why it cannot.

The daemon takes an agent for the user that the kernel names. What is done here comes before all
else, and what has become of it is read back from /proc.
"""

import contextlib
import ctypes
import logging
import os
import pwd
from pathlib import Path
from typing import Final

from agent.stream.bounded import within
from sessiond.errors import DisplayError, SessiondError, UsageError

log = logging.getLogger(__name__)

PATH: Final = "/usr/local/bin:/usr/bin:/bin"  # of a user's commands, where root's is not taken over

TIMEOUT: Final = 2.0  # seconds for the way to the user's home, which may be on a dead mount

_UMASK: Final = 0o022  # as a login has it (login.defs(5))
_SETS: Final = ("CapInh", "CapPrm", "CapEff", "CapAmb")  # proc(5), capabilities(7)
_VERSION_3: Final = 0x20080522  # linux/capability.h: _LINUX_CAPABILITY_VERSION_3, two words a set
_STATUS: Final = Path("/proc/self/status")


def become(name: str) -> None:
    """Be the user ``name`` from now on, with no way back; nothing if we are already.

    Then the environment is that user's alone, the umask a login's, the working directory their home
    (/ where that cannot be entered), and only standard input, output and error are open. Raises
    UsageError where there is no such user, or no right to become them; SessiondError where
    something of the old user is left.
    """
    user = _find(name)
    if user.pw_uid == os.getuid() == os.geteuid():
        return
    if os.geteuid() != 0:
        raise UsageError(f"--username {name}: only root can become another user")
    groups = os.getgrouplist(user.pw_name, user.pw_gid)
    # Whatever it is, it was opened with root's rights.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.setgroups(groups)
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    # The kernel leaves the inheritable ones, and all if it was asked to (SECBIT_KEEP_CAPS).
    _drop_capabilities()
    check(_STATUS.read_text(encoding="ascii"), user.pw_uid, user.pw_gid, groups)
    _settle(user)
    log.info("this is %s (uid %d) now", user.pw_name, user.pw_uid)


def check(status: str, uid: int, gid: int, groups: list[int]) -> None:
    """Raise SessiondError unless ``status`` (proc(5)) is that of an ordinary user's process.

    Real, effective, saved and file system ids are ``uid`` and ``gid``, the supplementary groups are
    ``groups``, and no capability is left, nor one that a program could get back by itself.
    """
    found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    wanted = {"Uid": {uid}, "Gid": {gid}, "Groups": set(groups)}
    wrong = [key for key, ids in wanted.items() if set(map(int, found[key].split())) != ids]
    wrong += [key for key in _SETS if int(found[key], 16) != 0]
    if wrong:
        said = ", ".join(f"{key}: {' '.join(found[key].split())}" for key in wrong)
        raise SessiondError(f"cannot become uid {uid} for good: the kernel says {said}")


def _find(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(name)
    except (KeyError, ValueError):  # the latter: a NUL in it
        raise UsageError(f"--username {name!r}: there is no such user") from None


def _drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets, and by that the ambient one."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)  # of this thread
    nothing = (ctypes.c_uint32 * 6)()
    if libc.capset(header, nothing) != 0:
        number = ctypes.get_errno()
        raise SessiondError(f"cannot drop capabilities: {os.strerror(number)}")


def _settle(user: pwd.struct_passwd) -> None:
    """Have this user's environment and no other's, and stand in their home."""
    os.umask(_UMASK)
    os.environ.clear()
    os.environ |= {
        "HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name,
        "SHELL": user.pw_shell or "/bin/sh", "PATH": PATH,
    }  # fmt: skip
    runtime = Path("/run/user", str(user.pw_uid))
    if runtime.is_dir():
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    os.chdir("/")
    with contextlib.suppress(OSError, DisplayError):
        within(TIMEOUT, lambda: os.chdir(user.pw_dir), f"home {user.pw_dir}")
