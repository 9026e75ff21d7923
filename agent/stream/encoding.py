"""The encoder of one stream: made when it is needed, and anew for each size of the picture."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.capture.base import Frame
from agent.encode.base import Encoder
from sessiond.errors import EncoderError

MakeEncoder = Callable[[int, int], Encoder]
"""Makes an encoder for pictures of this width and height, in pixels; it may have to load a library.

Raises EncoderError.
"""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a frame is to be encoded: what an encoder is told before each."""

    level: int
    rate: float
    is_refining: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """A frame as bytes, who encoded it, at which level, and in how many seconds."""

    data: bytes
    encoder: Encoder
    level: int
    seconds: float


class Encoding:
    """Encodes frame after frame; one call at a time, from whichever thread."""

    def __init__(self, make: MakeEncoder) -> None:
        self._make = make
        self._encoder: Encoder | None = None
        self._size = (0, 0)

    def is_brief(self, frame: Frame, level: int) -> bool:
        """Tell whether to encode it takes less time than another thread takes to begin."""
        if self._encoder is None or self._size != (frame.width, frame.height):
            return False
        self._encoder.level = level
        self._encoder.is_refining = False
        return self._encoder.is_brief(frame)

    def encode(self, frame: Frame, manner: Manner) -> Encoded:
        """Return the encoded frame. Raises EncoderError, and what else a plug-in may raise."""
        size = (frame.width, frame.height)
        encoder = self._encoder
        if encoder is None or self._size != size:
            encoder = self._encoder = self._make(*size)
            self._size = size
            frame = replace(frame, changed=None)  # it has seen nothing yet
        encoder.level, encoder.rate = manner.level, manner.rate
        encoder.is_refining = manner.is_refining
        began = time.perf_counter()
        data = encoder.encode(frame)
        if len(data) > encoder.max_frame:
            raise EncoderError(
                f"a frame of {len(data)} bytes is over the host's {encoder.max_frame}"
            )
        return Encoded(data, encoder, manner.level, time.perf_counter() - began)
