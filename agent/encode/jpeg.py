"""Motion JPEG: one JPEG picture a frame, 4:2:0.

A picture of the screen at rest is one of high quality with all of its colours, 4:4:4, where the
way to the host takes that soon enough. It is kept beside the ordinary one, so that at the next rest
only what has changed since is encoded again.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Final

from agent.capture.base import Frame, merged
from agent.encode.base import Encoder, IntOption
from agent.encode.compress import choose_compressor
from agent.encode.strips import StripPicture
from sessiond.errors import EncoderError
from sessiond.wire.device import MAX_FRAME, Codec

log = logging.getLogger(__name__)

_SUBSAMPLING_420: Final = 2  # as Compressor counts it
_SUBSAMPLING_444: Final = 0
_SHARP: Final = 95  # quality at rest: text and its colours as they were drawn
_SOON: Final = 0.3  # seconds; a client throws a picture away that takes 0.4
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
        self._picture_quality = 0
        self._picture = self._new_picture(self._quality)
        self._sharp: StripPicture | None = None
        self._blurred: frozenset[int] | None = None  # what changed since the last sharp one
        self.levels = 1 + -(-(self._quality - self._lowest) // _LEVEL)

    def is_brief(self, frame: Frame) -> bool:
        return self._wanted_quality() == self._picture_quality and self._picture.is_brief(frame)

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
        self.quality = self._picture_quality
        self._blurred = merged(self._blurred, frame.changed)
        most = min(limit, self.rate * _SOON) if self.rate else limit
        return self._sharpened(frame, jpeg, most) if self.is_refining else jpeg

    def _encode(self, frame: Frame) -> bytes:
        quality = self._wanted_quality()
        if quality != self._picture_quality:
            # Another quality has other tables, which all strips share: none can be kept.
            self._picture = self._new_picture(quality)
        return self._picture.encode(frame)

    def _sharpened(self, frame: Frame, jpeg: bytes, most: float) -> bytes:
        """Return FRAME in high quality; if that is over MOST bytes, JPEG, which it is already."""
        if len(jpeg) > most:
            return jpeg  # and that one is smaller
        quality = max(_SHARP, self._quality)
        self._sharp = self._sharp or self._new_strips(quality, _SUBSAMPLING_444)
        sharp = self._sharp.encode(replace(frame, changed=self._blurred))
        self._blurred = frozenset()
        if len(sharp) > most:
            return jpeg
        self.quality = quality
        return sharp

    def _wanted_quality(self) -> int:
        lowest = min(self._lowest, self._quality)
        return max(lowest, self._quality - self.level * _LEVEL)

    def _new_picture(self, quality: int) -> StripPicture:
        self._picture_quality = quality
        return self._new_strips(quality, _SUBSAMPLING_420)

    def _new_strips(self, quality: int, subsampling: int) -> StripPicture:
        threads = len(os.sched_getaffinity(0))
        return StripPicture(self._compressor, quality, subsampling, threads=threads)
