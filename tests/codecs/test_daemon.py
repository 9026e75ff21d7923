"""Codecs with the daemon between agent and host: switches, and the way to a codec and back."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Final

import pytest

from sessiond.wire.device import Codec
from tests.codecs.stage import H264, VP8, VP9, Video, above, complaints, wait_like, wait_number
from tests.daemon.scene import ALICE, BOB, Scene
from tests.fixtures.drawing import NUMBERS, SAMPLE, number_in
from tests.fixtures.gstreamer import Decoders
from tests.fixtures.newest import CountingScreen
from tests.fixtures.public import public_agent
from tests.fixtures.relay import Relay
from tests.fixtures.spice import SpiceProbe

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

SEND_BUFFER: Final = 64 << 10  # bytes; the host's kernel holds no more (see ``newest``)
SLOW: Final = 0.25e6  # bytes/s
HERS: Final = range(1, 2000)  # the numbers of their screens
HIS: Final = range(2000, NUMBERS)
NOISE: Final = 5
LOUD: Final = 12  # noise of which an MJPEG frame has 80 kB, a third of a second of the slow line


def agent_setting() -> str:
    """Return the setting of an agent that everybody can run and that has the video encoders."""
    return f"stream.agent={json.dumps(public_agent('av'))}"


@contextlib.contextmanager
def scene_with(codec: str) -> Iterator[Scene]:
    settings = (agent_setting(), f"stream.codec={codec}")
    with Scene(settings, send_buffer=SEND_BUFFER) as scene:
        yield scene


@pytest.mark.parametrize("video", [VP8, VP9, H264], ids=lambda video: video.name)
def test_a_switch_between_frames_that_build_on_each_other(video: Video) -> None:
    with (
        scene_with(json.dumps(video.name)) as scene,
        CountingScreen(scene.screens[ALICE], noise=NOISE) as alices,
        CountingScreen(scene.screens[BOB], noise=NOISE, first=HIS.start) as bobs,
    ):
        scene.add_alice()
        scene.add_bob()
        probe = scene.watch(video.decoders)
        wait_number(probe, HIS)
        for _ in range(3):
            for session, screen, own in (("1", alices, HERS), ("c2", bobs, HIS)):
                scene.stage.login1.do("switch", id=session)
                mark = wait_number(probe, own)
                wait_number(probe, range(max(screen.drawn), own.stop))
                assert drawn(probe, mark) <= set(own)
        bobs.close()
        wait_like(probe, scene.screens[BOB].content(), video.sharp)
        assert complaints(probe) == []
        assert scene.daemon.property("Codec") == video.name


def drawn(probe: SpiceProbe, after: int) -> set[int]:
    """Return the numbers that the client has drawn later than the event with the index AFTER."""
    events = [event for event in probe.events[after:] if event["event"] == "invalidate"]
    return {number_in(event["bits"]) for event in events}


def test_a_slow_line_gets_a_codec_that_it_keeps_up_with() -> None:
    with (
        scene_with('"auto"') as scene,
        Relay(scene.host.port, rate=SLOW) as relay,
        CountingScreen(scene.screens[ALICE], noise=LOUD) as screen,
    ):
        scene.add_alice()
        with SpiceProbe(relay.uri, sample=SAMPLE, decoders=Decoders.ALL) as probe:
            relay.wait_codec(Codec.MJPEG)
            relay.wait_codec(Codec.VP8, 30)
            begun = max(screen.drawn)
            wait_number(probe, above(begun + 100))
            assert len({number for number in drawn(probe, 0) if number > begun}) > 20
            assert relay.codecs() == [Codec.MJPEG, Codec.VP8]
            assert scene.daemon.property("Codec") == "vp8"
            assert scene.daemon.property("Encoder") == "libvpx"
            scene.daemon.wait_line(r"The codec is vp8 \(libvpx\) now, because ")
            assert complaints(probe) == []
