"""The program ``spice-session-helper``: tells a daemon, by the legacy protocol, of this display.

Every login runs it, so it costs little: it imports of this project the version alone, and of the
standard library what argparse and socket need anyway. ``sessiond.wire.helper`` reads what this
writes; the tests hold one against the other.
"""

import argparse
import enum
import os
import re
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Final

from sessiond import __version__

PROGRAM: Final = "spice-session-helper"
SOCKET: Final = "@spice-streaming-agent-daemon"  # "@" stands for NUL, as systemd writes it
VERSION: Final = 1
DISPLAY: Final = 1  # types of fields
XAUTHORITY: Final = 2
MAX_VALUE: Final = 255  # bytes; the length is one byte
MAX_TIMEOUT: Final = 3600.0  # seconds; nobody waits longer for a login
MAX_ADDRESS: Final = 107  # bytes; unix(7): 108 with a path's final NUL


class Exit(enum.IntEnum):
    """The exit statuses."""

    OK = 0
    UNUSABLE = 1
    USAGE = 2  # argparse's
    NO_DAEMON = 3
    NOT_ACKNOWLEDGED = 4
    INTERRUPTED = 130  # as shells have it for SIGINT


class HelperError(Exception):
    """Why nothing was told: an exit status, and a line for a person."""

    def __init__(self, status: Exit, text: str) -> None:
        super().__init__(text)
        self.status = status


def main(argv: Sequence[str] | None = None) -> int:
    """Tell the daemon, wait until it has taken it, and return the exit status."""
    options = build_parser().parse_args(argv)
    try:
        display = _display(options.display)
        message = pack(display, _xauthority(options.xauthority))
        tell(message, options.socket, options.timeout)
    except HelperError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)  # noqa: T201
        return error.status
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return Exit.OK


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; its options are those of the manual page."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Tell spice-sessiond which X display this session has.",
        allow_abbrev=False,
    )
    parser.add_argument("--display", metavar=":N", help="a local X display; default: $DISPLAY")
    parser.add_argument(
        "--xauthority",
        metavar="PATH",
        help="the file with its cookie; default: $XAUTHORITY, else ~/.Xauthority if there is one; "
        "'' for none",
    )
    parser.add_argument(
        "--socket",
        metavar="NAME",
        type=_socket,
        default=SOCKET,
        help=f"where the daemon listens: @ and an abstract name, or a path; default: {SOCKET}",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="how long to wait until the daemon has taken it (10)",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def pack(display: str, xauthority: str) -> bytes:
    """Return the message; empty values are left out. Raises HelperError for one without room."""
    message = bytes([VERSION])
    values = (("DISPLAY", DISPLAY, display), ("XAUTHORITY", XAUTHORITY, xauthority))
    for name, kind, text in values:
        value = os.fsencode(text)
        if len(value) > MAX_VALUE:
            room = f"the protocol has room for {MAX_VALUE}"
            raise HelperError(Exit.UNUSABLE, f"{name} has {len(value)} bytes; {room}")
        if value:
            message += bytes([kind, len(value)]) + value
    return message


def tell(message: bytes, name: str, timeout: float) -> None:
    """Send the message and wait until the daemon closes, which is its acknowledgement.

    Until then this process has to live and to stay connected: the daemon looks it up by its pid.
    Raises HelperError.
    """
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        _connect(daemon, name, timeout)
        try:
            # In one piece: the protocol's author takes the first piece for the whole message.
            daemon.sendall(message)
            # Nothing more comes: whoever reads to the end has it now. A daemon that polls for
            # input alone sees input, not a hang-up, and can still close: only one direction ends.
            daemon.shutdown(socket.SHUT_WR)
            _wait_close(daemon, deadline)
        except TimeoutError:
            raise _late(timeout) from None
        except OSError as error:
            text = f"the daemon hung up without reading: {error.strerror}"
            raise HelperError(Exit.NOT_ACKNOWLEDGED, text) from None


def _connect(daemon: socket.socket, name: str, timeout: float) -> None:
    # Where too many wait to be accepted, connect(2) waits for SO_SNDTIMEO (socket(7)). After
    # settimeout() the socket would not block, and connect(2) fail at once.
    seconds, micros = divmod(max(1, int(timeout * 1_000_000)), 1_000_000)
    daemon.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", seconds, micros))
    address = os.fsencode(name)
    if address.startswith(b"@"):
        address = b"\0" + address[1:]
    try:
        daemon.connect(address)
    except BlockingIOError:
        raise _late(timeout) from None
    except OSError as error:
        text = f"no daemon is listening on {name}: {error.strerror}"
        raise HelperError(Exit.NO_DAEMON, text) from None


def _wait_close(daemon: socket.socket, deadline: float) -> None:
    while (left := deadline - time.monotonic()) > 0:
        daemon.settimeout(left)
        if not daemon.recv(256):  # there is no answer; what comes nevertheless means nothing
            return
    raise TimeoutError


def _late(timeout: float) -> HelperError:
    return HelperError(Exit.NOT_ACKNOWLEDGED, f"the daemon has not taken it within {timeout:g} s")


def _display(option: str | None) -> str:
    display = os.environ.get("DISPLAY", "") if option is None else option
    if not display:
        raise HelperError(Exit.UNUSABLE, "no display: DISPLAY is not set")
    if not re.fullmatch(r"(unix)?:[0-9]{1,5}(\.[0-9]{1,5})?", display):
        text = f"display {display!r} is not a local one such as ':0'"
        raise HelperError(Exit.UNUSABLE, text)
    return display.removeprefix("unix")


def _xauthority(option: str | None) -> str:
    if option == "":
        return ""  # a daemon may be configured to do without
    path = option or os.environ.get("XAUTHORITY", "") or _home_file()
    if not path.startswith("/"):
        raise HelperError(Exit.UNUSABLE, f"XAUTHORITY {path!r} is not an absolute path")
    if not path.isprintable():  # nor is what is not UTF-8
        text = f"XAUTHORITY {path!r} has characters that the daemon refuses"
        raise HelperError(Exit.UNUSABLE, text)
    return path


def _home_file() -> str:
    path = os.path.expanduser("~/.Xauthority")
    if not os.path.exists(path):
        text = f"no cookie file: XAUTHORITY is not set, and there is no {path}"
        raise HelperError(Exit.UNUSABLE, text)
    return path


def _socket(text: str) -> str:
    if not 1 <= len(os.fsencode(text)) <= MAX_ADDRESS:
        raise argparse.ArgumentTypeError(f"not 1 to {MAX_ADDRESS} bytes")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= MAX_TIMEOUT:
        raise argparse.ArgumentTypeError(f"not a number of seconds up to {MAX_TIMEOUT:g}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
