"""Clients that come and go, and can decode different things."""

from __future__ import annotations

import pytest

from sessiond.wire.device import Codec
from tests.codecs.stage import VP8, VP9, Video, above, complaints, show, wait_like, wait_number
from tests.fixtures.colours import colour_card
from tests.fixtures.drawing import SAMPLE
from tests.fixtures.gstreamer import Decoders
from tests.fixtures.newest import CountingScreen
from tests.fixtures.spice import SpiceProbe

pytestmark = pytest.mark.e2e


def test_the_next_client_decodes_less_and_the_one_after_more() -> None:
    card = colour_card(640, 480)
    with show(card, "--codec", "h264,vp8", decoders=Decoders.ALL) as shown:
        wait_like(shown.probe, card, VP8.sharp)
        shown.probe.close()
        for decoders in (Decoders.NONE, Decoders.VPX, Decoders.ALL):
            shown.agent.wait_line("stopped")
            with SpiceProbe(shown.relay.uri, decoders=decoders) as probe:
                wait_like(probe, card, VP8.sharp)
                assert complaints(probe) == []
        assert shown.relay.codecs() == [Codec.H264, Codec.MJPEG, Codec.VP8, Codec.H264]


def test_two_clients_are_sent_what_both_decode() -> None:
    card = colour_card(640, 480)
    with show(card, "--codec", "vp8", decoders=Decoders.VPX) as shown:
        wait_like(shown.probe, card, VP8.sharp)
        with SpiceProbe(shown.relay.uri, decoders=Decoders.NONE) as second:
            wait_like(second, card, VP8.sharp)
            shown.relay.wait_codec(Codec.MJPEG)
        # Of one that leaves the host tells nothing; of the next that comes it does.
        with SpiceProbe(shown.relay.uri, decoders=Decoders.VPX) as third:
            shown.relay.wait_codec(Codec.VP8)
            wait_like(third, card, VP8.sharp)
        assert complaints(shown.probe) == []


@pytest.mark.parametrize("video", [VP8, VP9], ids=lambda video: video.name)
def test_a_second_client_begins_with_a_whole_picture(video: Video) -> None:
    with show(colour_card(640, 480), "--codec", video.name, decoders=Decoders.VPX) as shown:
        screen = CountingScreen(shown.canvas, noise=5)
        with screen, SpiceProbe(shown.relay.uri, sample=SAMPLE, decoders=Decoders.VPX) as second:
            wait_number(second, above(0))
            wait_number(shown.probe, above(max(screen.drawn)))
            screen.close()
            for probe in (shown.probe, second):
                wait_like(probe, shown.canvas.content(), video.sharp)
                assert complaints(probe) == []
