"""One opening of the stream port by the agent itself: what the host asks for."""

import asyncio
import logging
from collections.abc import Sequence

from agent.capture.base import Cursor
from agent.stream.framelog import FrameLog
from agent.stream.screen import Screen
from agent.stream.sender import Sender
from agent.stream.streamer import Codecs, Streamer
from sessiond.errors import EncoderError, ProtocolError
from sessiond.transport.channel import WRITE_SIZE, Channel
from sessiond.transport.edge import EdgePoller
from sessiond.transport.port import OpenPort
from sessiond.wire.device import Capabilities, Message, NotifyError, Role, StartStop, Unknown
from sessiond.wire.device_state import DeviceConnection

log = logging.getLogger(__name__)


class StreamSession:
    """Serves one open port from the host's first byte until it is lost.

    ``lost`` resolves to the reason why the port has to be opened again; the port is closed by
    then.
    """

    def __init__(
        self, port: OpenPort, poller: EdgePoller, screen: Screen, codecs: Codecs, frames: FrameLog
    ) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._device = DeviceConnection(Role.GUEST)
        self._channel = Channel(port, poller, self)
        self._sender = Sender(self._write, "host")
        self.streamer = Streamer(
            screen, codecs, frames, self._sender, pack=self._device.send, fail=self._give_up
        )

    def close(self) -> None:
        """Close the port and stop capturing."""
        self.streamer.close()
        self._channel.close()

    # From the port.

    def on_bytes(self, data: memoryview) -> None:
        """Act on what the host sent."""
        try:
            for message in self._device.receive(data):
                log.debug("from the host: %s", type(message).__name__)
                self._handle(message)
        except ProtocolError as error:
            self._lose(f"the host broke the protocol: {error}")

    def on_writable(self) -> None:
        """Go on writing."""
        self._sender.flush()

    def on_lost(self, reason: str) -> None:
        """End this session."""
        self._lose(reason)

    # From the screen.

    def on_changed(self) -> None:
        """Capture when it is time."""
        self.streamer.on_changed()

    def on_unavailable(self, reason: str) -> None:
        """Say why, where there is no picture and that lasts."""
        self.streamer.on_unavailable(reason)

    def on_cursor(self, cursor: Cursor | None) -> None:
        """Send the new shape."""
        self.streamer.on_cursor(cursor)

    def on_pointer(self, position: tuple[int, int]) -> None:
        """Send the new place."""
        self.streamer.on_pointer(position)

    def _write(self, data: memoryview) -> int:
        return sum(self._channel.write_pieces(data, WRITE_SIZE))

    def _handle(self, message: Message | Unknown) -> None:
        match message:
            case Capabilities():
                answer = Capabilities()
                self._sender.put(answer.TYPE, self._device.send(answer))
                self._sender.flush()
            case StartStop(codecs=()):
                self.streamer.stop()
            case StartStop():
                self._start(message.codecs)
            case NotifyError():
                self._lose(f"the host refused to go on: {message.text} ({message.code})")
            case Unknown():
                log.info("skipped a message of unknown type %d from the host", message.type)
            case _:
                raise AssertionError(message)  # a host's connection yields nothing else

    def _start(self, codecs: Sequence[int]) -> None:
        try:
            self.streamer.start(codecs)
        except EncoderError as error:
            log.warning("cannot stream: %s", error)

    def _give_up(self, reason: str) -> None:
        log.error("stopped streaming until the host asks again: %s", reason)

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.close()
            self.lost.set_result(reason)
