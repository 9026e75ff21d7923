"""Motion JPEG by Pillow: one JPEG picture a frame, 4:2:0."""

import io
import logging
from collections.abc import Mapping
from typing import ClassVar, Final, cast

from PIL import Image, JpegImagePlugin

from agent.capture.base import Frame
from agent.encode.base import Encoder, IntOption
from sessiond.errors import EncoderError
from sessiond.wire.device import MAX_FRAME, Codec

log = logging.getLogger(__name__)

_SUBSAMPLING_420: Final = 2
_LOWER_BY: Final = 15  # when a picture of noise does not fit into one message

# Pillow maps four-byte pixels without a copy only as RGBX, and then believes the blue byte to be
# red. "BGR" makes its JPEG writer swap them row by row, on their way into libjpeg, where it has
# to touch them anyway; the usual way, a conversion to RGB, costs a second picture in memory.
# The table is Pillow's own, the same since 9.4; nothing else in this process writes JPEG.
JpegImagePlugin.RAWMODE["RGBX"] = "BGR"


class JpegEncoder(Encoder):
    """Codec MJPEG; quality as libjpeg counts it."""

    name: ClassVar = "jpeg"
    codec: ClassVar = Codec.MJPEG
    rank: ClassVar = 1
    options: ClassVar = {"quality": IntOption(1, 100, 80)}

    def __init__(self, options: Mapping[str, int]) -> None:
        self._quality = options["quality"]

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
        size = (frame.width, frame.height)
        try:
            pixels = cast("bytes", frame.pixels)  # any buffer serves, whatever the stubs say
            image = Image.frombuffer("RGBX", size, pixels, "raw", "RGBX", frame.stride, 1)
            output = io.BytesIO()
            image.save(output, "JPEG", quality=self._quality, subsampling=_SUBSAMPLING_420)
        except (OSError, ValueError) as error:
            raise EncoderError(f"JPEG of {size[0]}x{size[1]}: {error}") from error
        return output.getvalue()
