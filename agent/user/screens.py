"""A display of the user's: found out how to open it, opened, and asked for its screens.

What of this project needs python-xlib is loaded with this module, and that with the first display
that is to be connected. All that is here may block, within limits, and so runs in threads.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from Xlib.display import Display
from Xlib.error import XError
from Xlib.ext import randr

from agent.capture.x11.access import answering
from agent.capture.x11.display import connect_display, lost_display
from agent.capture.x11.server import Server
from agent.stream import bounded, evidence, reach
from agent.stream.bounded import look
from agent.stream.evidence import Attempt, Environment, display_number, parse_authority
from agent.stream.listeners import MAX_CMDLINE
from agent.stream.places import Places
from agent.stream.user_manager import manager_environment
from agent.stream.xauthority import NoXauthorityError
from sessiond.errors import DisplayError

PATIENCE: Final = 8.0  # seconds after which no further cookie is tried
WHOLE: Final = "screen"  # the name of the one screen of a server without outputs

_MAX_TEXT: Final = 500  # characters of what became of all attempts


@dataclass(frozen=True, slots=True)
class Output:
    """One screen of a display: its name, and its place in the picture, in pixels."""

    output: str
    x: int
    y: int
    width: int
    height: int
    is_primary: bool


class Connection:
    """An open display. One thread at a time."""

    def __init__(self, name: str, display: Display) -> None:
        self.name = name
        self._display = display

    def fileno(self) -> int:
        """Return the descriptor of the connection."""
        number: int = self._display.fileno()
        return number

    def drain(self) -> None:
        """Read what the server has to say, without waiting. Raises DisplayError at its end.

        Nothing was asked for, but some events come to every client (MappingNotify).
        """
        with _understood(self.name), lost_display(self._display):
            for _ in range(self._display.pending_events()):
                self._display.next_event()

    def screens(self) -> list[Output]:
        """Return the outputs that show something. Raises DisplayError, and then it is of no use."""
        sock = self._display.display.socket
        with (
            _understood(self.name),
            answering(sock, self.name, bounded.TIMEOUT),
            lost_display(self._display),
        ):
            return _screens(self._display)

    def close(self) -> None:
        """Disconnect; the server may be gone."""
        sock = self._display.display.socket
        sock.close()


def connect(number: int, server: Server, environ: Mapping[str, str], places: Places) -> Connection:
    """Open display ``number``, which ``server`` serves, with the first cookie that it takes.

    ``environ`` is this agent's own. Raises DisplayError, whose text says what became of it.
    """
    deadline = time.monotonic() + PATIENCE
    refusals = dict[str, None]()
    for attempt in evidence.distinct(_attempts(number, server, environ, places, deadline)):
        if time.monotonic() > deadline:
            refusals[f"gave up after {PATIENCE:g} s"] = None
            break
        try:
            display = reach.reach(attempt, places, lambda _: connect_display(f":{number}"))
        except NoXauthorityError:
            continue
        except DisplayError as error:
            refusals[str(error)] = None
        else:
            return Connection(f":{number}", display)
    raise DisplayError("; ".join(refusals)[:_MAX_TEXT])


@contextmanager
def _understood(name: str) -> Iterator[None]:
    """Turn what python-xlib makes of a server's nonsense into DisplayError.

    It believes what it is sent, fails at any place, and then does not read on.
    """
    try:
        yield
    except DisplayError:
        raise
    except Exception as error:
        raise DisplayError(f"display {name} sends nonsense: {error!r}") from error


def _attempts(
    number: int, server: Server, environ: Mapping[str, str], places: Places, deadline: float
) -> Iterator[Attempt]:
    """Yield what may open the display, the likeliest first."""
    name = f":{number}"
    if path := environ.get("XAUTHORITY"):
        yield Attempt("environment", name, path)
    if server.uid == places.uid:
        path = parse_authority(places.read(server.pid, "cmdline", MAX_CMDLINE))
        if path:
            yield Attempt("server", name, path, is_servers_own=True)
    known = look(places.authorities, deadline)
    yield from (Attempt("known-file", name, path) for path in known)
    of_processes = look(places.own_processes, deadline)
    yield from _of(evidence.USER_PROCESS, number, of_processes)
    of_manager = look(lambda: [manager_environment(places, bounded.TIMEOUT)], deadline)
    yield from _of(evidence.USER_MANAGER, number, of_manager)
    yield Attempt("no-cookie", name)


def _of(rule: str, number: int, environments: list[Environment]) -> Iterator[Attempt]:
    same = [e for e in environments if display_number(e.get("DISPLAY", "")) == number]
    yield from evidence.from_environments(rule, same, known=())


def _screens(display: Display) -> list[Output]:
    whole = display.screen()
    if not display.has_extension(randr.extname):
        return [Output(WHOLE, 0, 0, whole.width_in_pixels, whole.height_in_pixels, is_primary=True)]
    resources = whole.root.xrandr_get_screen_resources_current()
    primary = whole.root.xrandr_get_output_primary().output
    found = list[Output]()
    for number in resources.outputs:
        try:
            output = display.xrandr_get_output_info(number, resources.config_timestamp)
            if not output.crtc:
                continue
            crtc = display.xrandr_get_crtc_info(output.crtc, resources.config_timestamp)
        except XError:  # unplugged since
            continue
        place = (crtc.x, crtc.y, crtc.width, crtc.height)
        found.append(Output(output.name, *place, is_primary=number == primary))
    return found
