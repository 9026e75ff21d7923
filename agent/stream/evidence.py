"""Which displays may be the session's, and in which order they are tried. Pure.

The sources are rows of a table that experience ordered: what root knows, then the environments of
the session's processes, then those of the user's manager that say they are of this session, then
any X socket, whose server must prove that it is the session's.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sessiond.wire.link import Candidate

# Of another process's environment nothing else is ever looked at.
VARIABLES: Final = frozenset({
    "DISPLAY", "XAUTHORITY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "XDG_SESSION_ID",
    "XDG_SESSION_TYPE", "DBUS_SESSION_BUS_ADDRESS", "LANG",
})  # fmt: skip
MAX_NUMBER: Final = 65535
SESSION_PROCESS: Final = "session-process"
USER_PROCESS: Final = "user-process"
SOCKET: Final = "x11-socket"

_DISPLAY: Final = re.compile(r":(\d{1,5})(?:\.\d{1,2})?", re.ASCII)
_SOCKET: Final = re.compile(r"X(\d{1,5})", re.ASCII)

Environment = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A display to connect to with the cookie from ``xauthority``, or ``cookie``, or none.

    ``needs_proof``: that the server's pid or VT is the session's.
    """

    rule: str
    display: str
    xauthority: str = ""
    cookie: str = field(default="", repr=False)
    needs_proof: bool = False


def display_number(untrusted_display: str) -> int | None:
    """Return N of ``:N`` or ``:N.S``; None for anything else, which is not of this machine."""
    match = _DISPLAY.fullmatch(untrusted_display)
    number = int(match[1]) if match else MAX_NUMBER + 1
    return number if number <= MAX_NUMBER else None


def socket_number(name: str) -> int | None:
    """Return N of a socket's name ``XN``."""
    match = _SOCKET.fullmatch(name)
    return int(match[1]) if match else None


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


def from_environments(
    rule: str, environments: Iterable[Environment], known: Sequence[str]
) -> Iterator[Attempt]:
    """Yield attempts for the displays of processes, in their order."""
    for environment in environments:
        display, path = environment.get("DISPLAY", ""), environment.get("XAUTHORITY", "")
        # Remote and TCP displays are no candidates at all; most processes have none.
        if display_number(display) is not None:
            yield from (Attempt(rule, display, p) for p in ((path,) if path else (*known, "")))


def from_sockets(numbers: Iterable[int], files: Sequence[str]) -> Iterator[Attempt]:
    """Yield attempts for every X server that listens, with each file and with none."""
    for number in sorted(set(numbers)):
        for path in dict.fromkeys((*files, "")):
            yield Attempt(SOCKET, f":{number}", path, needs_proof=True)


def distinct(attempts: Iterable[Attempt]) -> Iterator[Attempt]:
    """Leave out what was tried before; a second try would have the same end."""
    seen = set[tuple[object, ...]]()
    for attempt in attempts:
        key = (display_number(attempt.display), attempt.xauthority, attempt.cookie)
        # One that needed no proof was tried on easier terms.
        if key not in seen:
            seen.add(key)
            yield attempt
