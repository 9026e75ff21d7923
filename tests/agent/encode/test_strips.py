"""A picture of strips is, byte for byte, the picture that is encoded at once."""

import itertools
import random
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agent.capture.base import BAND, Frame
from agent.encode import segments
from agent.encode.compress import MCU, Compressor
from agent.encode.pillow import CAN_RESTART, PillowCompressor
from agent.encode.strips import StripPicture, _runs, _shares
from agent.encode.turbo import TurboCompressor
from sessiond.errors import EncoderError
from tests.agent.encode.test_jpeg import assert_same, decoded, frame_of, noise, plain

SUBSAMPLINGS: Final = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}


class StripsAlone(PillowCompressor):
    """Pillow as it was before 10.2."""

    restarts = False


COMPRESSORS: Final[list[type[Compressor]]] = [
    TurboCompressor, StripsAlone, *([PillowCompressor] if CAN_RESTART else []),
]  # fmt: skip
every = pytest.mark.parametrize("compressor", COMPRESSORS)

Box = tuple[int, int, int, int]  # left, top, width, height; over the edge, it is cut


class Screen:
    """Pixels that change, and which bands of them did."""

    def __init__(self, width: int, height: int, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._picture = noise(width, height).resize((width, height), Image.Resampling.BILINEAR)

    def draw(self, *boxes: Box) -> Frame:
        """Draw noise into each of BOXES."""
        width, height = self._picture.size
        changed = set[int]()
        for left, top, across, down in boxes:
            box = (left % width, top % height, across, down)
            stain = Image.frombytes("RGB", box[2:], self._random.randbytes(3 * across * down))
            self._picture.paste(stain, box[:2])
            last = min(height, box[1] + down) - 1
            changed |= set(range(box[1] // BAND, last // BAND + 1))
        frame = frame_of(self._picture, 4 * width + 4)
        return replace(frame, changed=frozenset(changed))

    def random_box(self) -> Box:
        """Return a box of any place and of few or many rows."""
        width, height = self._picture.size
        down = self._random.choice([1, 1, 8, 16, 17, height])
        place = (self._random.randrange(width), self._random.randrange(height))
        return (*place, self._random.randint(1, width), down)


def whole(frame: Frame, quality: int, subsampling: int, rows: int) -> bytes:
    return plain(frame, quality, subsampling, rows // MCU[subsampling][1])


SIDE = st.integers(1, 70)
BOX = st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(1, 70), st.integers(1, 70))


@given(
    size=st.tuples(SIDE, st.integers(1, 140)),
    quality=st.integers(1, 100),
    subsampling=st.sampled_from(list(SUBSAMPLINGS.values())),
    damages=st.lists(st.lists(BOX, max_size=3), max_size=4),
    compressor=st.sampled_from(COMPRESSORS),
)
@settings(deadline=None)
def test_any_damage(
    size: tuple[int, int],
    quality: int,
    subsampling: int,
    damages: list[list[Box]],
    compressor: type[Compressor],
) -> None:
    screen = Screen(*size)
    picture = StripPicture(compressor, quality, subsampling)
    for boxes in [[], *damages]:
        frame = screen.draw(*boxes)
        assert_same(picture.encode(frame), whole(frame, quality, subsampling, picture.rows))


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS.values(), ids=SUBSAMPLINGS)
def test_500_frames_in_a_row(subsampling: int) -> None:
    screen = Screen(83, 275)  # more strips than there are restart markers, the last a partial one
    pictures = [StripPicture(compressor, 80, subsampling) for compressor in COMPRESSORS]
    heights = {picture.rows for picture in pictures}
    for number in range(500):
        frame = screen.draw(*(screen.random_box() for _ in range(number % 4)))
        expected = {rows: whole(frame, 80, subsampling, rows) for rows in heights}
        for picture in pictures:
            assert_same(picture.encode(frame), expected[picture.rows])


@every
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_change_nothing(threads: int, compressor: type[Compressor]) -> None:
    screen = Screen(40, 2000)
    alone = StripPicture(compressor, 80, 2)
    together = StripPicture(compressor, 80, 2, threads=threads)
    for number in range(20):
        frame = screen.draw((0, 9 * number, 40, 2000), *(screen.random_box() for _ in range(9)))
        assert together.encode(frame) == alone.encode(frame)
    assert 1 <= len(together._pool._threads) < threads


@every
def test_small_change_wakes_no_thread(compressor: type[Compressor]) -> None:
    picture = StripPicture(compressor, 80, 2, threads=4)
    picture.encode(Screen(40, 480).draw())
    assert not picture._pool._threads


@every
def test_only_what_changed_is_looked_at(compressor: type[Compressor]) -> None:
    screen = Screen(64, 128)
    picture = StripPicture(compressor, 80, 0)  # no colours run over the edges when it is decoded
    before = picture.encode(screen.draw())
    frame = screen.draw((0, 0, 64, 128))
    assert picture.encode(replace(frame, changed=frozenset())) == before
    partial = decoded(picture.encode(replace(frame, changed=frozenset({2, 3}))))
    old, new = decoded(before), decoded(plain(frame, 80, 0))
    for top, source in ((0, old), (32, new), (64, old)):
        box = (0, top, 64, top + 32)
        assert partial.crop(box).tobytes() == source.crop(box).tobytes()


@every
def test_nothing_is_known_of_a_picture_of_another_size(compressor: type[Compressor]) -> None:
    picture = StripPicture(compressor, 80, 2)
    for size in ((64, 64), (65, 64), (65, 80), (65, 64)):
        frame = Screen(*size).draw((0, 0, 9, 9))
        assert_same(picture.encode(frame), whole(frame, 80, 2, picture.rows))


@every
def test_frame_of_unknown_changes_is_encoded_whole(compressor: type[Compressor]) -> None:
    screen, picture = Screen(64, 64), StripPicture(compressor, 80, 2)
    picture.encode(screen.draw())
    frame = replace(screen.draw((0, 0, 64, 64)), changed=None)
    assert_same(picture.encode(frame), whole(frame, 80, 2, picture.rows))


@every
def test_failure_makes_the_next_frame_whole(compressor: type[Compressor]) -> None:
    screen, picture = Screen(64, 64), StripPicture(compressor, 80, 2)
    picture.encode(screen.draw())
    frame = screen.draw((0, 0, 64, 64))
    with pytest.raises(EncoderError, match=r"^JPEG of 64x64: [^\n]*$"):
        picture.encode(replace(frame, pixels=frame.pixels[:999]))
    same = replace(frame, changed=frozenset())
    assert_same(picture.encode(same), whole(frame, 80, 2, picture.rows))


@every
def test_failure_in_another_thread_is_one_too(compressor: type[Compressor]) -> None:
    frame = Screen(16, 1024).draw()
    picture = StripPicture(compressor, 80, 2, threads=2)
    with pytest.raises(EncoderError, match=r"^JPEG of 16x1024: "):
        picture.encode(replace(frame, pixels=frame.pixels[: frame.stride * 900]))


@given(st.sets(st.integers(0, 30), min_size=1), st.integers(0, 5))
def test_shares_and_runs_leave_nothing_out(strips: set[int], count: int) -> None:
    wanted = sorted(strips)
    shares = _shares(wanted, count)
    assert list(itertools.chain(*shares)) == wanted
    assert len(shares) <= max(1, count)
    runs = list(_runs(wanted))
    assert list(itertools.chain(*runs)) == wanted
    assert all(one.stop < other.start for one, other in itertools.pairwise(runs))


def test_scan_with_too_few_segments() -> None:
    jpeg = plain(frame_of(noise(16, 16)), 80)
    with pytest.raises(ValueError, match=r"^a picture has 0 restart markers, not 1$"):
        segments.split(jpeg, 2)
    with pytest.raises(ValueError, match="does not end with EOI"):
        segments.split(jpeg[:-1], 1)
