"""Connects to an X server of this machine with a cookie that the caller has checked.

python-xlib looks for the server and for the cookie by itself: it falls back to TCP, it never
gives up, and it reads whatever file $XAUTHORITY names. Its two look-ups are functions of one
module (``Xlib.support.connect``), which are wrapped here: within ``granted`` they return what we
have, in that thread alone; elsewhere they do what they always did.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from Xlib.support import connect

from sessiond.errors import DisplayError


@dataclass(frozen=True, slots=True)
class Cookie:
    """What a client shows to an X server; without a name, nothing."""

    name: bytes = b""
    data: bytes = field(default=b"", repr=False)


@contextlib.contextmanager
def granted(sock: socket.socket, cookie: Cookie) -> Iterator[None]:
    """Let python-xlib use ``sock`` and ``cookie`` for the display that this thread opens."""
    _given.sock, _given.cookie = sock, cookie
    try:
        yield
    finally:
        del _given.sock, _given.cookie


@contextlib.contextmanager
def answering(sock: socket.socket, name: str, timeout: float) -> Iterator[None]:
    """Hang up on a server that has not done with us after ``timeout`` seconds.

    python-xlib waits without a limit, but sees the end of its connection. Raises DisplayError.
    """
    is_late = threading.Event()

    def hang_up() -> None:
        is_late.set()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(timeout, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except DisplayError:
        if not is_late.is_set():
            raise
    finally:
        timer.cancel()
    if is_late.is_set():
        raise DisplayError(f"display {name} did not answer in {timeout:g} s")


_given: Final = threading.local()
_get_socket: Final = connect.get_socket
_get_auth: Final = connect.get_auth


def _our_socket(*where: Any) -> Any:  # noqa: ANN401 (python-xlib's own types)
    return getattr(_given, "sock", None) or _get_socket(*where)


def _our_auth(*where: Any) -> Any:  # noqa: ANN401
    cookie = getattr(_given, "cookie", None)
    return (cookie.name, cookie.data) if cookie else _get_auth(*where)


connect.get_socket = _our_socket  # type: ignore[assignment]
connect.get_auth = _our_auth  # type: ignore[assignment]
