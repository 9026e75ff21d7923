"""Who listens on the sockets of X servers and of Wayland compositors, as the kernel tells.

SO_PEERCRED names the process that listened first; nothing is said to it.
"""

import contextlib
from collections.abc import Collection, Iterator
from typing import Final

from agent.capture.x11.server import Server, connect_server
from agent.stream.evidence import is_compositor, parse_authority, session_of
from agent.stream.places import Places

MAX_CMDLINE: Final = 64 << 10  # bytes; -auth is among the first of an X server's arguments
MAX_COMPOSITORS: Final = 16  # a session has one, and perhaps a nested one
_TIMEOUT: Final = 0.5  # seconds; the kernel completes a connection to who listens at once


def session_servers(places: Places, pids: Collection[int]) -> Iterator[tuple[int, str]]:
    """Yield the number of each X display whose server is one of ``pids``, and its cookie file.

    The file is the one that its arguments name, "" without.
    """
    for number in places.server_numbers() if pids else ():
        server = listener(places.server(number))
        if server and server.pid in pids:
            yield number, parse_authority(places.read(server.pid, "cmdline", MAX_CMDLINE))


def compositors(places: Places, session: str, pids: Collection[int]) -> Iterator[str]:
    """Yield the sockets of the Wayland compositors that may be those of ``session``.

    That is a process of the session, or one of the user's that is in no other session: a
    compositor that the user's manager started is in none.
    """
    for path in places.runtime_files(is_compositor)[:MAX_COMPOSITORS]:
        server = listener(path)
        if server is None:
            continue
        if server.pid in pids or (server.uid == places.uid and _may_be_of(places, server, session)):
            yield path


def _may_be_of(places: Places, server: Server, session: str) -> bool:
    cgroup = places.read(server.pid, "cgroup", MAX_CMDLINE).decode("utf-8", "replace")
    return session_of(cgroup) in {"", session}


def listener(path: str, timeout: float = _TIMEOUT) -> Server | None:
    """Return who listens at ``path``, with a connection that is closed again.

    None for nobody, and for one who has ``timeout`` seconds long no room for another connection.
    """
    with contextlib.suppress(OSError):
        server = connect_server(path, timeout)
        server.sock.close()
        return server
    return None
