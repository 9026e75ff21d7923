"""A screen at rest becomes sharp, and then nothing is sent any more."""

from __future__ import annotations

from typing import Final

import pytest

from agent.stream.pacing import LONGEST_REST
from sessiond.wire.device import Codec
from tests.codecs.stage import VIDEOS, Video, show, wait_like
from tests.fixtures.colours import colour_card, text_of
from tests.fixtures.drawing import psnr
from tests.fixtures.gstreamer import Decoders

pytestmark = pytest.mark.e2e

# dB of small coloured text, colours and all: 4:2:0 leaves 28 of it at the best.
TEXT_444: Final = 35
MJPEG_SHARP: Final = 42  # in brightness
SETTLED: Final = LONGEST_REST + 1  # seconds without a message: nothing is sent again


def test_the_last_mjpeg_is_sharp_in_its_colours() -> None:
    card = colour_card(640, 480)
    with show(card, "--codec", "jpeg", decoders=Decoders.NONE) as shown:
        first = shown.relay.wait_frame()
        assert psnr(text_of(first.picture()), text_of(card)) < TEXT_444, "no need to refine it"
        seen = wait_like(shown.probe, card, MJPEG_SHARP)
        assert psnr(text_of(seen), text_of(card)) >= TEXT_444
        assert shown.relay.codecs() == [Codec.MJPEG]


@pytest.mark.parametrize("video", VIDEOS, ids=lambda video: video.name)
def test_after_the_last_sharp_frame_there_is_silence(video: Video) -> None:
    card = colour_card(640, 480)
    with show(card, "--codec", video.name, decoders=video.decoders) as shown:
        wait_like(shown.probe, card, video.sharp)
        shown.host.wait_silence("from-guest", SETTLED)
        mark, woken = shown.host.now(), shown.agent.context_switches()
        shown.host.wait_silence("from-guest", 1)
        assert shown.host.now() == mark
        assert shown.agent.context_switches() == woken
