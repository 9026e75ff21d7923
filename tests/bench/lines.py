"""How old pictures are behind a slow line, by codec: a real server, a real client with decoders.

The screen is a full desktop's worth of noise on which a small part changes 33 times a second, as
when somebody types: MJPEG sends all of it each time, the others what changed.
"""

import contextlib
import dataclasses
import json
import time
from typing import Final

from tests.bench.fresh import SEND_BUFFER
from tests.bench.plan import Plan
from tests.bench.processes import BenchError
from tests.bench.seat import seat
from tests.fixtures.decoding import numbers
from tests.fixtures.drawing import SAMPLE, Canvas, number_in
from tests.fixtures.gstreamer import Decoders
from tests.fixtures.newest import CountingScreen, arrivals, freshness
from tests.fixtures.relay import STREAM_CREATE, STREAM_DATA, Relay
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.fixtures.xserver import Xvfb

SIZE: Final = (1920, 1080)
NOISE: Final = 5.0  # MJPEG frames of 250 kB, as a full desktop has them
BEAT: Final = 1 / 40  # seconds between two drawings: with them some 33 a second
FPS: Final = 33  # that come of it, or a little less


@dataclasses.dataclass(frozen=True, slots=True)
class Behind:
    """Milliseconds, frames a second, bytes; of the pictures that came once the rate was known."""

    setting: str  # of the codec
    mbit: float  # a second, that the line takes
    codecs: list[int]  # of the streams, one after the other; spice/enums.h
    bytes: float  # of a frame
    median_ms: float  # age at the client
    worst_ms: float
    longest_ms: float  # without a new picture
    fps: float
    drawn_fps: float
    shown_fps: float  # by the client, which throws away what comes too late for it
    mbit_used: float


def run_line(plan: Plan, setting: str, mbit: float) -> Behind:
    """Measure with the SETTING of the codec behind a line of MBIT a second."""
    learned = round(plan.line_learn_seconds * FPS)
    measured = range(learned, learned + round(plan.line_seconds * FPS))
    with contextlib.ExitStack() as stack:
        xserver = stack.enter_context(Xvfb(*SIZE))
        canvas = stack.enter_context(Canvas(xserver.display))
        host = stack.enter_context(SpiceHost(send_buffer=SEND_BUFFER))
        codec = f"stream.codec={json.dumps(setting)}"
        place = stack.enter_context(seat(host.socket_path, plan, codec))
        relay = stack.enter_context(Relay(host.port, rate=mbit * 1e6 / 8))
        screen = stack.enter_context(CountingScreen(canvas, noise=NOISE, beat=BEAT))
        place.add("1", xserver.display, vt=7, front=True)
        client = SpiceProbe(relay.uri, sample=SAMPLE, decoders=Decoders.ALL)
        probe = stack.enter_context(client)
        while max(screen.drawn, default=0) <= measured.stop:
            time.sleep(BEAT)
        read = numbers(relay.passed(STREAM_CREATE, STREAM_DATA))
        seen = arrivals(
            relay.passed(STREAM_DATA), host.events, screen, lambda frame: read.get(frame.index, -1)
        )
        shown = {number_in(event.get("bits", "")) for event in probe.events} & set(measured)
    begun, over = (screen.drawn[number] for number in (measured.start, measured.stop))
    come = [each for each in seen if begun <= each.at < over]
    if len(come) < 2:
        raise BenchError(
            f"{len(come)} pictures came in {plan.line_seconds:g} s behind {mbit:g} Mbit/s"
        )
    one, drawn_fps = freshness(come), len(measured) / (over - begun)
    return Behind(
        setting=setting,
        mbit=mbit,
        codecs=relay.codecs(),
        bytes=one.size,
        median_ms=1e3 * one.median,
        worst_ms=1e3 * one.worst,
        longest_ms=1e3 * one.longest,
        fps=one.rate / one.size,
        drawn_fps=drawn_fps,
        shown_fps=drawn_fps * len(shown) / len(measured),
        mbit_used=8 * one.rate / 1e6,
    )
