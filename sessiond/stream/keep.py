"""What of the port outlives a restart of the daemon: its descriptor, and the rest of a message.

A port that is closed while the host is stopped in mid-stream never works again, so a restart must
not close it. Beside its descriptor a memo says what the host was asking for and which bytes it is
still owed.
"""

import functools
import logging
from dataclasses import dataclass
from typing import Any, Final

from sessiond.transport.fds import OwnedFd
from sessiond.transport.keep import STREAM_PORT, STREAM_STATE, Memo

log = logging.getLogger(__name__)

# A frame of 32 MiB in hexadecimal, and some.
_MEMO: Final = Memo(STREAM_STATE, version=1, max_size=2 * (33 << 20))


@dataclass(frozen=True, slots=True)
class KeptPort:
    """An open port in mid-stream: who watches, and the bytes that the host is still owed."""

    fd: OwnedFd
    path: str
    codecs: tuple[int, ...]
    quality: bool
    unsent: bytes


def describe(port: KeptPort) -> dict[str, OwnedFd]:
    """Return what is to be stored, by its names."""
    state = {
        "path": port.path,
        "codecs": list(port.codecs),
        "quality": port.quality,
        "unsent": port.unsent.hex(),
    }
    return {STREAM_PORT: port.fd, STREAM_STATE: _MEMO.write(state)}


def restore(stored: dict[str, OwnedFd], path: str) -> KeptPort | None:
    """Take out what ``describe`` gave; None if there is no port, or it is another one."""
    fd = stored.pop(STREAM_PORT, None)
    kept = _MEMO.read(stored, functools.partial(_port, fd)) if fd else None
    if kept and kept.path != path:
        log.info("the port that was kept is %s, not %s", kept.path, path)
        return None
    return kept


def _port(fd: OwnedFd, state: Any) -> KeptPort:  # noqa: ANN401 (as it was stored)
    return KeptPort(
        fd=fd,
        path=str(state["path"]),
        codecs=tuple(int(codec) for codec in state["codecs"]),
        quality=bool(state["quality"]),
        unsent=bytes.fromhex(state["unsent"]),
    )
