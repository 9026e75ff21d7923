"""What a frame costs, from slices: the program's CPU and the X server's beyond drawing."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from tests.bench.stage import Slice


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of CPU a frame, frames a second, bytes of a frame: medians of the slices."""

    program: float
    server: float  # less what drawing alone costs
    total: float
    fps: float
    bytes: int
    wakeups: float  # a frame


def drawing_ms(alone: Sequence[Slice]) -> float:
    """X server CPU a drawn frame while nobody captures."""
    return statistics.median(each.server_ms / max(1, each.drawn) for each in alone)


def totals(slices: Sequence[Slice], drawing: float) -> list[float]:
    """Program and X server together, of each slice."""
    return [each.client_ms + each.server_ms_on_top(drawing) for each in slices]


def cost(slices: Sequence[Slice], drawing: float) -> Cost:
    """Sum up one or more slices of the same program; DRAWING is in ms a drawn frame."""

    def median(value: Callable[[Slice], float]) -> float:
        return statistics.median(map(value, slices))

    return Cost(
        program=median(lambda each: each.client_ms),
        server=median(lambda each: each.server_ms_on_top(drawing)),
        total=statistics.median(totals(slices, drawing)),
        fps=median(lambda each: each.frames / each.seconds),
        bytes=int(median(lambda each: each.bytes)),
        wakeups=median(lambda each: each.wakeups / max(1, each.frames)),
    )


def ratio(ours: Sequence[Slice], theirs: Sequence[Slice], drawing: float) -> float:
    """Compare round by round, for what disturbs a machine lasts longer than a round.

    Returns the median of the rounds' quotients of totals.
    """
    rounds = zip(totals(ours, drawing), totals(theirs, drawing), strict=True)
    return statistics.median(one / other for one, other in rounds)
