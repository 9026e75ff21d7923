"""Which codec a stream is in: the table, and what holds whatever the way to the host does."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.base import Frame
from agent.encode.base import Encoder, IntOption
from agent.stream.choice import (
    AUTO,
    LATE,
    LONGEST_PATIENCE,
    PATIENCE,
    PROVEN,
    WARY,
    WINDOW,
    Choice,
    Demand,
    Way,
    checked_names,
    decide,
    order,
    pick,
)
from sessiond.errors import EncoderError, UsageError
from sessiond.wire.device import Codec

NOW = 1000.0
MJPEG = Choice()
SMALL = Choice(is_small=True, since=NOW - 30, why="as before")
KEEPS_UP, HALF, TOO_LATE = Way(took=0.01), Way(held=WINDOW / 2), Way(took=LATE)
AT_ONCE = Way(in_time=PATIENCE)
MORE = 1e-6

COMPLAINT = "the host does not keep up with MJPEG"
TRIAL = "the host keeps up"

Row = tuple[Choice, Way, Choice]

TABLE: dict[str, Row] = {
    "nothing is known": (MJPEG, Way(), MJPEG),
    "mjpeg is in time": (MJPEG, KEEPS_UP, MJPEG),
    "half of the time a picture waited": (MJPEG, HALF, MJPEG),
    "more than half of the time": (
        MJPEG,
        replace(HALF, held=HALF.held + MORE),
        Choice(is_small=True, since=NOW, why=COMPLAINT),
    ),
    "a picture that is just shown": (MJPEG, TOO_LATE, MJPEG),
    "a picture that a client throws away": (
        MJPEG,
        Way(took=LATE + MORE),
        Choice(is_small=True, since=NOW, why=COMPLAINT),
    ),
    "and the rate is known": (
        MJPEG,
        Way(took=1.0, rate=0.25e6),
        Choice(is_small=True, since=NOW, why="the host takes only 0.25 MB/s"),
    ),
    "a trial that failed": (
        Choice(since=NOW - 0.5, why=TRIAL),
        Way(took=1.0),
        Choice(is_small=True, since=NOW, patience=2 * PATIENCE, why=COMPLAINT),
    ),
    "and another one": (
        Choice(since=NOW - 0.5, patience=2 * PATIENCE),
        Way(took=1.0),
        Choice(is_small=True, since=NOW, patience=4 * PATIENCE, why=COMPLAINT),
    ),
    "and the last that counts": (
        Choice(since=NOW - 0.5, patience=0.9 * LONGEST_PATIENCE),
        Way(took=1.0),
        Choice(is_small=True, since=NOW, patience=LONGEST_PATIENCE, why=COMPLAINT),
    ),
    "a trial that went well for long": (
        Choice(since=NOW - PROVEN, patience=LONGEST_PATIENCE),
        Way(took=1.0),
        Choice(is_small=True, since=NOW, why=COMPLAINT),
    ),
    "a small codec is late, too": (SMALL, Way(held=WINDOW, took=2.0), SMALL),
    "frames leave at once, not for long": (SMALL, Way(in_time=PATIENCE - MORE), SMALL),
    "frames leave at once": (SMALL, AT_ONCE, Choice(since=NOW, why=TRIAL)),
    "with more patience": (
        replace(SMALL, patience=2 * PATIENCE), AT_ONCE, replace(SMALL, patience=2 * PATIENCE)
    ),
    "after it, the patience is kept": (
        replace(SMALL, patience=2 * PATIENCE),
        Way(in_time=2 * PATIENCE),
        Choice(since=NOW, patience=2 * PATIENCE, why=TRIAL),
    ),
    "the line would take it": (
        SMALL, replace(AT_ONCE, rate=1e6, picture=100_000, need=1e6), Choice(since=NOW, why=TRIAL)
    ),
    "it would not": (
        SMALL, way := replace(AT_ONCE, rate=1e6, picture=100_000, need=1e6 + 1), SMALL
    ),
    "but a rate gets old": (
        SMALL, replace(way, in_time=WARY), Choice(since=NOW, why=TRIAL)
    ),
    "not before": (SMALL, replace(way, in_time=WARY - MORE), SMALL),
    "one picture would be late": (
        SMALL, replace(AT_ONCE, rate=1e6, picture=400_001, need=1e3), SMALL
    ),
}  # fmt: skip


@pytest.mark.parametrize(("choice", "way", "expected"), TABLE.values(), ids=TABLE)
def test_table(choice: Choice, way: Way, expected: Choice) -> None:
    assert decide(NOW, choice, way) == expected


WAYS = st.builds(
    Way,
    held=st.sampled_from([0.0, 0.5, 1.0]),
    took=st.sampled_from([0.0, 0.3, 0.5]),
    in_time=st.sampled_from([0.0, 11.0, 50.0, 400.0]),
    rate=st.sampled_from([0.0, 1e5, 1e7]),
    picture=st.sampled_from([0, 300_000]),
    need=st.sampled_from([0.0, 1e6]),
)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 3.0, 70.0]), WAYS), max_size=60))
def test_whatever_happens(history: Sequence[tuple[float, Way]]) -> None:
    now, choice, trials = NOW, Choice(), list[float]()
    for delay, way in history:
        now += delay
        after = decide(now, choice, replace(way, in_time=min(way.in_time, now - choice.since)))
        if after is not choice:
            assert after.is_small != choice.is_small
            if not after.is_small:
                trials.append(now)
        choice = after
        assert PATIENCE <= choice.patience <= LONGEST_PATIENCE
    assert all(two - one >= PATIENCE for one, two in itertools.pairwise(trials))


def test_a_line_that_never_keeps_up_is_tried_ever_more_seldom() -> None:
    now, choice, trials = NOW, Choice(), list[float]()
    late = since = NOW
    for _ in range(20_000):
        now += 0.1
        way = Way(in_time=now - since) if choice.is_small else Way(took=1.0)
        after = decide(now, choice, way)
        if after is not choice:
            since = now
            if not after.is_small:
                trials.append(now - late)
            late = now
        choice = after
    expected = [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]
    assert trials[: len(expected)] == pytest.approx(expected, abs=0.2)


def kind(its_name: str, its_codec: Codec, *, lacks: str = "", even: bool = False) -> type[Encoder]:
    """Make an encoder that is never used."""

    class Kind(Encoder):
        name: ClassVar = its_name
        codec: ClassVar = its_codec
        rank: ClassVar = 1
        options: ClassVar[Mapping[str, IntOption]] = {}

        def __init__(self, options: Mapping[str, int]) -> None:
            raise NotImplementedError

        def encode(self, frame: Frame) -> bytes:
            raise NotImplementedError

        @classmethod
        def missing(cls) -> str:
            return lacks

        @classmethod
        def accepts(cls, width: int, height: int) -> bool:
            return not even or not (width % 2 or height % 2)

    return Kind


Jpeg = kind("jpeg", Codec.MJPEG)
Vp8Card = kind("card", Codec.VP8)
Vp8 = kind("vp8", Codec.VP8)
Vp9 = kind("vp9", Codec.VP9)
H264 = kind("h264", Codec.H264, even=True)
H265 = kind("h265", Codec.H265, lacks="python3-av")
ALL = (Vp8Card, H264, Jpeg, Vp8, Vp9, H265)
EVERYTHING = tuple(Codec)


@pytest.mark.parametrize(
    ("wanted", "is_small", "expected"),
    [
        ([AUTO], False, [Jpeg]),
        ([AUTO], True, [Vp8Card, Vp8, Vp9, Jpeg]),
        (["vp8"], False, [Vp8Card, Vp8, Jpeg]),
        (["card"], True, [Vp8Card, Jpeg]),
        (["h264", "vp9"], False, [H264, Vp9, Jpeg]),
        (["vp9", "mjpeg", "h265"], True, [Vp9, Jpeg, H265]),
        (["jpeg"], True, [Jpeg]),
        (["jpeg", "vp8", "jpeg"], False, [Jpeg, Vp8Card, Vp8]),
        (["av1"], False, [Jpeg]),
        ([], True, [Jpeg]),
    ],
)
def test_order(wanted: list[str], expected: list[type[Encoder]], *, is_small: bool) -> None:
    assert order(ALL, wanted, is_small=is_small) == expected


def test_names() -> None:
    names = ("auto", "jpeg", "mjpeg", "card", "vp8", "h265")
    assert checked_names(names, ALL) == names
    with pytest.raises(
        UsageError, match=r"^codec 'av1': there is none, only auto, card, vp8, h264"
    ):
        checked_names(["vp8", "av1"], ALL)
    complaints = list[str]()
    assert checked_names(["", "vp8"], ALL, on_unknown=complaints.append) == ("", "vp8")
    assert len(complaints) == 1


SLOW = Choice(is_small=True, why="slow")
FULL = Demand(EVERYTHING, (640, 480))

Pick = tuple[list[str], Choice, Demand, type[Encoder], str]

PICKS: dict[str, Pick] = {
    "mjpeg": ([AUTO], MJPEG, FULL, Jpeg, ""),
    "the host is slow": ([AUTO], SLOW, FULL, Vp8Card, "slow"),
    "a name that is none": (["vpx"], MJPEG, FULL, Jpeg, "there is no codec 'vpx'"),
    "and another one": (["vpx", "vp9"], MJPEG, FULL, Vp9, "there is no codec 'vpx'"),
    "one that is not needed": (["vp9", "vpx"], MJPEG, FULL, Vp9, ""),
    "and does not decode vp8": (
        [AUTO], SLOW, Demand((1, 4), None), Vp9, "slow; the host does not decode vp8"
    ),
    "and decodes nothing else, or half of it": (
        [AUTO], SLOW, Demand((1, 3, 5), None), Jpeg, "slow; the host does not decode vp8"
    ),
    "back again": ([AUTO], Choice(why="fast"), FULL, Jpeg, "fast"),
    "one failed": (
        [AUTO], SLOW, replace(FULL, failed=((Vp8Card, "no film"),)), Vp8,
        "slow; card failed: no film",
    ),
    "all failed": (
        [AUTO], SLOW, replace(FULL, failed=((Vp8Card, "no film"), (Vp8, "x"), (Vp9, "y"))), Jpeg,
        "slow; card failed: no film",
    ),
    "by name": (["h264"], SLOW, FULL, H264, ""),
    "of an odd size": (
        ["h264", "vp9"], MJPEG, Demand(EVERYTHING, (801, 601)), Vp9,
        "h264 takes no picture of 801x601",
    ),
    "of a size that nobody knows yet": (["h264"], MJPEG, Demand(EVERYTHING, None), H264, ""),
    "not installed": (["h265"], MJPEG, FULL, Jpeg, "h265 needs python3-av"),
    "numbers of the future": (["vp9"], MJPEG, Demand((1, 4, 99), None), Vp9, ""),
}  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "choice", "demand", "encoder", "why"), PICKS.values(), ids=PICKS
)
def test_pick(
    wanted: list[str], choice: Choice, demand: Demand, encoder: type[Encoder], why: str
) -> None:
    assert pick(ALL, wanted, choice, demand) == (encoder, why)


@pytest.mark.parametrize(
    ("demand", "text"),
    [
        (Demand((2, 99), None), r"decodes: \[2, 99\]$"),
        (Demand((1,), None, ((Jpeg, "no film"),)), r"decodes: \[1\] \(jpeg failed: no film\)$"),
    ],
)
def test_nothing_is_left(demand: Demand, text: str) -> None:
    with pytest.raises(EncoderError, match=text):
        pick([Jpeg], [AUTO], MJPEG, demand)


def test_a_codec_without_a_name_is_told_by_its_number() -> None:
    odd = kind("odd", 77)  # type: ignore[arg-type]  # as a plug-in might say
    assert Demand((1,), None).obstacle(odd) == "the host does not decode codec 77"
