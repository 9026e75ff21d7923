"""Tries one piece of evidence of a display: its cookie, its server's socket, and who serves that.

Each step may take as long as a user likes, so each has its limit. What makes a display the right
one, and what is then done with it, is the caller's.
"""

from collections.abc import Callable
from typing import TypeVar

from agent.capture.x11.access import Cookie, answering, granted
from agent.capture.x11.server import Server, connect_server
from agent.stream import bounded
from agent.stream.bounded import within
from agent.stream.evidence import Attempt, display_number
from agent.stream.opened import NOT_FOUND, NoDisplayError
from agent.stream.places import Places
from agent.stream.xauthority import XauthorityError, choose_cookie, parse_cookie, read_xauthority
from sessiond.errors import DisplayError

T = TypeVar("T")


def reach(attempt: Attempt, places: Places, use: Callable[[Server], T]) -> T:
    """Connect to the attempt's server and return what ``use`` makes of it.

    While ``use`` runs, python-xlib has in this thread the server's socket and the cookie. The
    socket is closed if that raises. Raises DisplayError, of it NoXauthorityError where the cookie's
    file is not there and NoDisplayError where nobody listens.
    """
    number = display_number(attempt.display)
    if number is None:
        raise NoDisplayError(NOT_FOUND, f"{attempt.display!r} is not a display of this machine")
    cookie = _cookie(attempt, number, places)
    try:
        # In a public folder, where anybody may have put a link to a dead mount.
        server = within(
            bounded.TIMEOUT,
            lambda: connect_server(places.server(number), bounded.TIMEOUT),
            f"socket of display {attempt.display}",
        )
    except OSError as error:
        text = f"display {attempt.display}: {error.strerror or error}"
        raise NoDisplayError(NOT_FOUND, text) from None
    try:
        _check_server(attempt, server, places.uid)
        with answering(server.sock, attempt.display, bounded.TIMEOUT), granted(server.sock, cookie):
            return use(server)
    except BaseException:
        server.sock.close()
        raise


def _check_server(attempt: Attempt, server: Server, uid: int) -> None:
    # A socket in a public folder may be anybody's, and so may an abstract one.
    if server.uid not in {0, uid}:
        raise DisplayError(f"display {attempt.display} is served by uid {server.uid}")


def _cookie(attempt: Attempt, number: int, places: Places) -> Cookie:
    if attempt.cookie:
        return parse_cookie(attempt.cookie)
    path = attempt.xauthority
    if not path:
        return Cookie()
    entries = within(
        bounded.TIMEOUT, lambda: read_xauthority(path, places.uid), f"cookie file {path}"
    )
    cookie = choose_cookie(entries, number, places.hostname, is_servers_own=attempt.is_servers_own)
    if cookie is None:
        raise XauthorityError(f"cookie file {path} has nothing for display :{number}")
    return cookie
