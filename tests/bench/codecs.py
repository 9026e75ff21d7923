"""What the codecs cost on the same loads: the agent's CPU, and the bytes of a frame.

Beside them GStreamer's VP8 encoder, as spice-streaming-agent's plug-in runs it (its
gst-plugin.cpp): the whole screen, grabbed, converted and encoded with vp8enc's own settings.  That
program itself is not needed for this: what GStreamer brings to the command line does the same.
"""

import contextlib
import dataclasses
import itertools
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.capture import find_backend
from agent.capture.base import SLOTS, Changes
from agent.encode import find_encoders
from tests.bench.cost import Cost, cost
from tests.bench.plan import Plan
from tests.bench.processes import BenchError, Child, Load
from tests.bench.stage import AgentRun, Slice, Stage, agent_run
from tests.bench.usage import usage

FPS: Final = 30.0
CONTENTS: Final = ("video", "desktop", "typing")
GSTREAMER: Final = "GStreamer vp8enc"
_STARTED: Final = 5  # frames that belong to the start
_FEWEST: Final = 3  # that a slice of GStreamer's has, however long it takes


@dataclasses.dataclass(frozen=True, slots=True)
class Coded:
    """A codec on a load; of the cost only ``program``, ``fps`` and ``bytes`` count.

    ``encoding_ms`` is the part of it that converts and encodes, None where that cannot be told.
    """

    codec: str
    load: str
    cost: Cost
    encoding_ms: float | None


def missing() -> str:
    """Say what GStreamer's encoder needs and this machine lacks; empty if nothing."""
    if shutil.which("gst-launch-1.0") is None:
        return "gst-launch-1.0"
    return ""


def run_codecs(load: str, plan: Plan, server: Child, display: str, directory: Path) -> list[Coded]:
    """Run the plan's codecs in turn on one load, and GStreamer's after each of their rounds."""
    found: dict[str, list[Slice]] = {}
    encoding: dict[str, list[float]] = {}
    with Load(load, display, FPS, directory) as drawing, contextlib.ExitStack() as stack:
        stage = Stage(server, display, drawing, directory)
        runs = {
            codec: stack.enter_context(_paused(stage, plan, codec, directory))
            for codec in plan.codecs
        }
        for _ in range(plan.codec_rounds):
            for codec, run in runs.items():
                found.setdefault(codec, []).append(run.turn(plan.codec_seconds))
                spent = _encode(codec, display, plan.codec_seconds)
                encoding.setdefault(codec, []).append(spent)
            if not missing():
                found.setdefault(GSTREAMER, []).append(_gstreamer(stage, plan.codec_seconds))
    # X's part is left out: it draws the same for all, and the agent's capture is in `moving`.
    return [
        Coded(codec, load, cost(slices, 0.0), _median(encoding.get(codec)))
        for codec, slices in found.items()
    ]


def _median(values: list[float] | None) -> float | None:
    return statistics.median(values) if values else None


def _encode(codec: str, display: str, seconds: float) -> float:
    """Capture and encode here, as the agent does; return the median ms of CPU of its encoding.

    As many frames are measured as are drawn in SECONDS.
    """
    encoder = next(each for each in find_encoders() if each.name == codec)
    running = encoder({name: option.default for name, option in encoder.options.items()})
    spent: list[float] = []
    enough, never = _STARTED + round(seconds * FPS), os.eventfd(0)
    with contextlib.closing(find_backend("x11")(display)) as capture:
        capture.begin()
        for slot in itertools.cycle(range(SLOTS)):
            frame = capture.grab(slot)
            assert frame is not None
            begun = time.process_time()
            running.encode(frame)
            spent.append(time.process_time() - begun)
            if len(spent) == enough:
                break
            while Changes.PICTURE not in capture.wait(never):
                pass
    os.close(never)
    return 1e3 * statistics.median(spent[_STARTED:])


@contextlib.contextmanager
def _paused(stage: Stage, plan: Plan, codec: str, directory: Path) -> Iterator[AgentRun]:
    """Start an agent of this codec in a directory of its own; it waits for START."""
    place = directory / codec
    place.mkdir(exist_ok=True)
    own = Stage(stage.server, stage.display, stage.load, place)
    program = dataclasses.replace(plan.program, codec=codec)
    with agent_run(own, program, FPS) as run:
        run.wait_first()
        run.pause()
        yield run


def _gstreamer(stage: Stage, seconds: float) -> Slice:
    """Count and weigh the files of a pipeline that writes a file a frame."""
    with tempfile.TemporaryDirectory(prefix="bench-gst-") as name:
        frames = Path(name)
        pipeline = (
            f"ximagesrc display-name={stage.display} use-damage=false show-pointer=false "
            f"! video/x-raw,framerate={FPS:g}/1 ! videoconvert ! vp8enc "
            f"! multifilesink location={frames}/%06d"
        )
        argv = ["gst-launch-1.0", "-q", *pipeline.split()]
        with Child(argv, log=stage.directory / "gst.log") as gstreamer:
            _wait_frames(frames, gstreamer, _STARTED)
            begun, before, had = time.monotonic(), usage(gstreamer.pid), len(_files(frames))
            time.sleep(seconds)
            _wait_frames(frames, gstreamer, had + _FEWEST)
            used, new = usage(gstreamer.pid) - before, _files(frames)[had:]
            lasted = time.monotonic() - begun
            size = int(statistics.median(path.stat().st_size for path in new))
    return Slice(lasted, 0, len(new), size, used.cpu_ms / len(new), 0.0, used.switches)


def _files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir())


def _wait_frames(directory: Path, writer: Child, count: int) -> None:
    """Wait until it has written so many."""
    deadline = time.monotonic() + 20
    while len(_files(directory)) < count:
        writer.check_alive()
        if time.monotonic() > deadline:
            raise BenchError(f"hardly a frame of GStreamer{writer.said()}")
        time.sleep(0.02)
