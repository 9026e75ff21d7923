"""What of the helpers outlives a restart of the daemon: those not done yet, and what was told.

Nothing of it is believed for having been stored: who connected is looked up again, and a record
counts only where its session, or without logind the leader of its kernel session, is still the
same (``server``, ``records``, ``life``).
"""

import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, TypeVar

from sessiond.helper.origin import Origin, PeerGoneError
from sessiond.helper.records import Taken, Told
from sessiond.transport.fds import OwnedFd
from sessiond.transport.keep import HELPER_CONNECTION, HELPER_RECORDS, HELPER_STATE, Memo

Fact = TypeVar("Fact", Told, Taken)

# 63 connections with 1 KiB each in hexadecimal, and some.
_CONNECTIONS: Final = Memo(HELPER_STATE, version=1, max_size=256 << 10)
# A seat has 63 VTs, and a session on one seldom company; a record is at most 1 KiB of JSON.
_RECORDS: Final = Memo(HELPER_RECORDS, version=1, max_size=1 << 20)


@dataclass(frozen=True, slots=True)
class KeptConnection:
    """A helper that was not done: ``received`` is what it had said.

    ``start`` is that of its process, as in ``origin.Origin``.
    """

    sock: socket.socket
    start: int
    received: bytes

    def check_same(self, origin: Origin) -> None:
        """Raise PeerGoneError if the process that was looked up is another one than then."""
        if origin.start != self.start:
            raise PeerGoneError("its process has ended, and another has its number")


def describe_connections(kept: Sequence[KeptConnection]) -> dict[str, OwnedFd]:
    """Return what is to be stored, by its names; the sockets are taken over."""
    if not kept:
        return {}
    named = {f"{HELPER_CONNECTION}{number}": it for number, it in enumerate(kept)}
    state = {name: {"start": it.start, "received": it.received.hex()} for name, it in named.items()}
    # The memo first: where the store is full, a connection without it would be of no use.
    fds = {name: OwnedFd(it.sock.detach()) for name, it in named.items()}
    return {HELPER_STATE: _CONNECTIONS.write(state), **fds}


def restore_connections(stored: dict[str, OwnedFd]) -> list[KeptConnection]:
    """Take out what ``describe_connections`` gave; what the memo does not know is closed."""
    names = [name for name in stored if name.startswith(HELPER_CONNECTION)]
    fds = {name: stored.pop(name) for name in names}

    def decode(state: Any) -> list[KeptConnection]:  # noqa: ANN401 (as it was stored)
        known = [
            (fds[name], int(it["start"]), bytes.fromhex(it["received"]))
            for name, it in state.items()
            if name in fds
        ]
        return [KeptConnection(_socket(fd), start, received) for fd, start, received in known]

    kept = _CONNECTIONS.read(stored, decode)
    for fd in fds.values():
        fd.close()
    return kept or []


def _socket(fd: OwnedFd) -> socket.socket:
    return socket.fromfd(fd.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)


def describe_records(taken: Sequence[Taken]) -> dict[str, OwnedFd]:
    """Return what is to be stored, by its name."""
    return {HELPER_RECORDS: _RECORDS.write([asdict(it) for it in taken])} if taken else {}


def restore_records(stored: dict[str, OwnedFd]) -> list[Taken]:
    """Take out what ``describe_records`` gave."""

    def decode(records: Any) -> list[Taken]:  # noqa: ANN401 (as it was stored)
        return [_made(Taken, it | {"told": _made(Told, it["told"])}) for it in records]

    return _RECORDS.read(stored, decode) or []


def _made(kind: type[Fact], members: dict[str, Any]) -> Fact:
    """Raises TypeError unless these are its members, each of its type."""
    for field in fields(kind):
        if type(members.get(field.name)) is not field.type:
            raise TypeError(f"{field.name} is {members.get(field.name)!r}")
    return kind(**members)
