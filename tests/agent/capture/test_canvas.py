"""Several monitors in one picture."""

import random

import pytest

from agent.capture.base import BAND, MAX_SIDE, Frame
from agent.capture.canvas import Area, Canvas, enclosing
from sessiond.errors import DisplayError

SIZE = (30, 70)
AREAS = (Area(0, 0, 20, 40), Area(20, 30, 10, 40))
BLACK = bytes(4)


def frame(area: Area, value: int, changed: frozenset[int] | None = None, pad: int = 0) -> Frame:
    """Return what a monitor shows: one value, in rows that are longer by PAD bytes."""
    stride = 4 * area.width + pad
    pixels = memoryview(bytes([value]) * (stride * area.height))
    return Frame(area.width, area.height, stride, pixels, 0, changed)


def pixel(taken: Frame, x: int, y: int) -> bytes:
    return bytes(taken.pixels[y * taken.stride + 4 * x :][:4])


def test_size() -> None:
    assert enclosing(AREAS) == SIZE


@pytest.mark.parametrize("area", [Area(-1, 0, 9, 9), Area(0, -1, 9, 9), Area(MAX_SIDE, 0, 1, 1)])
def test_too_far_out(area: Area) -> None:
    with pytest.raises(DisplayError):
        enclosing([Area(0, 0, 5, 5), area])


def test_every_monitor_is_in_its_place() -> None:
    taken = Canvas(SIZE, AREAS).take(0, [frame(AREAS[0], 1), frame(AREAS[1], 2, pad=8)])
    assert (taken.width, taken.height, taken.stride) == (30, 70, 120)
    assert taken.changed is None
    for y in range(70):
        for x in range(30):
            expected = BLACK
            if x < 20 and y < 40:
                expected = b"\1" * 4
            elif x >= 20 and y >= 30:
                expected = b"\2" * 4
            assert pixel(taken, x, y) == expected


def test_changes_are_told_where_they_are() -> None:
    canvas = Canvas(SIZE, AREAS)
    canvas.take(0, [frame(area, 1) for area in AREAS])
    none = frozenset[int]()
    assert canvas.take(1, [frame(area, 1, none) for area in AREAS]).changed == none
    one = [frame(AREAS[0], 2, frozenset({1})), frame(AREAS[1], 1, none)]
    taken = canvas.take(0, one)
    assert taken.changed == frozenset({1})
    assert [pixel(taken, 0, y) for y in (BAND - 1, BAND, 2 * BAND - 1, 2 * BAND)] == [
        b"\1" * 4, b"\2" * 4, b"\2" * 4, b"\1" * 4,
    ]  # fmt: skip
    # Its second band lies in two of the whole picture's: rows 46 to 61.
    other = [frame(AREAS[0], 2, none), frame(AREAS[1], 3, frozenset({1}))]
    assert canvas.take(1, other).changed == frozenset({2, 3})


def test_slots_catch_up() -> None:
    chance = random.Random(12)
    canvas, values = Canvas(SIZE, AREAS), [[0] * 3, [0] * 3]
    canvas.take(0, [frame(area, 0) for area in AREAS])
    for turn in range(60):
        frames = []
        for area, mine in zip(AREAS, values, strict=True):
            changed = frozenset(band for band in range(3) if chance.random() < 0.2)
            for band in changed:
                mine[band] = turn
            rows = b"".join(bytes([mine[y // BAND]]) * (4 * area.width) for y in range(area.height))
            frames.append(
                Frame(area.width, area.height, 4 * area.width, memoryview(rows), 0, changed)
            )
        taken = canvas.take(chance.choice([0, 0, 0, 1]), frames)
        for area, mine in zip(AREAS, values, strict=True):
            for y in range(area.height):
                assert pixel(taken, area.x, area.y + y) == bytes([mine[y // BAND]]) * 4
