"""What streams: a screen's pictures, its cursor and its size, as messages of the stream device.

Who asks for a stream, and what else is said on the way to the host, is for ``session`` (a port of
our own) and ``link`` (the daemon).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from agent.capture.base import Capture, Cursor, Frame
from agent.capture.sign import Sign
from agent.encode.base import Encoder
from agent.stream.absence import Absence
from agent.stream.choice import AUTO, Choice, Demand, EncoderType, decide, pick
from agent.stream.drm import display_info
from agent.stream.framelog import FrameLog
from agent.stream.pacing import RESTS, SURE_RESTS
from agent.stream.pipeline import Pipeline
from agent.stream.screen import Screen
from agent.stream.sender import Sender
from agent.stream.watch import Passed, Watch
from sessiond.errors import EncoderError
from sessiond.wire.device import (
    HIDDEN_CURSOR,
    MAX_CURSOR_SIDE,
    MAX_FRAME,
    Codec,
    CursorMove,
    CursorSet,
    Data,
    Format,
    Message,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Codecs:
    """The encoders to choose from, best first, and the values of their options.

    ``wanted`` are names of encoders or codecs, the best first, or only "auto".
    """

    encoders: Sequence[EncoderType]
    options: Mapping[str, int]
    framerate: int
    wanted: tuple[str, ...] = (AUTO,)


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

    While it is ``unavailable``, FORMAT and the cursor come with the first frame.
    """

    unavailable: str
    size: tuple[int, int]
    outputs: tuple[str, ...]
    cursor: Cursor | None
    pointer: tuple[int, int]


