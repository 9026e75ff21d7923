"""Frames from foreign memory, with what changed found by comparing."""

import mmap
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.bands import all_bands
from agent.capture.base import BAND, MAX_SIDE, Frame
from agent.capture.slots import Picture, Slots
from sessiond.errors import DisplayError

WIDTH, HEIGHT, STRIDE = 3, 70, 20  # five bands, the last of 6 rows; 8 bytes of padding


def picture(memory: bytearray, width: int = WIDTH, height: int = HEIGHT) -> Picture:
    return Picture(width, height, STRIDE, memoryview(memory))


def draw(memory: bytearray, row: int) -> int:
    """Change a pixel of ``row``; return its band."""
    memory[row * STRIDE] ^= 0xFF
    return row // BAND


@given(st.lists(st.tuples(st.lists(st.integers(0, HEIGHT - 1), max_size=3), st.integers(0, 1))))
def test_every_frame_is_right(turns: list[tuple[list[int], int]]) -> None:
    """Whatever is drawn and wherever it is taken to: the pixels, the bands, the other slot."""
    foreign, slots = bytearray(HEIGHT * STRIDE), Slots()
    last = b""
    for rows, slot in turns:
        for row in rows:
            draw(foreign, row)
        size = picture(foreign).size
        expected = frozenset(
            band
            for band in all_bands(HEIGHT)
            if last[band * BAND * STRIDE :][: BAND * STRIDE]
            != foreign[:size][band * BAND * STRIDE :][: BAND * STRIDE]
        )
        assert slots.differs(picture(foreign)) == (not last or bool(expected))
        frame = slots.take(slot, picture(foreign))
        assert frame.changed == (expected if last else None)
        assert (frame.width, frame.height, frame.stride, frame.slot) == (
            WIDTH, HEIGHT, STRIDE, slot,
        )  # fmt: skip
        last = bytes(foreign[:size])
        assert frame.pixels == last


def test_a_frame_stays_until_its_slot_is_taken_again() -> None:
    foreign, slots = bytearray(HEIGHT * STRIDE), Slots()
    first = slots.take(0, picture(foreign))
    as_taken = bytes(first.pixels)
    draw(foreign, 1)
    slots.take(1, picture(foreign))
    assert first.pixels == as_taken


def test_nothing_is_missed_that_is_drawn_while_we_look() -> None:
    """What changes between comparing and copying is in the next frame, and told there."""
    foreign = bytearray(HEIGHT * STRIDE)

    class DrawnMeanwhile(Slots):
        is_drawn = False

        def _changed(self, last: Frame, picture: Picture) -> frozenset[int]:
            found = super()._changed(last, picture)
            if self.is_drawn:
                draw(foreign, 2)
            return found

    slots = DrawnMeanwhile()
    slots.take(0, picture(foreign))
    draw(foreign, 1)
    before = slots.take(1, picture(foreign))
    slots.is_drawn = True
    frame = slots.take(0, picture(foreign))
    assert frame.changed == frozenset()
    assert frame.pixels == before.pixels
    assert slots.take(1, picture(foreign)).changed == frozenset({0})


def test_another_size_is_a_new_picture_and_leaves_the_old_one() -> None:
    foreign, slots = bytearray(b"\x11" * HEIGHT * STRIDE), Slots()
    old = slots.take(0, picture(foreign))
    as_taken = bytes(old.pixels)
    smaller = picture(bytearray(b"\x22" * HEIGHT * STRIDE), height=BAND)
    assert slots.differs(smaller)
    new = slots.take(0, smaller)
    assert new.changed is None
    assert set(new.pixels) == {0x22}
    assert old.pixels == as_taken
    assert slots.take(1, smaller).changed == frozenset()


def test_what_is_forgotten_is_not_compared_with() -> None:
    foreign, slots = bytearray(HEIGHT * STRIDE), Slots()
    before = slots.take(0, picture(foreign))
    slots.forget()
    assert slots.differs(picture(foreign))
    after = slots.take(0, picture(foreign))
    assert after.changed is None
    assert before.pixels == after.pixels


@pytest.fixture
def read_only() -> Iterator[tuple[mmap.mmap, int]]:
    """Memory that we may only read, and the descriptor by which it changes."""
    fd = os.memfd_create("foreign", os.MFD_CLOEXEC)
    os.ftruncate(fd, 2 * mmap.PAGESIZE)
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as memory:
        yield memory, fd
    os.close(fd)


def test_memory_that_is_read_only_and_longer_than_the_picture(
    read_only: tuple[mmap.mmap, int],
) -> None:
    memory, fd = read_only
    slots = Slots()
    with memoryview(memory) as view:
        foreign = Picture(WIDTH, HEIGHT, STRIDE, view)
        slots.take(0, foreign)
        os.pwrite(fd, b"\xaa", 2 * BAND * STRIDE)
        os.pwrite(fd, b"\xaa", foreign.size)  # behind the last pixel
        frame = slots.take(1, foreign)
        assert frame.changed == frozenset({2})
        assert frame.pixels == view[: foreign.size]
        assert not slots.differs(foreign)


@pytest.mark.parametrize(
    ("width", "height", "stride", "size"),
    [
        (0, 10, 4, 1000),
        (10, 0, 40, 1000),
        (MAX_SIDE + 1, 1, 4 * MAX_SIDE + 4, 4 * MAX_SIDE + 4),
        (-10, 10, 40, 1000),
        (10, 10, 39, 1000),
        (10, 10, -40, 1000),
        (10, 10, 40, 399),
        (10, 2, 1 << 62, 1000),
    ],
)
def test_pictures_that_cannot_be(width: int, height: int, stride: int, size: int) -> None:
    with pytest.raises(DisplayError, match="a picture of"):
        Picture(width, height, stride, memoryview(bytes(size)))
