"""Which displays may be the session's, and what each has to prove. Pure.

The sources are rows of a table that experience ordered: what root knows, then the X servers that
are processes of the session, then the environments of its processes, then those of the user's
processes that say they are of this session, then the environment of the user's manager, then any
X socket with any cookie. The weaker the source, the more the display itself must prove.
"""

import enum
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from sessiond.wire.link import Candidate

# Of another process's environment nothing else is ever looked at.
VARIABLES: Final = frozenset({
    "DISPLAY", "XAUTHORITY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "XDG_SESSION_ID",
    "XDG_SESSION_TYPE", "DBUS_SESSION_BUS_ADDRESS", "LANG",
})  # fmt: skip
MAX_NUMBER: Final = 65535
SESSION_SERVER: Final = "session-server"
SESSION_PROCESS: Final = "session-process"
USER_PROCESS: Final = "user-process"
USER_MANAGER: Final = "user-manager"
SOCKET: Final = "x11-socket"

_OF_MANAGER: Final = frozenset({"DISPLAY", "XAUTHORITY"})
_DISPLAY: Final = re.compile(r":(\d{1,5})(?:\.\d{1,2})?", re.ASCII)
_SOCKET: Final = re.compile(r"X(\d{1,5})", re.ASCII)
_COMPOSITOR: Final = re.compile(r"wayland-\d{1,5}", re.ASCII)

Environment = Mapping[str, str]


class Proof(enum.IntEnum):
    """What must tell that a display is the session's, the least first.

    Another VT than the session's speaks against any display.
    """

    NONE = 0  # its source does
    SERVER = 1  # its server is a process of the session, or on its VT
    VT = 2  # its server is on the session's VT


@dataclass(frozen=True, slots=True)
class Attempt:
    """A display to connect to with the cookie from ``xauthority``, or ``cookie``, or none.

    ``is_servers_own``: the file is the one that the server itself was started with.
    """

    rule: str
    display: str
    xauthority: str = ""
    cookie: str = field(default="", repr=False)
    proof: Proof = Proof.NONE
    is_servers_own: bool = False


def display_number(untrusted_display: str) -> int | None:
    """Return N of ``:N`` or ``:N.S``; None for anything else, which is not of this machine."""
    match = _DISPLAY.fullmatch(untrusted_display)
    number = int(match[1]) if match else MAX_NUMBER + 1
    return number if number <= MAX_NUMBER else None


def socket_number(name: str) -> int | None:
    """Return N of a socket's name ``XN``."""
    match = _SOCKET.fullmatch(name)
    return int(match[1]) if match else None


def is_compositor(name: str) -> bool:
    """Tell whether a file of this name in a runtime directory is a Wayland compositor's socket."""
    return _COMPOSITOR.fullmatch(name) is not None


def session_of(untrusted_cgroup: str) -> str:
    """Return the session in whose scope a process is (``/proc/PID/cgroup``); "" for none.

    A session's id is what stands between ``session-`` and ``.scope``.
    """
    match = re.search(r"/session-([^/\n]+)\.scope(?:/|$)", untrusted_cgroup, re.MULTILINE)
    return match[1] if match else ""


def parse_authority(untrusted_cmdline: bytes) -> str:
    """Return the cookie file that an X server was started with (``/proc/PID/cmdline``), or ""."""
    arguments = untrusted_cmdline.decode("utf-8", "replace").split("\0")
    return next((after for word, after in pairwise(arguments) if word == "-auth"), "")


def parse_manager(untrusted: bytes) -> Environment:
    """Return DISPLAY and XAUTHORITY from the manager's Environment as busctl prints it.

    Empty for anything else: ``{"type":"as","data":["NAME=value",...]}``.
    """
    try:
        answer = json.loads(untrusted)
    except (ValueError, RecursionError):
        return {}
    items = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(items, list):
        return {}
    pairs = (item.partition("=") for item in items if isinstance(item, str))
    return {name: value for name, _, value in pairs if name in _OF_MANAGER and value.isprintable()}


def parse_environ(untrusted: bytes) -> dict[str, str]:
    """Return what ``/proc/PID/environ`` says of VARIABLES; the first of a name counts."""
    found: dict[str, str] = {}
    for item in untrusted.split(b"\0"):
        name, _, value = item.decode("utf-8", "replace").partition("=")
        if name in VARIABLES and value.isprintable():
            found.setdefault(name, value)
    return found


def from_candidates(candidates: Iterable[Candidate], known: Sequence[str]) -> Iterator[Attempt]:
    """Yield attempts for what root names; with the ``known`` files where it names no cookie."""
    for candidate in candidates:
        display, rule = candidate.display, candidate.rule
        if candidate.cookie:
            yield Attempt(rule, display, cookie=candidate.cookie)
        elif candidate.xauthority:
            yield Attempt(rule, display, candidate.xauthority)
        else:
            yield from (Attempt(rule, display, path) for path in (*known, ""))


def from_servers(servers: Iterable[tuple[int, str]], known: Sequence[str]) -> Iterator[Attempt]:
    """Yield attempts for X servers of the session, each with the file of its own arguments.

    The session's screen is on its VT; a test server that somebody started in it is on none.
    """
    for number, authority in servers:
        if authority:
            yield Attempt(
                SESSION_SERVER, f":{number}", authority, proof=Proof.VT, is_servers_own=True
            )
        for path in (*known, ""):
            yield Attempt(SESSION_SERVER, f":{number}", path, proof=Proof.VT)


def from_environments(
    rule: str,
    environments: Iterable[Environment],
    known: Sequence[str],
    proof: Proof = Proof.NONE,
) -> Iterator[Attempt]:
    """Yield attempts for the displays of processes, in their order."""
    for environment in environments:
        display, path = environment.get("DISPLAY", ""), environment.get("XAUTHORITY", "")
        # Remote and TCP displays are no candidates at all; most processes have none.
        if display_number(display) is not None:
            for file in (path,) if path else (*known, ""):
                yield Attempt(rule, display, file, proof=proof)


def from_sockets(numbers: Iterable[int], files: Sequence[str]) -> Iterator[Attempt]:
    """Yield attempts for every X server that listens, with each file and with none."""
    for number in sorted(set(numbers)):
        for path in dict.fromkeys((*files, "")):
            yield Attempt(SOCKET, f":{number}", path, proof=Proof.SERVER)


def distinct(attempts: Iterable[Attempt]) -> Iterator[Attempt]:
    """Leave out what was tried before on the same or easier terms: it would have the same end."""
    least: dict[tuple[object, ...], Proof] = {}
    for attempt in attempts:
        key = (
            display_number(attempt.display),
            attempt.xauthority,
            attempt.cookie,
            attempt.is_servers_own,
        )
        if key not in least or attempt.proof < least[key]:
            least[key] = attempt.proof
            yield attempt
