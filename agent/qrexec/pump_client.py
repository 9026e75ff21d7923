"""The pump at the caller's end of the channel."""

from agent.qrexec.pump import Pump
from sessiond.wire.exec import UNKNOWN_EXIT, Chunk, OnData, Stream


class ClientPump(Pump):
    """Gives a remote command's output to a program or to our own output, and it theirs.

    ``remote_status`` is the remote exit code once ``run`` is done: 255 where none came.
    """

    _INPUT = Stream.STDOUT
    _OUTPUT = Stream.STDIN

    _exit_code: int | None = None

    @property
    def remote_status(self) -> int:
        """Return the remote exit code."""
        return UNKNOWN_EXIT if self._exit_code is None else self._exit_code

    @property
    def _is_over(self) -> bool:
        if self._is_gone:
            return True
        is_written = not any(outlet.is_open for outlet in self._inputs.values())
        return self._exit_code is not None and is_written and not self._connection.is_blocked

    def _heed(self, message: OnData) -> None:
        if not isinstance(message, Chunk):
            self._exit_code = message.code
            for stream in [*self._outputs]:
                self._end_output(stream)
            for outlet in self._inputs.values():
                outlet.finish()
        elif message.is_end:
            self._inputs[message.stream].finish()
        else:
            self._inputs[message.stream].put(message.data)

    def _settle(self) -> None:
        """Say nothing: only a command has something to tell."""
