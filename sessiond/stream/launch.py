"""Starts an agent as its session's user, and ends it: by pidfd, never blocking the loop.

The agent is the daemon's own child. util-linux's setpriv gives it the user's credentials, an
empty bounding set, no new privileges and death with the parent; the environment is made from
scratch; the link, and perhaps a socket to a KMS helper, is all that it inherits. No shell, no sudo,
no PAM, and never in the session's scope, which an agent there would keep from closing (systemd
9160).
"""

import asyncio
import os
import pwd
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sessiond.transport.fds import OwnedFd

KILL_AFTER: Final = 2.0  # seconds to end in, once told
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom an agent runs as. ``home`` is only passed on: root does not look at it."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    user: str
    home: str


def identify(uid: int, gid: int, user: str) -> Identity:
    """Return the account's groups and home from the user database.

    May block in NSS: not for the loop's thread. An account without an entry (a greeter of GDM 49)
    has the group that logind names alone, and no home.
    """
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Identity(uid, gid, (gid,), user, "/")
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return Identity(uid, entry.pw_gid, tuple(groups), entry.pw_name, entry.pw_dir)


def environment(identity: Identity) -> dict[str, str]:
    """Return the agent's whole environment."""
    return {
        "PATH": _PATH,
        "LANG": "C.UTF-8",
        "HOME": identity.home,
        "USER": identity.user,
        "LOGNAME": identity.user,
        "XDG_RUNTIME_DIR": f"/run/user/{identity.uid}",
    }


def drop_privileges(identity: Identity) -> list[str]:
    """Return the start of a command line that gives up, for good, what root has (setpriv(1)).

    Empty where we are not root: then the agent can only be ours.
    """
    if os.geteuid() != 0:
        return ["setpriv", "--no-new-privs", "--pdeathsig=KILL", "--"]
    # A number that is an account's name, too, is taken for the name. None begins with a plus.
    groups = ",".join(f"+{gid}" for gid in identity.groups)
    return [
        "setpriv",
        f"--reuid=+{identity.uid}",
        f"--regid=+{identity.gid}",
        f"--groups={groups}" if groups else "--clear-groups",
        "--inh-caps=-all",
        "--ambient-caps=-all",
        "--bounding-set=-all",
        "--no-new-privs",
        "--pdeathsig=KILL",
        "--",
    ]


LINK_BUFFER: Final = 1 << 20  # bytes; most frames are smaller


class AgentProcess:
    """A running agent and the daemon's end of its link.

    ``on_exit(status)`` is called once, in the loop's thread: the exit status, negative for a
    signal. ``link`` is the owner's to close.
    """

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        on_exit: Callable[[int], None],
        more: Mapping[str, OwnedFd] = MappingProxyType({}),
    ) -> None:
        """Start ``command`` with ``--link-fd N`` behind it. Raises OSError.

        It inherits ``more``, too, by the options that name them; ours are closed.
        """
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        # A whole frame in one write, and one wake-up of ours. The kernel cuts it down to
        # net.core.wmem_max, which only CAP_NET_ADMIN could exceed: larger frames take a few.
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LINK_BUFFER)
        ours.setblocking(False)
        self.link = OwnedFd(ours.detach())
        with theirs:
            try:
                fds = {name: fd.fileno() for name, fd in more.items()}
                fds["--link-fd"] = theirs.fileno()
                options = [word for name, fd in fds.items() for word in (name, str(fd))]
                self._process = subprocess.Popen(
                    [*command, *options],
                    env=dict(env),
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=tuple(fds.values()),
                    start_new_session=True,
                )
            except OSError:
                self.link.close()
                raise
        for given in more.values():
            given.close()
        try:
            self._pidfd = OwnedFd(os.pidfd_open(self._process.pid))
        except OSError:  # no descriptors left
            self.link.close()
            self._process.kill()
            self._process.wait()
            raise
        self._loop.add_reader(self._pidfd.fileno(), self._reap)
        self._killer: asyncio.TimerHandle | None = None
        self._was_told = False
        self._has_ended = False

    @property
    def pid(self) -> int:
        """The agent's process id."""
        return self._process.pid

    def stop(self) -> None:
        """Ask it to end; after ``KILL_AFTER`` seconds it is killed. ``on_exit`` follows."""
        if not self._was_told:
            self._was_told = True
            self._signal(signal.SIGTERM)
            self.expect_end()

    def expect_end(self) -> None:
        """Let it end by itself, with its own exit status; after ``KILL_AFTER`` it is killed."""
        if not self._has_ended and self._killer is None:
            self._killer = self._loop.call_later(KILL_AFTER, self._signal, signal.SIGKILL)

    def kill(self) -> None:
        """End it now; ``on_exit`` follows."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if not self._has_ended:
            signal.pidfd_send_signal(self._pidfd.fileno(), number)

    def _reap(self) -> None:
        status = self._process.wait()  # it has ended: this does not block
        self._has_ended = True
        self._loop.remove_reader(self._pidfd.fileno())
        self._pidfd.close()
        if self._killer:
            self._killer.cancel()
        self._on_exit(status)
