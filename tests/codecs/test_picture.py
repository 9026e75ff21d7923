"""Each codec shows the screen, in its colours, whatever its size, and to the last change."""

from __future__ import annotations

from typing import Final

import pytest

from sessiond.wire.device import Codec
from tests.codecs.stage import (
    H264,
    H265,
    VIDEOS,
    VP8,
    Video,
    above,
    complaints,
    each_video,
    show,
    wait_like,
    wait_number,
)
from tests.fixtures.colours import colour_card, colour_error
from tests.fixtures.drawing import bits_of
from tests.fixtures.gstreamer import Decoders
from tests.fixtures.newest import CountingScreen

pytestmark = pytest.mark.e2e

# Below and above the 576 rows from where on clients take colours for those of HD, and an odd one.
ODD: Final = (801, 601)
SIZES: Final = ((640, 480), (1366, 768), ODD)
EVEN: Final = (H264, H265)  # whose encoders refuse an odd size
COLOUR_ERROR: Final = 8  # of 255
# Seconds from drawing to showing: 0.4 until its time has come. What waits in the client for the
# frame after it waits for a repetition, 0.3 more.
AT_ONCE: Final = 0.6


@pytest.mark.parametrize(
    ("video", "size"),
    [(video, size) for video in VIDEOS for size in SIZES if size != ODD or video not in EVEN],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_the_picture_and_its_colours(video: Video, size: tuple[int, int]) -> None:
    card = colour_card(*size)
    with show(card, "--codec", video.name, decoders=video.decoders) as shown:
        seen = wait_like(shown.probe, card, video.sharp)
        assert shown.relay.codecs() == [video.codec]
        assert colour_error(seen) <= COLOUR_ERROR
        assert complaints(shown.probe) == []


@pytest.mark.parametrize("video", EVEN, ids=lambda video: video.name)
def test_a_size_that_a_codec_refuses_goes_by_the_next(video: Video) -> None:
    card = colour_card(*ODD)
    with show(card, "--codec", f"{video.name},vp8") as shown:
        wait_like(shown.probe, card, VP8.sharp)
        assert shown.relay.codecs()[-1] == Codec.VP8
        assert complaints(shown.probe) == []


@each_video
def test_what_changed_last_is_shown(video: Video) -> None:
    card = colour_card(640, 480)
    with show(card, "--codec", video.name, decoders=video.decoders) as shown:
        wait_like(shown.probe, card, video.sharp)
        ages = []
        for number in range(1, 6):
            drawn = shown.canvas.show_number(number)
            ages.append(shown.probe.wait_for("invalidate", bits=bits_of(number))["t"] - drawn)
        assert min(ages) < AT_ONCE, "shown with the next frame only"
        wait_like(shown.probe, shown.canvas.content(), video.sharp)
        assert shown.relay.codecs() == [video.codec]
        assert complaints(shown.probe) == []


@each_video
def test_what_moves_is_shown(video: Video) -> None:
    with show(colour_card(640, 480), "--codec", video.name, decoders=video.decoders) as shown:
        with CountingScreen(shown.canvas, noise=5) as screen:
            shown.probe.wait_for("invalidate", bits=bits_of(60))
        shown.probe.wait_for("invalidate", bits=bits_of(max(screen.drawn)))
        wait_like(shown.probe, shown.canvas.content(), video.sharp)
        assert shown.relay.codecs() == [video.codec]
        assert complaints(shown.probe) == []


@each_video
def test_a_new_size_in_the_middle(video: Video) -> None:
    card = colour_card(1024, 768)
    with (
        show(card, "--codec", video.name, decoders=video.decoders) as shown,
        CountingScreen(shown.canvas, noise=5) as screen,
    ):
        wait_number(shown.probe, above(0))
        shown.resize(800, 600)
        shown.probe.wait_for("primary-create", w=800, h=600)
        wait_number(shown.probe, above(max(screen.drawn)))
        assert set(shown.relay.codecs()) == {video.codec}
        assert complaints(shown.probe) == []


def test_a_client_is_sent_nothing_that_it_cannot_show() -> None:
    card = colour_card(640, 480)
    names = ",".join(video.name for video in VIDEOS)
    with show(card, "--codec", names, decoders=Decoders.NONE) as shown:
        wait_like(shown.probe, card, H264.sharp)
        assert shown.relay.codecs() == [Codec.MJPEG]
