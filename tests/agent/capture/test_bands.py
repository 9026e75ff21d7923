"""Bands: which are touched, captured and different."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agent.capture.bands import _NEAR, all_bands, differing, is_other, pieces, touched
from agent.capture.base import BAND, merged

ROWS = st.tuples(st.integers(-40, 200), st.integers(1, 90)).map(lambda it: (it[0], sum(it)))


@given(st.lists(ROWS, max_size=5), st.integers(1, 150))
def test_bands_that_rows_touch(rows: list[tuple[int, int]], height: int) -> None:
    inside = {row for first, end in rows for row in range(first, end) if 0 <= row < height}
    assert touched(rows, height) == {row // BAND for row in inside}


@given(st.integers(1, 300))
def test_all_bands(height: int) -> None:
    assert all_bands(height) == {row // BAND for row in range(height)}


@given(st.sets(st.integers(0, 60)))
def test_pieces_hold_all_and_lie_apart(bands: set[int]) -> None:
    found = pieces(bands)
    held = {band for piece in found for band in piece}
    assert bands <= held
    assert {piece.start for piece in found} | {piece.stop - 1 for piece in found} <= bands
    for one, other in itertools.pairwise(found):
        assert other.start - one.stop >= _NEAR
    for band in held - bands:
        assert any(0 < band - one <= _NEAR for one in bands)


@given(
    st.integers(1, 70),
    st.lists(st.integers(0, 1000), max_size=4),
    st.sets(st.integers(0, 4)),
)
def test_bands_that_differ(height: int, places: list[int], asked: set[int]) -> None:
    stride = 12
    one = bytearray(height * stride)
    other = bytearray(one)
    for place in places:
        other[place % len(other)] ^= 0xFF
    asked &= all_bands(height)
    found = differing(memoryview(one), memoryview(other), stride, asked)
    size = BAND * stride
    assert found == {n for n in asked if one[n * size :][:size] != other[n * size :][:size]}
    assert is_other(memoryview(one), memoryview(other), stride, asked) == bool(found)


def test_whether_any_differs_is_known_at_the_first_one() -> None:
    one, other = bytearray(4 * BAND), bytearray(4 * BAND)
    other[BAND] = 1
    bands = iter(range(4))
    assert is_other(memoryview(one), memoryview(other), 1, bands)
    assert list(bands) == [2, 3]


def test_changes_of_two_frames() -> None:
    one, other = frozenset({1, 2}), frozenset({2, 3})
    assert merged(one, other) == frozenset({1, 2, 3})
    assert merged(None, other) is None
    assert merged(one, None) is None
