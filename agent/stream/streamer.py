"""What streams: a screen's pictures, its cursor and its size, as messages of the stream device.

Who asks for a stream, and what else is said on the way to the host, is for ``session`` (a port of
our own) and ``link`` (the daemon).
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.capture.base import Capture, Cursor, Frame
from agent.encode import choose_encoder
from agent.encode.base import Encoder
from agent.stream.drm import display_info
from agent.stream.framelog import FrameLog
from agent.stream.pipeline import Pipeline
from agent.stream.screen import Screen
from agent.stream.sender import Sender
from sessiond.wire.device import (
    HIDDEN_CURSOR,
    MAX_CURSOR_SIDE,
    MAX_FRAME,
    CursorMove,
    CursorSet,
    Data,
    Format,
    Message,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Codecs:
    """The encoders to choose from, best first, and the values of their options."""

    encoders: Sequence[type[Encoder]]
    options: Mapping[str, int]
    framerate: int


@dataclass(slots=True)
class Totals:
    """What one stream, from its start to its stop, has cost so far."""

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


class Streamer:
    """Puts one stream after the other into ``sender``, each as FORMAT, cursor, frames.

    ``pack`` makes a message's bytes. ``fail`` hears why a stream ended by itself. A frame is never
    larger than ``max_frame`` bytes. ``on_frame`` hears each frame's size in bytes and its encoder.
    """

    def __init__(
        self,
        screen: Screen,
        codecs: Codecs,
        frames: FrameLog,
        sender: Sender,
        *,
        pack: Callable[[Message], bytes],
        fail: Callable[[str], None],
        max_frame: int = MAX_FRAME,
        on_frame: Callable[[Encoder, int], None] = lambda _encoder, _size: None,
    ) -> None:
        self.totals = Totals()
        self._screen = screen
        self._codecs = codecs
        self._frame_log = frames
        self._sender = sender
        self._pack = pack
        self._fail = fail
        self._max_frame = max_frame
        self._on_frame = on_frame
        self.pipeline = Pipeline(
            screen, framerate=codecs.framerate, send=self._send_frame, fail=self._end
        )
        sender.on_frame_sent = self.pipeline.on_sent
        self._stream = 0
        self._is_streaming = False
        self._is_introduced = False
        self._format = (0, 0)

    def start(self, codecs: Sequence[int]) -> None:
        """Begin a new stream in one of ``codecs``, in place of the one that may be under way.

        Raises EncoderError; no stream is under way then.
        """
        self.stop()
        encoder = choose_encoder(self._codecs.encoders, codecs)(self._codecs.options)
        encoder.max_frame = self._max_frame
        self.totals = Totals()
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
                self.pipeline.start(encoder)

        self._screen.call_nowait(begin, begun)

    def stop(self) -> None:
        """End the stream: nothing more of it is begun."""
        self._stream += 1
        self.pipeline.stop()
        self._sender.drop_waiting()
        self._is_introduced = False
        if self._is_streaming:
            self._is_streaming = False
            log.info("stopped: %s", self.totals.summary())
            self._screen.call_nowait(lambda capture: capture.end(), lambda _: None)

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self.pipeline.close()

    # From the screen.

    def on_changed(self) -> None:
        """Capture when it is time."""
        self.pipeline.on_changed()

    def on_cursor(self, cursor: Cursor | None) -> None:
        """Send the new shape."""
        if self._is_introduced:
            self._put_cursor(cursor)
            self._sender.flush()

    def on_pointer(self, position: tuple[int, int]) -> None:
        """Send the new place."""
        if self._is_introduced:
            self._put(CursorMove(*position))
            self._sender.flush()

    def _introduce(self, beginning: _Beginning, codec: int) -> None:
        self._is_introduced = True
        info = display_info(beginning.outputs)
        if info:
            self._put(info)
        if beginning.size:
            self._put_format(beginning.size, codec)
        self._put_cursor(beginning.cursor)
        self._put(CursorMove(*beginning.pointer))
        self._sender.flush()

    def _end(self, reason: str) -> None:
        self.stop()
        self._fail(reason)

    def _send_frame(self, encoder: Encoder, frame: Frame, data: bytes) -> None:
        if len(data) > self._max_frame:
            self.pipeline.on_sent()
            self._end(f"encoder {encoder.name} made {len(data)} bytes, over {self._max_frame}")
            return
        size = (frame.width, frame.height)
        if size != self._format:
            log.info("the screen is %dx%d now", *size)
            self._put_format(size, encoder.codec)
        self._put(Data(data))
        self.totals.frames += 1
        self.totals.size += len(data)
        self._frame_log.frame(*size, data)
        self._on_frame(encoder, len(data))
        self._sender.flush()

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
        self._sender.put(message.TYPE, self._pack(message))
