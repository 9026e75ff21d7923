"""Where each output's picture is in the whole: by the compositor's positions, in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.capture.wlroots.canvas import upright

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.capture.wlroots.outputs import Facts

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """The whole picture's size, and the left upper corner of each output in it."""

    size: Size
    places: tuple[tuple[int, int], ...]


def lay_out(outputs: Sequence[tuple[Facts, Size]]) -> Layout:
    """Return the layout of outputs, each with the size of its picture when it stands upright.

    Pixels stay what they are. A compositor's units are pixels divided by the output's scale: where
    scales differ, all places are in the finest one's pixels, so that no two outputs overlap that
    do not do so in the compositor's units; right and below a coarser one is black.
    """
    scale = max((_scale(facts, size) for facts, size in outputs), default=1.0)
    corners = [(round(facts.x * scale), round(facts.y * scale)) for facts, _ in outputs]
    left = min((x for x, _ in corners), default=0)
    top = min((y for _, y in corners), default=0)
    places = tuple((x - left, y - top) for x, y in corners)
    ends = [(x + w, y + h) for (x, y), (_, (w, h)) in zip(places, outputs, strict=True)]
    size = (max((x for x, _ in ends), default=0), max((y for _, y in ends), default=0))
    return Layout(size, places)


def size_of(facts: Facts) -> Size:
    """Return the size of the picture that an output is to give, when it stands upright."""
    return upright(facts.size, facts.transform)


def _scale(facts: Facts, size: Size) -> float:
    """Return pixels a unit; 1 where nobody says."""
    logical = facts.logical_size[0]
    return size[0] / logical if logical > 0 else 1.0