class Streamer:
    """Puts one stream after the other into ``sender``, each as FORMAT, cursor, frames.

    Within a stream the codec may change, with another FORMAT: because of how the host keeps up, or
    because an encoder failed, which is then left alone until the next stream. ``why`` says why it
    is this one, "" where the configuration does.

    A stream that begins while nothing can be captured shows why, without a cursor, until the screen
    is there; one that has shown the screen leaves its last picture standing.

    ``pack`` makes a message's bytes. ``fail`` hears why a stream ended by itself. A frame is never
    larger than ``max_frame`` bytes. ``on_frame`` hears each frame's size in bytes and its encoder.
    ``on_absence`` hears why nothing has been captured for a while, and "" when that is over.
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
        on_absence: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.totals = Totals()
        self.why = ""
        self._screen = screen
        self._codecs = codecs
        self._frame_log = frames
        self._sender = sender
        self._pack = pack
        self._fail = fail
        self._max_frame = max_frame
        self._on_frame = on_frame
        self._tell_absence = on_absence
        self._absence = Absence(self._on_absence)
        self.pipeline = Pipeline(
            screen, framerate=codecs.framerate, send=self._send_frame,
            fail=self._on_failed, on_passed=self._on_passed,
        )  # fmt: skip
        sender.on_frame_sent = self.pipeline.on_sent
        self._stream = 0
        self._is_streaming = False
        self._has_cursor = False  # the host knows of the screen's, and hears of each change
        self._cursor: Cursor | None = None
        self._pointer = (0, 0)
        self._choice = Choice()  # it outlives a stream: the next one is for the same host
        self._watch = Watch(self.pipeline.interval)
        self._demand = Demand((), None)
        self._encoder: EncoderType | None = None  # of the stream under way
        self._format = (0, 0)  # that the host was told; none of this encoder's, if it is no size

    def start(self, codecs: Sequence[int]) -> None:
        """Begin a new stream in one of ``codecs``, in place of the one that may be under way.

        Raises EncoderError; no stream is under way then.
        """
        self.stop()
        self._demand = Demand(codecs, None)
        self._pick()
        self.totals = Totals()
        self._is_streaming = True
        self.pipeline.sign = Sign()
        stream = self._stream

        def begin(capture: Capture) -> _Beginning:
            capture.begin()
            cursor, pointer = self._screen.refresh(capture)
            outputs = capture.outputs()
            return _Beginning(capture.unavailable, capture.size, outputs, cursor, pointer)

        def begun(beginning: _Beginning) -> None:
            if stream == self._stream:
                if all(beginning.size):
                    self._demand = replace(self._demand, size=beginning.size)
                self._absence.begin(beginning.unavailable)
                self._begin(lambda encoder: self._introduce(beginning, encoder.codec))

        self._screen.call_nowait(begin, begun)

    def stop(self) -> None:
        """End the stream: nothing more of it is begun."""
        self._stream += 1
        self.pipeline.stop()
        self.pipeline.sign = None
        self._absence.end()
        self._sender.drop_waiting()
        self._has_cursor = False
        self._encoder = None
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

    def on_unavailable(self, reason: str) -> None:
        """Say why, where there is no picture and that lasts."""
        if self._encoder:
            self._absence.change(reason)

    def on_cursor(self, cursor: Cursor | None) -> None:
        """Send the new shape."""
        self._cursor = cursor
        if self._has_cursor:
            self._put_cursor(cursor)
            self._sender.flush()

    def on_pointer(self, position: tuple[int, int]) -> None:
        """Send the new place."""
        self._pointer = position
        if self._has_cursor:
            self._put(CursorMove(*position))
            self._sender.flush()

    def _introduce(self, beginning: _Beginning, codec: int) -> None:
        self._cursor, self._pointer = beginning.cursor, beginning.pointer
        info = display_info(beginning.outputs)
        if info:
            self._put(info)
        if beginning.unavailable:
            self._put(HIDDEN_CURSOR)
        else:
            self._put_format(beginning.size, codec)
            self._introduce_cursor()
        self._sender.flush()

    def _introduce_cursor(self) -> None:
        self._has_cursor = True
        self._put_cursor(self._cursor)
        self._put(CursorMove(*self._pointer))

    def _on_absence(self, reason: str) -> None:
        sign = self.pipeline.sign
        if reason and sign:  # nothing of the screen was captured in this stream
            if self._has_cursor:
                self._has_cursor = False
                self._put(HIDDEN_CURSOR)
                self._sender.flush()
            sign.put_up()
            self.pipeline.on_changed()
        self._tell_absence(reason)

    def _pick(self) -> EncoderType:
        codecs = self._codecs
        encoder, self.why = pick(codecs.encoders, codecs.wanted, self._choice, self._demand)
        return encoder

    def _begin(self, introduce: Callable[[EncoderType], None] = lambda _encoder: None) -> None:
        """Go on with the encoder that is the best now. Ends the stream where there is none."""
        try:
            encoder = self._pick()
        except EncoderError as error:
            self._end(str(error))
            return
        log.info("streaming as %s%s", encoder.name, f": {self.why}" if self.why else "")
        self._encoder = encoder
        self._format = (0, 0)
        self._watch.begin(self._loop.time())
        introduce(encoder)
        # Every frame of a video codec is decoded, however late.
        rests = RESTS if encoder.codec == Codec.MJPEG else SURE_RESTS
        self.pipeline.start(partial(self._make, encoder), rests)

    def _make(self, encoder: EncoderType, width: int, height: int) -> Encoder:
        if not encoder.accepts(width, height):
            raise EncoderError(f"it takes no picture of {width}x{height}")
        made = encoder(self._codecs.options)
        made.max_frame = self._max_frame
        return made

    def _on_passed(self, frame: Passed) -> None:
        encoder, now = self._encoder, self._loop.time()
        assert encoder is not None  # noqa: S101 (frames pass only while there is a stream)
        self._watch.on_passed(now, frame, is_mjpeg=encoder.codec == Codec.MJPEG)
        way = self._watch.way(now, self.pipeline.rate)
        choice = decide(now, self._choice, way)
        if choice is not self._choice:
            self._choice = choice
            if self._pick() is not encoder:
                self._begin()

    def _on_failed(self, reason: str) -> None:
        """Leave the encoder alone until the next stream, and go on with another if there is one."""
        encoder = self._encoder
        assert encoder is not None  # noqa: S101 (only one that is in use can fail)
        self._demand = replace(self._demand, failed=(*self._demand.failed, (encoder, reason)))
        try:
            self._pick()
        except EncoderError:
            self._end(reason)
        else:
            log.warning("%s failed: %s", encoder.name, reason)
            self._begin()

    def _end(self, reason: str) -> None:
        self.stop()
        self._fail(reason)

    def _send_frame(self, encoder: Encoder, frame: Frame, data: bytes) -> None:
        size = (frame.width, frame.height)
        if size != self._format:
            if any(self._format):
                log.info("the screen is %dx%d now", *size)
            self._put_format(size, encoder.codec)
        if not (frame.stands_in or self._has_cursor):
            self._introduce_cursor()
        self._put(Data(data))
        self.totals.frames += 1
        self.totals.size += len(data)
        self._frame_log.frame(*size, data)
        self._on_frame(encoder, len(data))
        self._sender.flush()

    def _put_format(self, size: tuple[int, int], codec: int) -> None:
        self._format = size
        self._demand = replace(self._demand, size=size)
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
            # A Wayland client may name any place, which a message may have no room for.
            hot_x = min(max(cursor.hot_x, 0), cursor.width - 1)
            hot_y = min(max(cursor.hot_y, 0), cursor.height - 1)
            self._put(CursorSet(cursor.width, cursor.height, hot_x, hot_y, cursor.pixels))

    def _put(self, message: Message) -> None:
        self._sender.put(message.TYPE, self._pack(message))
