"""A coder of FFmpeg's, opened by its recipe through PyAV.

What FFmpeg has to say it would print to the standard error of a process that is not its own; what
went wrong is in the exceptions.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Final, cast

import av
import av.error
import av.logging
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from agent.encode.clock import UNIT
from agent.encode.recipes import Recipe, colours
from sessiond.errors import EncoderError

av.logging.set_level(av.logging.PANIC)

_FRAMERATE: Final = 30  # what a coder believes that has no better guess
_NEVER: Final = 1 << 30  # frames, until a key frame comes by itself
_NONE, _KEY = 0, 1  # AVPictureType; as numbers they are the same in all versions of PyAV


class Coder:
    """Encodes pictures of one size, the first as a key frame. EncoderError if it cannot be had."""

    def __init__(self, recipe: Recipe, width: int, height: int, options: Mapping[str, str]) -> None:
        self._recipe = recipe
        self._is_first = True
        with _errors_of(recipe.coder):
            context = av.CodecContext.create(recipe.coder, "w")
            if not isinstance(context, VideoCodecContext):
                raise EncoderError(f"{recipe.coder} is no coder of pictures")
            context.width, context.height, context.pix_fmt = width, height, "yuv420p"
            context.time_base = Fraction(1, UNIT)
            context.framerate = Fraction(_FRAMERATE)
            context.thread_count = 1
            context.gop_size = _NEVER
            if recipe.bit_rate:
                context.bit_rate = recipe.bit_rate
            said = colours(height).options() if recipe.has_colours else {}
            context.options = {**recipe.options, **said, **options}
            context.open()
        self._context = context

    def encode(self, picture: VideoFrame, time: int) -> bytes:
        """Return the frame that shows PICTURE, which is free again. Raises EncoderError."""
        picture.pts = time
        picture.pict_type = cast("Any", _KEY if self._is_first else _NONE)
        self._is_first = False
        with _errors_of(self._recipe.coder):
            packets = self._context.encode(picture)
        if len(packets) != 1:
            raise EncoderError(f"{self._recipe.coder}: a frame became {len(packets)} packets")
        return bytes(packets[0]) + self._recipe.tail


@contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """PyAV's errors are also Python's own, by what they mean; some only in some versions."""
    try:
        yield
    except (av.error.FFmpegError, ValueError, OSError) as error:
        said = getattr(error, "log", None)  # what FFmpeg logged: its level, who, the words
        raise EncoderError(f"{name}: {said[2].strip() if said else error}") from error
