"""A client that comes while nothing can be captured reads why, until there is a picture."""

from __future__ import annotations

from typing import Final

import pytest

from agent.capture.placeholder import draw_placeholder
from agent.stream.pacing import LONGEST_REST
from tests.fixtures.agent import start_stream
from tests.fixtures.drawing import SAMPLE, Canvas, bits_of, psnr
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.fixtures.xserver import Xvfb

pytestmark = pytest.mark.e2e

SIZE: Final = (640, 480)
AWAY: Final = "Nothing can be captured now: the X server is not on the active virtual terminal."
GOOD: Final = 30.0  # dB
SETTLED: Final = LONGEST_REST + 1  # seconds without a picture


def test_why_there_is_no_picture_until_there_is_one(host: SpiceHost) -> None:
    with Xvfb(*SIZE) as server, Canvas(server.display) as canvas:
        canvas.show_number(1)
        canvas.has_vt(0)
        with (
            start_stream(host.socket_path, server.display),
            SpiceProbe(host.uri, sample=SAMPLE) as probe,
        ):
            probe.wait_for("invalidate")
            assert psnr(probe.shot(), draw_placeholder(SIZE, AWAY)) > GOOD
            canvas.has_vt(1)
            probe.wait_for("invalidate", bits=bits_of(1))
            mark = probe.now()
            canvas.has_vt(0)  # and now the last picture stands
            probe.wait_silence("invalidate", SETTLED)
            assert {event["bits"] for event in probe.events[mark + 1 :]} <= {bits_of(1)}
