"""What of the port outlives a restart of the daemon: its descriptor, and the rest of a message.

A port that is closed while the host is stopped in mid-stream never works again, so a restart must
not close it. systemd's descriptor store holds it meanwhile (sd_notify(3), FDSTORE), and beside it a
memfd that says what the host was asking for and which bytes it is still owed.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sessiond.transport.fds import OwnedFd

log = logging.getLogger(__name__)

PORT: Final = "stream_port"  # their names in the store
STATE: Final = "stream_state"
_MAX_STATE: Final = 2 * (33 << 20)  # bytes: a frame of 32 MiB in hexadecimal, and some


@dataclass(frozen=True, slots=True)
class KeptPort:
    """An open port in mid-stream: who watches, and the bytes that the host is still owed."""

    fd: OwnedFd
    path: str
    codecs: tuple[int, ...]
    quality: bool
    unsent: bytes


def describe(port: KeptPort) -> OwnedFd:
    """Return a memfd with all of it but the descriptor."""
    state = {
        "path": port.path,
        "codecs": list(port.codecs),
        "quality": port.quality,
        "unsent": port.unsent.hex(),
    }
    memory = OwnedFd(os.memfd_create(STATE, os.MFD_CLOEXEC))
    with open(os.dup(memory.fileno()), "wb") as file:
        file.write(json.dumps(state).encode())
    return memory


def restore(stored: Mapping[str, OwnedFd], path: str) -> KeptPort | None:
    """Return the port that systemd kept; None if there is none, or it is another one.

    ``stored`` are the descriptors by their names; what is not used is closed with them.
    """
    if PORT not in stored or STATE not in stored:
        return None
    try:
        data = os.pread(stored[STATE].fileno(), _MAX_STATE, 0)
        state = json.loads(data)
        kept = KeptPort(
            fd=stored[PORT],
            path=str(state["path"]),
            codecs=tuple(int(codec) for codec in state["codecs"]),
            quality=bool(state["quality"]),
            unsent=bytes.fromhex(state["unsent"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the kept port cannot be used: %s", error)
        return None
    if kept.path != path:
        log.info("the port that was kept is %s, not %s", kept.path, path)
        return None
    return kept
