"""The pump at the command's end of the channel."""

from agent.qrexec.pump import Pump, Streams
from agent.qrexec.service_config import ServiceConfig
from agent.qrexec.watch import Watch
from sessiond.transport.duplex import Duplex
from sessiond.wire.exec import UNKNOWN_EXIT, Chunk, ExitCode, OnData, Stream
from sessiond.wire.exec_data import Data


class ServicePump(Pump):
    """Feeds a program or a service that listens somewhere, and tells what it says and its end."""

    _INPUT = Stream.STDIN
    _OUTPUT = Stream.STDOUT

    def __init__(
        self,
        connection: Duplex,
        data: Data,
        streams: Streams,
        watch: Watch,
        config: ServiceConfig | None = None,
    ) -> None:
        super().__init__(connection, data, streams, watch)
        # Those settings are for services that listen; a program has its own end.
        self._config = (None if self._child else config) or ServiceConfig()
        self.exit_code = UNKNOWN_EXIT  # until the peer is told
        self._has_exited = False
        if Stream.STDERR not in self._outputs:
            self._send(Chunk(Stream.STDERR, b""))

    @property
    def _is_over(self) -> bool:
        return self._is_gone or (self._has_exited and not self._connection.is_blocked)

    def _heed(self, message: OnData) -> None:
        if isinstance(message, Chunk):
            stdin = self._inputs[Stream.STDIN]
            if message.is_end:
                stdin.finish()
            else:
                stdin.put(message.data)

    def _settle(self) -> None:
        stdin = self._inputs[Stream.STDIN]
        if self._config.exit_on_client_eof and not stdin.is_open:
            for stream in [*self._outputs]:
                self._end_output(stream)
        if self._config.exit_on_service_eof and not self._outputs:
            stdin.finish()
        if self._outputs or stdin.is_open or self._has_exited:
            return
        # Others may have held the outputs open for longer than the program itself lived.
        status = self._child.status if self._child else 0
        if status is not None:
            self._has_exited = True
            self.exit_code = status
            self._send(ExitCode(status))
