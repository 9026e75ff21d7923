"""One opening of the stream port: what the host asks for, and what it gets."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent.capture.base import Capture, Cursor, Frame
from agent.encode import choose_encoder
from agent.encode.base import Encoder
from agent.stream.drm import display_info
from agent.stream.framelog import FrameLog
from agent.stream.outbox import Outbox
from agent.stream.pipeline import Pipeline
from agent.stream.screen import Screen
from sessiond.errors import EncoderError, ProtocolError
from sessiond.transport.channel import Channel
from sessiond.transport.edge import EdgePoller
from sessiond.transport.port import OpenPort
from sessiond.wire.device import (
    HIDDEN_CURSOR,
    MAX_CURSOR_SIDE,
    Capabilities,
    CursorMove,
    CursorSet,
    Data,
    Format,
    Message,
    NotifyError,
    Role,
    StartStop,
    Unknown,
)
from sessiond.wire.device_state import DeviceConnection, State

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Codecs:
    """The encoders to choose from, best first, and the values of their options."""

    encoders: Sequence[type[Encoder]]
    options: Mapping[str, int]
    framerate: int


@dataclass(slots=True)
class Totals:
    """What one stream, from START to STOP, has cost so far."""

    frames: int = 0
    size: int = 0  # bytes of encoded frames
    cpu: float = field(default_factory=time.process_time)  # at its start

    def summary(self) -> str:
        """Return a line for a person."""
        if not self.frames:
            return "no frame"
        cpu = (time.process_time() - self.cpu) / self.frames
        return (
            f"{self.frames} frames, {self.size / self.frames / 1000:.1f} kB and "
            f"{cpu * 1000:.2f} ms of CPU a frame"
        )


@dataclass(frozen=True, slots=True)
class _Beginning:
    """What the host is told of the screen before the first frame.

    ``size`` is None while nothing can be captured: FORMAT then comes with the first frame.
    """

    size: tuple[int, int] | None
    outputs: tuple[str, ...]
    cursor: Cursor | None
    pointer: tuple[int, int]


class StreamSession:
    """Serves one open port from the host's first byte until it is lost.

    ``lost`` resolves to the reason why the port has to be opened again; the port is closed by
    then. ``frames`` counts what was sent in all.
    """

    def __init__(
        self, port: OpenPort, poller: EdgePoller, screen: Screen, codecs: Codecs, frames: FrameLog
    ) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._screen = screen
        self._codecs = codecs
        self._frame_log = frames
        self._device = DeviceConnection(Role.GUEST)
        self._outbox = Outbox()
        self._channel = Channel(port, poller, self)
        self._pipeline = Pipeline(
            screen, framerate=codecs.framerate, send=self._send_frame, fail=self._give_up
        )
        self._stream = 0
        self._is_streaming = False
        self._format = (0, 0)
        self._totals = Totals()
        self._owes_sent = False

    def close(self) -> None:
        """Close the port and stop capturing."""
        self._stop()
        self._pipeline.close()
        self._channel.close()

    # From the port.

    def on_bytes(self, data: bytes) -> None:
        """Act on what the host sent."""
        try:
            for message in self._device.receive(data):
                log.debug("from the host: %s", type(message).__name__)
                self._handle(message)
        except ProtocolError as error:
            self._lose(f"the host broke the protocol: {error}")

    def on_writable(self) -> None:
        """Go on writing."""
        self._flush()

    def on_lost(self, reason: str) -> None:
        """End this session."""
        self._lose(reason)

    # From the screen.

    def on_changed(self) -> None:
        """Capture when it is time."""
        self._pipeline.on_changed()

    def on_cursor(self, cursor: Cursor | None) -> None:
        """Send the new shape."""
        if self._device.state is State.STREAMING:
            self._put_cursor(cursor)
            self._flush()

    def on_pointer(self, position: tuple[int, int]) -> None:
        """Send the new place."""
        if self._device.state is State.STREAMING:
            self._put(CursorMove(*position))
            self._flush()

    def _handle(self, message: Message | Unknown) -> None:
        match message:
            case Capabilities():
                self._put(Capabilities())
                self._flush()
            case StartStop(codecs=()):
                self._stop()
            case StartStop():
                self._start(message.codecs)
            case NotifyError():
                self._lose(f"the host refused to go on: {message.text} ({message.code})")
            case Unknown():
                log.info("skipped a message of unknown type %d from the host", message.type)
            case _:
                raise AssertionError(message)  # a host's connection yields nothing else

    def _start(self, codecs: Sequence[int]) -> None:
        self._stop()
        try:
            encoder = choose_encoder(self._codecs.encoders, codecs)(self._codecs.options)
        except EncoderError as error:
            log.warning("cannot stream: %s", error)
            return
        self._totals = Totals()
        self._format = (0, 0)
        self._is_streaming = True
        log.info("streaming as %s", encoder.name)
        stream = self._stream

        def begin(capture: Capture) -> _Beginning:
            capture.begin()
            cursor, pointer = self._screen.refresh(capture)
            size = None if capture.unavailable else capture.size
            return _Beginning(size, capture.outputs(), cursor, pointer)

        def begun(beginning: _Beginning) -> None:
            if stream == self._stream:
                self._introduce(beginning, encoder.codec)
                self._pipeline.start(encoder)

        self._screen.call_nowait(begin, begun)

    def _introduce(self, beginning: _Beginning, codec: int) -> None:
        info = display_info(beginning.outputs)
        if info:
            self._put(info)
        if beginning.size:
            self._put_format(beginning.size, codec)
        self._put_cursor(beginning.cursor)
        self._put(CursorMove(*beginning.pointer))
        self._flush()

    def _stop(self) -> None:
        self._stream += 1
        self._pipeline.stop()
        self._outbox.drop_waiting()
        self._settle()
        if self._is_streaming:
            self._is_streaming = False
            log.info("stopped: %s", self._totals.summary())
            self._screen.call_nowait(lambda capture: capture.end(), lambda _: None)

    def _give_up(self, reason: str) -> None:
        log.error("stopped streaming until the host asks again: %s", reason)
        self._stop()

    def _send_frame(self, encoder: Encoder, frame: Frame, data: bytes) -> None:
        size = (frame.width, frame.height)
        if size != self._format:
            log.info("the screen is %dx%d now", *size)
            self._put_format(size, encoder.codec)
        self._put(Data(data))
        self._owes_sent = True
        self._totals.frames += 1
        self._totals.size += len(data)
        self._frame_log.frame(*size, data)
        self._flush()

    def _put_format(self, size: tuple[int, int], codec: int) -> None:
        self._format = size
        self._put(Format(*size, codec))

    def _put_cursor(self, cursor: Cursor | None) -> None:
        if cursor is None or not any(cursor.pixels):
            self._put(HIDDEN_CURSOR)
        elif max(cursor.width, cursor.height) > MAX_CURSOR_SIDE:
            log.warning(
                "skipped a cursor of %dx%d; a host takes %d at most",
                cursor.width, cursor.height, MAX_CURSOR_SIDE,
            )  # fmt: skip
        else:
            shape = (cursor.width, cursor.height, cursor.hot_x, cursor.hot_y)
            self._put(CursorSet(*shape, cursor.pixels))

    def _put(self, message: Message) -> None:
        data = self._device.send(message)
        log.debug("to the host: %s, %d bytes", message.TYPE.name, len(data))
        self._outbox.put(message.TYPE, data)

    def _flush(self) -> None:
        while data := self._outbox.peek():
            count = self._channel.write_nowait(data)
            if not count:
                break
            self._outbox.advance(count)
        self._settle()

    def _settle(self) -> None:
        """Tell the pipeline when the frame that it handed over is gone."""
        if self._owes_sent and not self._outbox.has_frame:
            self._owes_sent = False
            self._pipeline.on_sent()

    def _lose(self, reason: str) -> None:
        if not self.lost.done():
            self.close()
            self.lost.set_result(reason)
