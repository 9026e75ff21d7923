"""Which codec a stream is in. Pure: what is known of the way to the host in, a choice out.

MJPEG is the cheapest to make, sharp in every frame, and needs no decoder of GStreamer's; a video
codec needs a tenth of its bytes. So by itself ("auto") a stream is MJPEG as long as the host keeps
up with it, VP8 or VP9 when it does not, and MJPEG again, as a trial, once frames have left at once
for a while. What MJPEG costs is known only while it is in use, and what a line takes only while it
is full: nothing but a trial can tell. One that fails is over at once, for its pictures are not even
shown, and lets the next one wait for longer.

H.264 and H.265 are never taken but by name: clients offer them that lack half of a decoder, show
nothing then, and do not say so.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

from agent.encode.base import Encoder
from sessiond.errors import EncoderError, UsageError
from sessiond.wire.device import Codec

AUTO: Final = "auto"
SMALL: Final = (Codec.VP8, Codec.VP9)  # what is as good as MJPEG where a client offers it
WINDOW: Final = 1.5  # seconds that are looked at
LATE: Final = 0.4  # seconds for one frame; a client throws away an MJPEG picture that takes longer
PATIENCE: Final = 10.0  # seconds in which all frames left at once, before MJPEG is tried
WARY: Final = 60.0  # seconds at the least, where MJPEG would not fit by what is known of the line
LONGEST_PATIENCE: Final = 300.0
PROVEN: Final = 60.0  # seconds after which a trial was none that failed

EncoderType = type[Encoder]


@dataclass(frozen=True, slots=True)
class Way:
    """What is known of the way to the host at a moment when it has room for another frame.

    ``held``: seconds of the last ``WINDOW`` in which a newer picture waited beyond its time.
    ``took``: seconds until there was room again after the last frame. ``in_time``: seconds in this
    codec since frames have all left at once; 0 after too few of them. ``rate``: bytes/s that the
    host takes, 0 if that is not known. ``picture``: bytes of one MJPEG picture, and ``need`` those
    of as many a second as frames were sent lately; 0 if none was made yet.
    """

    held: float = 0.0
    took: float = 0.0
    in_time: float = 0.0
    rate: float = 0.0
    picture: int = 0
    need: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """MJPEG, or a small codec, ``since`` a moment; ``why`` as a clause, "" if nothing happened.

    ``patience`` is how long frames have to leave at once until MJPEG is tried.
    """

    is_small: bool = False
    since: float = -math.inf
    patience: float = PATIENCE
    why: str = ""


def decide(now: float, choice: Choice, way: Way) -> Choice:
    """Return what to do from ``now`` on: CHOICE itself, or the other one."""
    if choice.is_small:
        if way.in_time < _patience(choice, way):
            return choice
        return replace(choice, is_small=False, since=now, why="the host keeps up")
    if way.took <= LATE and way.held <= WINDOW / 2:
        return choice
    has_failed = now - choice.since < PROVEN
    patience = min(2 * choice.patience, LONGEST_PATIENCE) if has_failed else PATIENCE
    return Choice(is_small=True, since=now, patience=patience, why=_complaint(way.rate))


def _patience(choice: Choice, way: Way) -> float:
    """Return how long to wait for a trial: for longer where it would fail for all we know.

    Not for ever: while nothing is refused, a rate that is known only gets old.
    """
    is_hopeless = way.rate > 0 and (way.need > way.rate or way.picture > LATE * way.rate)
    return max(choice.patience, WARY) if is_hopeless else choice.patience


def _complaint(rate: float) -> str:
    if not rate:
        return "the host does not keep up with MJPEG"
    return f"the host takes only {rate / 1e6:.2g} MB/s"


@dataclass(frozen=True, slots=True)
class Demand:
    """What an encoder has to be good for: the host's codecs, and the picture's size if known.

    ``failed`` are those that did not work, and how they said so.
    """

    offered: Collection[int]
    size: tuple[int, int] | None
    failed: tuple[tuple[EncoderType, str], ...] = ()

    def obstacle(self, encoder: EncoderType) -> str:
        """Return what speaks against ENCODER, as a clause; "" if nothing does."""
        if encoder.codec not in self.offered:
            return f"the host does not decode {_name(encoder.codec)}"
        if text := dict(self.failed).get(encoder, ""):
            return f"{encoder.name} failed: {text}"
        if missing := encoder.missing():
            return f"{encoder.name} needs {missing}"
        if self.size and not encoder.accepts(*self.size):
            return f"{encoder.name} takes no picture of {self.size[0]}x{self.size[1]}"
        return ""


def pick(
    encoders: Sequence[EncoderType], wanted: Sequence[str], choice: Choice, demand: Demand
) -> tuple[EncoderType, str]:
    """Return the encoder to use, and why it is this one: "" where ``wanted`` is all there is to it.

    ``encoders`` come with the best rank first. MJPEG is what is left in the end, always. Raises
    EncoderError where not even that is possible.
    """
    is_auto = AUTO in wanted
    unknown = unknown_names(wanted[:1], encoders)
    first_obstacle = f"there is no codec {unknown[0]!r}" if unknown else ""
    for encoder in order(encoders, wanted, is_small=choice.is_small):
        if not (obstacle := demand.obstacle(encoder)):
            reasons = [choice.why if is_auto else "", first_obstacle]
            return encoder, "; ".join(filter(None, reasons))
        first_obstacle = first_obstacle or obstacle
    raise EncoderError(
        f"no encoder for the codecs that the host decodes: {sorted(demand.offered)}"
        + (f" ({first_obstacle})" if demand.failed else "")
    )


def order(
    encoders: Sequence[EncoderType], wanted: Sequence[str], *, is_small: bool
) -> list[EncoderType]:
    """Return those that may be used, the one to be used if it can be first."""
    if AUTO in wanted:
        wanted = [_name(codec) for codec in SMALL] if is_small else []
    names = [*wanted, _name(Codec.MJPEG)]
    found = [encoder for name in names for encoder in encoders if name in _names(encoder)]
    return list(dict.fromkeys(found))


def unknown_names(names: Sequence[str], encoders: Sequence[EncoderType]) -> list[str]:
    """Return those of ``names`` that are neither an encoder, nor a codec of one, nor "auto"."""
    known = _known(encoders)
    return [name for name in names if name not in known]


def checked_names(
    names: Sequence[str],
    encoders: Sequence[EncoderType],
    *,
    on_unknown: Callable[[str], None] | None = None,
) -> tuple[str, ...]:
    """Return ``names`` as they are: of encoders and codecs, or "auto".

    Raises UsageError for a name that none of them has; but with ``on_unknown`` that is called with
    what is wrong.
    """
    for name in unknown_names(names, encoders):
        text = f"codec {name!r}: there is none, only {', '.join(_known(encoders))}"
        if not on_unknown:
            raise UsageError(text)
        on_unknown(text)
    return tuple(names)


def _known(encoders: Sequence[EncoderType]) -> list[str]:
    return list(dict.fromkeys([AUTO, *(name for each in encoders for name in _names(each))]))


def _names(encoder: EncoderType) -> tuple[str, str]:
    return encoder.name, _name(encoder.codec)


def _name(codec: int) -> str:
    return Codec(codec).name.lower() if codec in set(Codec) else f"codec {codec}"
