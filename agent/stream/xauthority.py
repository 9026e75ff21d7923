"""The file with an X server's cookie: opened as what a stranger may have put there.

It is opened with the rights of this process, which are the user's; its format is in ``wire``.
"""

import os
import stat
from collections.abc import Iterable
from typing import Final

from agent.capture.x11.access import Cookie
from sessiond.errors import DisplayError, ProtocolError
from sessiond.wire.xauth import LOCAL, MAX_FILE, NAMES, WILD, Record, parse

MAX_PATH: Final = 255  # bytes; what the older helper protocol can say
MAGIC: Final = b"MIT-MAGIC-COOKIE-1"

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class XauthorityError(DisplayError):
    """The file is not a cookie file that we open, or has nothing for the display."""


class NoXauthorityError(XauthorityError):
    """There is no such file."""


def read_xauthority(path: str, uid: int) -> list[Record]:
    """Return the records of ``path`` that have a name we know; at least one.

    Refused are a relative or odd path, what is not a regular file (a link, a FIFO, a device), an
    owner other than ``uid`` and root, more than MAX_FILE bytes, and a record that is not whole.
    May block as long as the file system does. Raises XauthorityError with the path and what is
    wrong.
    """
    untrusted = _read(_checked_path(path), uid)
    try:
        entries = [entry for entry in parse(untrusted) if entry.name in NAMES]
    except ProtocolError as error:
        raise XauthorityError(f"cookie file {path}: {error}") from None
    if not entries:
        raise XauthorityError(f"cookie file {path} holds no authorisation of a known kind")
    return entries


def choose_cookie(
    entries: Iterable[Record], number: int, hostname: str, *, is_servers_own: bool = False
) -> Cookie | None:
    """Return the cookie for local display ``number``; None if there is none that we can show.

    An entry of this host comes before one of any host, and that before one of another host: the
    name of a machine may have changed since the file was written. A server takes every entry of
    its own file whatever it says of display and host, and startx writes display 0 into all.
    """
    numbers = {b"", str(number).encode()}
    # Only the cookie is sent as it stands in the file; the other kinds need a computation.
    fitting = [
        entry
        for entry in entries
        if entry.name == MAGIC
        and (is_servers_own or entry.family in {LOCAL, WILD})
        and (is_servers_own or entry.number in numbers)
    ]

    def rank(entry: Record) -> tuple[bool, int]:
        if entry.family == WILD:
            return entry.number not in numbers, 1
        return entry.number not in numbers, 0 if entry.address == hostname.encode() else 2

    best = min(fitting, key=rank, default=None)
    return Cookie(best.name, best.data) if best else None


def parse_cookie(untrusted_hex: str) -> Cookie:
    """Return the cookie that root hands over in hexadecimal. Raises XauthorityError."""
    try:
        data = bytes.fromhex(untrusted_hex)
    except ValueError:
        raise XauthorityError("the cookie is not hexadecimal") from None
    return Cookie(MAGIC, data)


def _checked_path(untrusted_path: str) -> str:
    encoded = os.fsencode(untrusted_path)
    is_plain = untrusted_path.isprintable() and encoded.startswith(b"/")
    if not is_plain or len(encoded) > MAX_PATH:
        raise XauthorityError(f"cookie file {untrusted_path!r} is not an absolute path of at most "
                              f"{MAX_PATH} printable bytes")  # fmt: skip
    return untrusted_path


def _read(path: str, uid: int) -> bytes:
    try:
        fd = os.open(path, _FLAGS)
    except FileNotFoundError as error:
        raise NoXauthorityError(f"cookie file {path}: {error.strerror}") from None
    except OSError as error:
        raise XauthorityError(f"cookie file {path}: {error.strerror}") from None
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise XauthorityError(f"cookie file {path} is not a regular file")
        if facts.st_uid not in {0, uid}:
            raise XauthorityError(f"cookie file {path} belongs to uid {facts.st_uid}")
        with open(fd, "rb", buffering=0, closefd=False) as file:
            data = file.read(MAX_FILE + 1) or b""
    except OSError as error:
        raise XauthorityError(f"cookie file {path}: {error.strerror}") from None
    finally:
        os.close(fd)
    if max(facts.st_size, len(data)) > MAX_FILE:
        raise XauthorityError(f"cookie file {path} has over {MAX_FILE} bytes")
    return data
