"""Whose command it is, and what a login gives."""

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sessiond.errors import StartError
from sessiond.wire.exec_command import PROBLEM

_PATH: Final = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT: Final = (b"PATH", b"LANG", b"TZ", b"QREXEC_SERVICE_PATH", b"QUBES_RPC_CONFIG_PATH")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a command runs as: with what, and the shell that takes a command behind ``-c``."""

    environment: Mapping[bytes, bytes]
    shell: bytes = b"/bin/sh"
    shell_name: bytes = b"sh"  # its argv[0]


def become(user: bytes, environment: Mapping[bytes, bytes]) -> Identity:
    """Be ``user`` from now on. Raises StartError.

    Everybody may stay who they are, and has the environment as it is. Only root becomes somebody
    else, as at a login: in their home, with their login shell, and of root's environment only what
    says where programs are and which language is spoken.
    """
    entry = _look_up(user)
    own = os.geteuid()
    if entry.pw_uid == own:
        return Identity(environment)
    if own:
        raise StartError(f"a command of {entry.pw_name}'s, to an agent of user {own}", PROBLEM)
    _switch(entry)
    try:
        os.chdir(entry.pw_dir)
    except OSError:
        os.chdir("/")
    shell = os.fsencode(entry.pw_shell or "/bin/sh")  # passwd(5)
    kept = {name: environment[name] for name in _KEPT if name in environment}
    login = {
        b"HOME": os.fsencode(entry.pw_dir),
        b"SHELL": shell,
        b"USER": user,
        b"LOGNAME": user,
    }
    return Identity({b"PATH": _PATH, **kept, **login}, shell, b"-" + os.path.basename(shell))


def is_own(user: bytes) -> bool:
    """Whether that is who we are. Raises StartError for a user who does not exist."""
    return _look_up(user).pw_uid == os.geteuid()


def _look_up(user: bytes) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(os.fsdecode(user))
    except (KeyError, ValueError):  # ValueError: a NUL
        raise StartError("a command of a user who does not exist", PROBLEM) from None


def _switch(entry: pwd.struct_passwd) -> None:
    try:
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    except OSError as error:
        raise StartError(f"cannot become {entry.pw_name}: {error}", PROBLEM) from error
