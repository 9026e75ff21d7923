"""The socket to the KMS helper: a question, an answer with the screen's buffers."""

import select
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

from sessiond.errors import DisplayError, ProtocolError
from sessiond.transport import rights
from sessiond.transport.fds import OwnedFd
from sessiond.wire.kms import (
    MAX_ANSWER,
    MAX_PLANES,
    Ask,
    Plane,
    Refused,
    pack_ask,
    parse_answer,
)

PATIENCE: Final = 5.0  # seconds for an answer; a card that sets a mode may take one


class Seen(NamedTuple):
    """What is shown, and the buffers that ``Plane.buffer`` counts; none after a LOOK."""

    planes: Sequence[Plane]
    buffers: Sequence[OwnedFd]


class KmsHelper:
    """Owns the inherited socket ``fd``. Every call raises DisplayError when the helper is gone."""

    def __init__(self, fd: int) -> None:
        try:
            self._socket = socket.socket(fileno=fd)
        except OSError as error:
            raise DisplayError(f"descriptor {fd} is no socket of a KMS helper: {error}") from None
        self._socket.set_inheritable(False)

    def fileno(self) -> int:
        """Return the descriptor; between two answers it is readable only at the helper's end."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it, which ends the helper."""
        self._socket.close()

    def ask(self, ask: Ask) -> Seen | Refused:
        """Return the answer, with which descriptors may come."""
        try:
            self._socket.send(pack_ask(ask), socket.MSG_NOSIGNAL)
            if not select.select([self._socket], [], [], PATIENCE)[0]:
                raise DisplayError("the KMS helper does not answer")
            received = rights.receive(self._socket, MAX_ANSWER, MAX_PLANES)
        except OSError as error:
            raise DisplayError(f"the KMS helper is gone: {error.strerror}") from None
        buffers = [OwnedFd(fd) for fd in received.fds]
        if not received.data:
            raise DisplayError("the KMS helper has ended")
        try:
            answer = parse_answer(received.data, len(buffers))
        except ProtocolError as error:
            raise DisplayError(f"the KMS helper's answer makes no sense: {error}") from None
        if isinstance(answer, Refused):
            return answer
        if ask is Ask.PIXELS and not buffers:
            raise DisplayError("the KMS helper's answer has no buffers")
        return Seen(answer, buffers)
