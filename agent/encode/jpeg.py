"""Motion JPEG: one JPEG picture a frame, 4:2:0."""

import logging
import os
from collections.abc import Mapping
from typing import ClassVar, Final

from agent.capture.base import Frame
from agent.encode.base import Encoder, IntOption
from agent.encode.compress import choose_compressor
from agent.encode.strips import StripPicture
from sessiond.errors import EncoderError
from sessiond.wire.device import MAX_FRAME, Codec

log = logging.getLogger(__name__)

_SUBSAMPLING_420: Final = 2  # as Compressor counts it
_LEVEL: Final = 10  # of quality; at 1080p each makes a frame about an eighth smaller
_LOWER_BY: Final = 15  # when a picture of noise does not fit into one message


class JpegEncoder(Encoder):
    """Codec MJPEG; quality as libjpeg counts it."""

    name: ClassVar = "jpeg"
    codec: ClassVar = Codec.MJPEG
    rank: ClassVar = 1
    options: ClassVar = {
        "quality": IntOption(1, 100, 80),
        "min-quality": IntOption(1, 100, 100),  # not below ``quality``: it stays as it is
    }

    def __init__(self, options: Mapping[str, int]) -> None:
        self._quality = options["quality"]  # of level 0
        self._lowest = min(self._quality, options.get("min-quality", self._quality))
        self._compressor = choose_compressor()
        self._picture = self._new_picture(self._quality)
        self.levels = 1 + -(-(self._quality - self._lowest) // _LEVEL)

    def is_brief(self, frame: Frame) -> bool:
        return self._wanted_quality() == self.quality and self._picture.is_brief(frame)

    def encode(self, frame: Frame) -> bytes:
        limit = min(MAX_FRAME, self.max_frame)
        jpeg = self._encode(frame)
        while len(jpeg) > limit and self._quality > _LOWER_BY:
            self._quality -= _LOWER_BY
            log.warning(
                "a frame of %d bytes is over the host's %d: quality is %d from now on",
                len(jpeg), limit, self._quality,
            )  # fmt: skip
            jpeg = self._encode(frame)
        if len(jpeg) > limit:
            raise EncoderError(f"a frame of {len(jpeg)} bytes is over the host's {limit}")
        return jpeg

    def _encode(self, frame: Frame) -> bytes:
        quality = self._wanted_quality()
        if quality != self.quality:
            # Another quality has other tables, which all strips share: none can be kept.
            self._picture = self._new_picture(quality)
        return self._picture.encode(frame)

    def _wanted_quality(self) -> int:
        lowest = min(self._lowest, self._quality)
        return max(lowest, self._quality - self.level * _LEVEL)

    def _new_picture(self, quality: int) -> StripPicture:
        self.quality = quality
        threads = len(os.sched_getaffinity(0))
        return StripPicture(self._compressor, quality, _SUBSAMPLING_420, threads=threads)
