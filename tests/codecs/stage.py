"""What the tests of codecs share: which there are, and a screen that goes to a client by one."""

from __future__ import annotations

import contextlib
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from sessiond.wire.device import Codec
from tests.fixtures.agent import Agent, start_stream
from tests.fixtures.drawing import NUMBERS, SAMPLE, Canvas, number_in, psnr
from tests.fixtures.gstreamer import Decoders
from tests.fixtures.processes import EventTimeoutError
from tests.fixtures.relay import Relay
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.fixtures.xserver import Xvfb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL import Image


@dataclass(frozen=True, slots=True)
class Video:
    """A codec by its setting, its number, and who can show it.

    ``sharp`` is how alike, in dB of brightness, what a client shows at rest is to the screen, less
    a little; the small text of an MJPEG frame of quality 80 has 31. Of sharp edges in colour 4:2:0
    leaves 28 dB at the best: colours are judged by ``colour_error``.
    """

    name: str
    codec: Codec
    decoders: Decoders
    sharp: float


VP8: Final = Video("vp8", Codec.VP8, Decoders.VPX, 34)
VP9: Final = Video("vp9", Codec.VP9, Decoders.VPX, 30)
H264: Final = Video("h264", Codec.H264, Decoders.ALL, 36)
H265: Final = Video("h265", Codec.H265, Decoders.ALL, 34)
VIDEOS: Final = (VP8, VP9, H264, H265)
_WONDERS: Final = "got an unexpected decoded buffer!"
each_video = pytest.mark.parametrize("video", VIDEOS, ids=lambda video: video.name)


@dataclass(frozen=True, slots=True)
class Show:
    """A running stream, from its X server to its client."""

    xserver: Xvfb
    canvas: Canvas
    host: SpiceHost
    relay: Relay
    agent: Agent
    probe: SpiceProbe

    def resize(self, width: int, height: int) -> None:
        """Make the screen smaller by RandR."""
        line = f"{width} {width + 40} {width + 80} {width + 160}"
        rows = f"{height} {height + 1} {height + 4} {height + 20}"
        name = f"m{width}x{height}"
        for command in (
            ["--newmode", name, "40", *line.split(), *rows.split()],
            ["--addmode", "screen", name],
            ["--output", "screen", "--mode", name],
        ):
            subprocess.run(["xrandr", "--display", self.xserver.display, *command], check=True)


@contextlib.contextmanager
def show(picture: Image.Image, *options: str, decoders: Decoders = Decoders.ALL) -> Iterator[Show]:
    """Stream a screen that shows PICTURE, by an agent with OPTIONS, to a client."""
    with contextlib.ExitStack() as stack:
        xserver = stack.enter_context(Xvfb(*picture.size))
        canvas = stack.enter_context(Canvas(xserver.display))
        canvas.show(picture)
        host = stack.enter_context(SpiceHost(multi=True))
        relay = stack.enter_context(Relay(host.port))
        agent = stack.enter_context(start_stream(host.socket_path, xserver.display, *options))
        probe = stack.enter_context(SpiceProbe(relay.uri, sample=SAMPLE, decoders=decoders))
        yield Show(xserver, canvas, host, relay, agent, probe)
        assert agent.process.poll() is None


def wait_like(
    probe: SpiceProbe, picture: Image.Image, least: float, timeout: float = 10.0
) -> Image.Image:
    """Wait until the client shows PICTURE, alike by LEAST dB of brightness; return what it shows.

    Raises EventTimeoutError, which tells how alike it became.
    """
    deadline, best = time.monotonic() + timeout, 0.0
    mark = -1
    while True:
        try:
            probe.wait_for("invalidate", deadline - time.monotonic(), after=mark)
        except EventTimeoutError as error:
            raise EventTimeoutError(f"alike by {best:.1f} dB, not {least} dB; {error}") from error
        mark = probe.now()
        seen = probe.shot()
        if seen.size == picture.size:
            best = max(best, likeness(seen, picture))
            if best >= least:
                return seen


def complaints(probe: SpiceProbe) -> list[str]:
    """Return what the client's libraries warned of, but for what a stream of H.264 always brings.

    Its parser loses the time stamp of a stream's second frame, and the client wonders where the
    picture comes from; it shows it with the next.
    """
    return [line for line in probe.complaints if _WONDERS not in line]


def likeness(seen: Image.Image, picture: Image.Image) -> float:
    """Return how alike two pictures are in their brightness, in dB."""
    return psnr(seen.convert("L"), picture.convert("L"))


def wait_number(probe: SpiceProbe, numbers: range) -> int:
    """Wait until the client draws one of NUMBERS; return the event's index."""
    found = probe.wait_for("invalidate", where=lambda event: number_in(event["bits"]) in numbers)
    index: int = found["index"]
    return index


def above(number: int) -> range:
    """Return the numbers above NUMBER."""
    return range(number + 1, NUMBERS)
