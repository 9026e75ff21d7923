"""How old pictures are behind 10 Mbit/s: a real server, a real client, a relay that is the line.

The age is measured when a picture's last byte comes to the client, and already when the server has
read it from the port.  The rest of its way, through server and kernel, the guest does not see: one
frame queued, one under way, and a send buffer, here of 64 KiB (`tests.fixtures.newest`).
"""

import contextlib
import dataclasses
from typing import Final

from tests.bench.plan import Plan
from tests.bench.seat import seat
from tests.fixtures.drawing import Canvas, number_of
from tests.fixtures.newest import CountingScreen, arrivals, freshness
from tests.fixtures.relay import STREAM_DATA, Relay
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.fixtures.xserver import Xvfb

SEND_BUFFER: Final = 64 << 10  # bytes
SLOW: Final = 1.25e6  # bytes/s
LEARNED: Final = 100  # the number on the screen, 23 a second, up to which the rate is learned
MEASURED: Final = 100  # more numbers
# Size and strength of the noise: frames of 80 kB, and of 250 kB as a full desktop has them.
SCREENS: Final = (((640, 480), 12.0), ((1920, 1080), 5.0))


@dataclasses.dataclass(frozen=True, slots=True)
class Fresh:
    """Milliseconds, frames a second, bytes."""

    bytes: float  # of a frame
    median_ms: float  # age at the client
    worst_ms: float
    taken_ms: float  # median age when the server had read it
    line_ms: float  # what the line needs for one frame: nothing arrives younger
    longest_ms: float  # without a new picture
    fps: float
    line_share: float  # of the line that is used


def run_fresh(plan: Plan, size: tuple[int, int], noise: float) -> Fresh:
    """Measure on a screen of SIZE with NOISE, 0 to 100, and a number that counts."""
    with contextlib.ExitStack() as stack:
        xserver = stack.enter_context(Xvfb(*size))
        canvas = stack.enter_context(Canvas(xserver.display))
        host = stack.enter_context(SpiceHost(send_buffer=SEND_BUFFER))
        place = stack.enter_context(seat(host.socket_path, plan))
        relay = stack.enter_context(Relay(host.port, rate=SLOW))
        screen = stack.enter_context(CountingScreen(canvas, noise=noise))
        place.add("1", xserver.display, vt=7, front=True)
        stack.enter_context(SpiceProbe(relay.uri))
        relay.wait_frame(lambda picture: number_of(picture) >= LEARNED + MEASURED, 60)
        seen = arrivals(relay.passed(STREAM_DATA), host.events, screen)
    one = freshness([each for each in seen if LEARNED <= each.number <= LEARNED + MEASURED])
    return Fresh(
        bytes=one.size,
        median_ms=1e3 * one.median,
        worst_ms=1e3 * one.worst,
        taken_ms=1e3 * one.taken,
        line_ms=1e3 * one.size / SLOW,
        longest_ms=1e3 * one.longest,
        fps=one.rate / one.size,
        line_share=one.rate / SLOW,
    )
