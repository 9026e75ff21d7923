"""What encodes a piece of a frame as a JPEG picture of its own: libturbojpeg, else Pillow.

Both give the same bytes, for both are libjpeg-turbo. libturbojpeg takes the pixels as they are,
at three quarters of the cost; Pillow has them packed first.
"""

import abc
import logging
from importlib import import_module
from typing import Final

from agent.capture.base import Frame
from agent.encode import segments
from sessiond.errors import EncoderError

log = logging.getLogger(__name__)

MCU: Final = ((8, 8), (16, 8), (16, 16))  # pixels; by the number of a subsampling


class Compressor(abc.ABC):
    """Encodes for one thread at a time.

    ``subsampling`` 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0. With ``restarts`` a restart marker stands
    behind every row of MCUs.
    """

    restarts: bool

    @abc.abstractmethod
    def __init__(self, quality: int, subsampling: int) -> None:
        """Raise EncoderError where this way is not to be had."""

    @abc.abstractmethod
    def compress(self, frame: Frame, rows: range) -> bytes:
        """Return these pixel rows of FRAME as a JPEG picture. Raises EncoderError."""


def choose_compressor() -> type[Compressor]:
    """Return the better one that works here; its library is loaded only now."""
    turbo: type[Compressor] = import_module("agent.encode.turbo").TurboCompressor
    trial = Frame(1, 2 * MCU[0][1], 4, memoryview(bytes(8 * MCU[0][1])), 0)
    try:
        segments.split(turbo(80, 0).compress(trial, range(trial.height)), 2)
    except (EncoderError, ValueError) as problem:
        log.info("%s: encoding by Pillow, which costs a third more", problem)
        pillow: type[Compressor] = import_module("agent.encode.pillow").PillowCompressor
        return pillow
    return turbo
