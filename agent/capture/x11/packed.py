"""What is asked of the server for each frame, as bytes that are packed at once.

python-xlib packs requests and takes answers apart field by field; at sixty frames a second that
costs more than what the server does for us. It still owns the connection: these are its requests,
queued and sent, matched with their answers and told of errors as all others are.
"""

from Xlib.protocol import rq
from Xlib.protocol.display import Display


class PackedRequest(rq.Request):
    """A request without an answer: all its bytes, header included."""

    def __init__(self, display: Display, binary: bytes) -> None:
        self._binary = binary
        self._serial: int | None = None
        self._errorhandler = None
        display.send_request(self, False)


class PackedQuestion(rq.ReplyRequest):
    """A request with an answer, for which ``answer`` waits."""

    _reply = None  # that there is one is how python-xlib knows that an answer comes

    def __init__(self, display: Display, binary: bytes) -> None:
        self._connection = display
        self._binary = binary
        self._serial: int | None = None
        self._answer: bytes | None = None
        self._error: Exception | None = None
        display.send_request(self, True)

    def answer(self) -> bytes:
        """Return the answer with its header of 32 bytes. Raises what the server refuses with."""
        while self._answer is None and self._error is None:
            self._connection.send_recv_lock.acquire()  # the next call releases it
            self._connection.send_and_recv(request=self._serial)
        if self._error:
            raise self._error
        assert self._answer is not None  # noqa: S101 (or we would wait still)
        return self._answer

    # For python-xlib.

    @property
    def sequence_number(self) -> int | None:
        """Return the number of this request, as the answer has it."""
        return self._serial

    def _parse_response(self, data: bytes) -> None:
        self._answer = data

    def _set_error(self, problem: Exception) -> int:
        self._error = problem
        return 1


class PackedEvent(rq.Event):
    """An event of which nothing but its ``type`` is of use; see ``Display.event_classes``."""

    def __init__(self, display: Display, binarydata: bytes) -> None:  # noqa: ARG002 (as it calls)
        self.type = binarydata[0] & 0x7F  # without the mark of SendEvent
        self._data: dict[str, object] = {}
