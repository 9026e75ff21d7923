"""What an encoder is, and what a plug-in of the group ``spice_sessiond.encoders`` provides."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from agent.capture.base import Frame
from sessiond.wire.device import MAX_FRAME, Codec


@dataclass(frozen=True, slots=True)
class IntOption:
    """A codec option with a whole number in ``low``..``high``."""

    low: int
    high: int
    default: int


class Encoder(abc.ABC):
    """Makes the frames of one stream; a new one is made for each FORMAT.

    ``encode`` does not run in the loop's thread, nor always in the same one, but one call at a
    time. Its first frame needs no other to be decoded; each later one may need all before it, so
    all have to be sent, in order. ``max_frame`` is set before the first; before each one ``level``
    (0 is full quality, ``levels - 1`` the least that is of use; an encoder with one level has no
    choice), ``rate`` and ``is_refining``.
    """

    name: ClassVar[str]
    codec: ClassVar[Codec]
    rank: ClassVar[int]  # of those of one codec, the highest is taken
    options: ClassVar[Mapping[str, IntOption]]  # for ``--codec-option NAME=VALUE``
    levels: int = 1
    level: int = 0
    rate: float = 0.0  # bytes a second that the way to the host takes; 0 if that is not known
    is_refining: bool = False  # the screen has come to rest: what is sent now stands for long
    quality: int = 0  # of the last frame, as the codec counts it; 0 if it does not
    implementation: str = ""  # whose code or hardware it is, for a person
    max_frame: int = MAX_FRAME  # bytes; less than the host's limit where the way there has its own

    @classmethod
    def missing(cls) -> str:
        """Return what would have to be installed for it; empty when nothing is. Costs no time."""
        return ""

    @classmethod
    def accepts(cls, width: int, height: int) -> bool:  # noqa: ARG003 (of the subclasses)
        """Tell whether it takes pictures of that size, in pixels."""
        return True

    @abc.abstractmethod
    def __init__(self, options: Mapping[str, int]) -> None:
        """Take a value for each name in ``options``. Raises EncoderError."""

    def is_brief(self, frame: Frame) -> bool:  # noqa: ARG002 (of the subclasses)
        """Tell whether ``encode`` takes less time for it than another thread takes to begin."""
        return False

    @abc.abstractmethod
    def encode(self, frame: Frame) -> bytes:
        """Return one whole encoded frame, at most ``max_frame`` bytes.

        Its ``changed`` is relative to the frame of the call before.

        Raises EncoderError when the frame cannot be encoded.
        """
