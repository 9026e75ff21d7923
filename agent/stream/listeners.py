"""Who listens on the sockets of X servers and of Wayland compositors, as the kernel tells.

SO_PEERCRED names the process that listened first; nothing is said to it.
"""

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from agent.capture.x11.server import Server, connect_server
from agent.stream.evidence import is_compositor, parse_authority, parse_environ, session_of
from agent.stream.places import MAX_ENVIRON, Places

MAX_CMDLINE: Final = 64 << 10  # bytes; -auth is among the first of an X server's arguments
MAX_COMPOSITORS: Final = 16  # a session has one, and perhaps a nested one
_TIMEOUT: Final = 0.5  # seconds; the kernel completes a connection to who listens at once


@dataclass(frozen=True, slots=True)
class Compositor:
    """A Wayland compositor that listens at ``path``: process ``pid``.

    ``is_of_session``: it is known to be the session's, and not only possible. ``bus`` is the
    address of its message bus if it has one in its environment, else "".
    """

    path: str
    is_of_session: bool
    bus: str
    pid: int

    @property
    def name(self) -> str:
        """What its clients call it, such as ``wayland-0``."""
        return self.path.rpartition("/")[2]


def session_servers(places: Places, pids: Collection[int]) -> Iterator[tuple[int, str]]:
    """Yield the number of each X display whose server is one of ``pids``, and its cookie file.

    The file is the one that its arguments name, "" without.
    """
    for number in places.server_numbers() if pids else ():
        server = listener(places.server(number))
        if server and server.pid in pids:
            yield number, parse_authority(places.read(server.pid, "cmdline", MAX_CMDLINE))


def compositors(places: Places, session: str, pids: Collection[int]) -> list[Compositor]:
    """Return the Wayland compositors that may be that of ``session``, the likeliest first.

    That is a process of the session, one of the user's that says it is of this session, or one
    that says nothing: what the user's manager has started is in no session's scope. Of the same
    kind the oldest is the first: those that run in a window of another one come after it.
    """
    found = list[Compositor]()
    # A socket that nobody listens at is what a killed compositor has left.
    for path in places.runtime_files(is_compositor)[:MAX_COMPOSITORS]:
        server = listener(path)
        if server and (server.pid in pids or server.uid == places.uid):
            environment = parse_environ(places.read(server.pid, "environ", MAX_ENVIRON))
            named = session
            if server.pid not in pids:
                named = _session_of(places, server.pid) or environment.get("XDG_SESSION_ID", "")
            if named in {"", session}:
                bus = environment.get("DBUS_SESSION_BUS_ADDRESS", "")
                found.append(Compositor(path, bool(named), bus, server.pid))
    return sorted(found, key=lambda it: (not it.is_of_session, places.age(it.path)))


def _session_of(places: Places, pid: int) -> str:
    """Return the session in whose scope a process is; "" for none."""
    cgroup = places.read(pid, "cgroup", MAX_CMDLINE)
    return session_of(cgroup.decode("utf-8", "replace"))


def listener(path: str, timeout: float = _TIMEOUT) -> Server | None:
    """Return who listens at ``path``, with a connection that is closed again.

    None for nobody, and for one who has ``timeout`` seconds long no room for another connection.
    """
    with contextlib.suppress(OSError):
        server = connect_server(path, timeout)
        server.sock.close()
        return server
    return None
