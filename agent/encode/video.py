"""Video codecs: VP8, VP9, H.264 and H.265 by FFmpeg's coders, through PyAV.

PyAV takes a tenth of a second and 30 MB to load, so that is done when the first encoder is made.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Final

from agent.capture.base import Frame
from agent.encode.base import Encoder, IntOption
from agent.encode.clock import LineClock
from agent.encode.recipes import H264, H265, VP8, VP9, Recipe
from sessiond.errors import EncoderError
from sessiond.wire.device import MAX_FRAME, Codec

if TYPE_CHECKING:
    from agent.encode.coder import Coder
    from agent.encode.planes import Planes

log = logging.getLogger(__name__)

_LEAST_SIDE: Final = 16  # pixels; the smallest block of H.265 that x265 makes
_MEMORY: Final = 768 << 20  # bytes for a coder; an agent's scope has 1 GiB
_NEEDS: Final = "PyAV (Debian: python3-av; PyPI: spice-sessiond[video])"


class VideoEncoder(Encoder):
    """Encodes by the first of ``recipes`` that works; a new size begins a new coder.

    Its one option is a quantiser, by the codec's own count: less is better. ``pixel_memory`` is
    what a pixel takes, in bytes, in all pictures that its coder keeps.
    """

    recipes: ClassVar[Sequence[Recipe]]
    pixel_memory: ClassVar[int]

    @classmethod
    def missing(cls) -> str:
        return "" if find_spec("av") else _NEEDS

    @classmethod
    def accepts(cls, width: int, height: int) -> bool:
        return width * height * cls.pixel_memory <= _MEMORY

    def __init__(self, options: Mapping[str, int]) -> None:
        if missing := self.missing():
            raise EncoderError(f"{self.name}: needs {missing}")
        try:
            self._new_coder: type[Coder] = import_module("agent.encode.coder").Coder
            self._new_planes: type[Planes] = import_module("agent.encode.planes").Planes
        except ImportError as error:
            raise EncoderError(f"{self.name}: PyAV cannot be loaded: {error}") from error
        (option,) = self.options
        self._number = options[option]
        self._recipes = [each for each in self.recipes if not each.device or each.device.exists()]
        self._planes: Planes | None = None
        self._coder: Coder | None = None
        self._clock = LineClock(0)

    def encode(self, frame: Frame) -> bytes:
        size = (frame.width, frame.height)
        if not self.accepts(*size):
            raise EncoderError(f"{self.name} of {size[0]}x{size[1]}: it does not take that size")
        if self._planes is None or self._planes.size != size:
            self._planes, self._coder = self._new_planes(*size), None
        self._planes.update(frame)
        data = self._encode(self._planes)
        limit = min(MAX_FRAME, self.max_frame)
        if len(data) > limit:
            raise EncoderError(f"a frame of {len(data)} bytes is over the host's {limit}")
        return data

    def _encode(self, planes: "Planes") -> bytes:
        while True:
            try:
                return self._encode_by(self._recipes[0], planes)
            except EncoderError as error:
                failed = self._recipes.pop(0)
                self._coder = None
                if not self._recipes:
                    raise
                log.info("%s; %s instead of %s", error, self._recipes[0].coder, failed.coder)

    def _encode_by(self, recipe: Recipe, planes: "Planes") -> bytes:
        if self._coder is None:
            options = {recipe.knob: str(self._number)}
            self._coder = self._new_coder(recipe, *planes.size, options)
            self._clock = LineClock(recipe.bit_rate)
            self.implementation = recipe.coder
            self.quality = 0 if recipe.bit_rate else self._number
        when = self._clock.tick(time.monotonic(), self.rate, is_refining=self.is_refining)
        return self._coder.encode(planes.picture, when)


class Vp8Encoder(VideoEncoder):
    """Codec VP8; takes every shape."""

    name: ClassVar = "vp8"
    codec: ClassVar = Codec.VP8
    rank: ClassVar = 0
    options: ClassVar = {"vp8.qmin": IntOption(0, 48, 20)}
    recipes: ClassVar = VP8
    pixel_memory: ClassVar = 42


class Vp9Encoder(VideoEncoder):
    """Codec VP9; takes every shape."""

    name: ClassVar = "vp9"
    codec: ClassVar = Codec.VP9
    rank: ClassVar = -1
    options: ClassVar = {"vp9.qmin": IntOption(0, 48, 24)}
    recipes: ClassVar = VP9
    pixel_memory: ClassVar = 80


class H264Encoder(VideoEncoder):
    """Codec H.264."""

    name: ClassVar = "h264"
    codec: ClassVar = Codec.H264
    rank: ClassVar = -2
    options: ClassVar = {"h264.crf": IntOption(1, 51, 26)}
    recipes: ClassVar = H264
    pixel_memory: ClassVar = 18

    @classmethod
    def accepts(cls, width: int, height: int) -> bool:
        is_even = width % 2 == 0 and height % 2 == 0  # a sample of colour for two rows, and columns
        return is_even and super().accepts(width, height)


class H265Encoder(H264Encoder):
    """Codec H.265."""

    name: ClassVar = "h265"
    codec: ClassVar = Codec.H265
    rank: ClassVar = -3
    options: ClassVar = {"h265.crf": IntOption(1, 51, 28)}
    recipes: ClassVar = H265
    pixel_memory: ClassVar = 45

    @classmethod
    def accepts(cls, width: int, height: int) -> bool:
        return super().accepts(width, height) and min(width, height) >= _LEAST_SIDE
