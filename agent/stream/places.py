"""Where evidence of a session's display lies in the file system, and how it is read.

Everything here may block for as long as a user likes; callers set the limit.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from agent.stream.evidence import Environment, parse_environ, socket_number

MAX_ENVIRON: Final = 256 << 10  # bytes; DISPLAY comes early, and a process may have megabytes
MAX_FILES: Final = 8  # of one pattern, newest first; a display manager makes one per login
MAX_SOCKETS: Final = 32

_KNOWN: Final = (
    "user/{uid}/gdm/Xauthority",
    "user/{uid}/xauth_*",
    "sddm/xauth_*",
    "lightdm/*/xauthority",
)


@dataclass(frozen=True, slots=True)
class Places:
    """The folders to look into; a test has its own."""

    uid: int
    home: str
    hostname: str
    proc: Path = Path("/proc")
    sockets: Path = Path("/tmp/.X11-unix")  # noqa: S108 (where X servers listen)
    run: Path = Path("/run")
    sys: Path = Path("/sys")

    @classmethod
    def real(cls, environ: Mapping[str, str]) -> Self:
        """Return those of this process's user, whose home is $HOME."""
        return cls(os.geteuid(), environ.get("HOME", ""), socket.gethostname())

    @property
    def runtime(self) -> Path:
        """The user's runtime directory; may not be there."""
        return self.run / "user" / str(self.uid)

    def server(self, number: int) -> str:
        """Return the path of display ``number``'s socket."""
        return str(self.sockets / f"X{number}")

    def authorities(self) -> list[str]:
        """Return the known places' cookie files, the newest of each first, then the home's."""
        found = list[str]()
        for pattern in _KNOWN:
            files = list[tuple[float, str]]()
            for path in self.run.glob(pattern.format(uid=self.uid)):
                with contextlib.suppress(OSError):
                    files.append((-path.lstat().st_mtime, str(path)))
            found += [path for _age, path in sorted(files)[:MAX_FILES]]
        return [*found, f"{self.home}/.Xauthority"] if self.home else found

    def runtime_files(self, is_wanted: Callable[[str], bool]) -> list[str]:
        """Return the paths of the files with such names in the runtime directory, in order."""
        with contextlib.suppress(OSError):
            return sorted(str(self.runtime / n) for n in os.listdir(self.runtime) if is_wanted(n))
        return []

    def age(self, path: str) -> float:
        """Return a number that is less for an older file, such as a socket since it was made."""
        with contextlib.suppress(OSError):
            return os.lstat(path).st_mtime
        return 0.0

    def connectors(self) -> set[str]:
        """Return the names of the graphics cards' connectors, such as ``HDMI-A-1``.

        They are the names of the outputs of whoever has such a card.
        """
        with contextlib.suppress(OSError):
            names = os.listdir(self.sys / "class" / "drm")
            return {name.partition("-")[2] for name in names if name.startswith("card")} - {""}
        return set()

    def read(self, pid: int, name: str, limit: int) -> bytes:
        """Return at most ``limit`` bytes of a file of process ``pid``; nothing if it is gone."""
        with contextlib.suppress(OSError), (self.proc / str(pid) / name).open("rb") as file:
            return file.read(limit)
        return b""

    def environments(self, pids: Iterable[int]) -> Iterator[Environment]:
        """Yield what those of ``pids`` say that are there and let themselves be read."""
        for pid in pids:
            with (
                contextlib.suppress(OSError),
                (self.proc / str(pid) / "environ").open("rb") as file,
            ):
                yield parse_environ(file.read(MAX_ENVIRON))

    def user_processes(self, session: str) -> Iterator[Environment]:
        """Yield the environments under the user's manager that name ``session``."""
        mine = [pid for pid in self._pids() if self._is_of_user_manager(pid)]
        for environment in self.environments(mine):
            if environment.get("XDG_SESSION_ID") == session:
                yield environment

    def own_processes(self) -> Iterator[Environment]:
        """Yield the environments of all processes of the user."""
        yield from self.environments(pid for pid in self._pids() if self._is_own(pid))

    def server_numbers(self, limit: int = MAX_SOCKETS) -> list[int]:
        """Return the lowest numbers of displays that have a socket, in a file or abstract."""
        names = list[str]()
        with contextlib.suppress(OSError):
            names += os.listdir(self.sockets)
        with contextlib.suppress(OSError):
            abstract = f"@{self.sockets}/"
            for line in (self.proc / "net" / "unix").read_text(errors="replace").splitlines():
                path = line.rsplit(" ", 1)[-1]
                if path.startswith(abstract):
                    names.append(path.removeprefix(abstract))
        numbers = {number for name in names if (number := socket_number(name)) is not None}
        return sorted(numbers)[:limit]

    def _pids(self) -> list[int]:
        with contextlib.suppress(OSError):
            return sorted(int(name) for name in os.listdir(self.proc) if name.isdecimal())
        return []

    def _is_of_user_manager(self, pid: int) -> bool:
        if not self._is_own(pid):
            return False
        try:
            control_group = (self.proc / str(pid) / "cgroup").read_text(errors="replace")
        except OSError:
            return False
        return f"/user@{self.uid}.service/" in control_group

    def _is_own(self, pid: int) -> bool:
        with contextlib.suppress(OSError):
            return (self.proc / str(pid)).stat().st_uid == self.uid
        return False
