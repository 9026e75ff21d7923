"""The folder with an agent's own files, and the lock: one agent for each user."""

import fcntl
import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from sessiond.errors import RunningError, SessiondError
from sessiond.transport.fds import OwnedFd

LOCK: Final = "spice-session-agent.lock"
SOCKET: Final = "spice-session-agent.sock"

_RUN: Final = Path("/run/user")
_TMP: Final = Path("/tmp")  # noqa: S108 (what is made there is checked)
_MAX_PID: Final = 16  # bytes
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def runtime_folder(environ: Mapping[str, str], run: Path = _RUN, tmp: Path = _TMP) -> Path:
    """Return the folder that is this user's alone: $XDG_RUNTIME_DIR, else /run/user/UID.

    Where neither is there and this user's, one is made in /tmp. Raises SessiondError when another
    user has made that before, or can write there.
    """
    uid = os.geteuid()
    named = environ.get("XDG_RUNTIME_DIR", "")
    for folder in (Path(named or "/nonexistent"), run / str(uid)):
        if folder.is_absolute() and _is_private(folder, uid):
            return folder
    return _made(_made_place(tmp, uid), uid)


def made_before(folder: Path, run: Path = _RUN, tmp: Path = _TMP) -> list[Path]:
    """Return where an agent's lock may be that has started before there was /run/user/UID.

    That is the folder in /tmp, if ours is /run/user/UID and that one was made; else nothing.
    """
    uid = os.geteuid()
    made = _made_place(tmp, uid)
    return [made] if folder == run / str(uid) and _is_private(made, uid) else []


class Lock:
    """Holds the lock of this user's agent in all ``folders`` until ``close``.

    Raises RunningError where another agent holds one, saying its pid; SessiondError.
    """

    def __init__(self, *folders: Path) -> None:
        with ExitStack() as stack:
            for folder in dict.fromkeys(folders):
                stack.enter_context(_locked(folder / LOCK))
            self._held = stack.pop_all()

    def close(self) -> None:
        """Let the next agent start; a second call does nothing.

        The file stays: who waits for a file that is taken away waits for another one.
        """
        self._held.close()


def _locked(path: Path) -> OwnedFd:
    try:
        held = OwnedFd(os.open(path, _FLAGS, 0o600))
    except OSError as error:
        raise SessiondError(f"lock {path} cannot be opened: {error.strerror}") from error
    fd = held.fileno()
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(fd, _MAX_PID, 0).decode("ascii", "replace").strip() or "?"
        raise RunningError(f"already running as pid {pid}") from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return held


def _made_place(tmp: Path, uid: int) -> Path:
    return tmp / f"spice-session-agent-{uid}"


def _made(folder: Path, uid: int) -> Path:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise SessiondError(f"{folder} cannot be made: {error.strerror}") from error
    if not _is_private(folder, uid):
        raise SessiondError(f"{folder} is not a folder of uid {uid} alone")
    return folder


def _is_private(folder: Path, uid: int) -> bool:
    """Whether it is a folder, no link to one, of this user's, where no other may write."""
    try:
        info = folder.lstat()
    except OSError:
        return False
    is_open = bool(info.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    return stat.S_ISDIR(info.st_mode) and info.st_uid == uid and not is_open
