"""What to run, and for how long: the command line."""

import argparse
import dataclasses
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench.processes import AGENT, ROOT
from tests.bench.stage import Program

PARTS: Final = (
    "video", "desktop", "typing", "static", "speed", "share", "daemon", "fresh", "host",
    "commands", "terminals", "bus", "peer", "codecs", "lines",
    "screens",
)  # fmt: skip
OUTPUT: Final = ROOT / "build" / "bench"


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The parts to run, how often, and how many seconds each."""

    parts: tuple[str, ...]
    agent: tuple[str, ...]  # its command without a subcommand
    peer: Program | None
    size: tuple[int, int]
    fps: float
    rounds: int
    seconds: float  # a slice
    age_seconds: float
    rest_seconds: float
    share_rounds: int
    share_seconds: float
    warm: int  # switches
    cold: int
    relay_seconds: float
    asks: bool  # the daemon, again and again, while it relays
    call_rounds: int  # over the host channel, and of commands
    call_seconds: float  # a slice
    command_mb: int  # through each stream of a command, in each round
    command_starts: int  # of each kind, in each round
    pty_mb: float  # of lines, in each round
    questions: int  # of each kind to the daemon and to logind
    codecs: tuple[str, ...]  # whose cost is compared
    codec_rounds: int
    codec_seconds: float  # a slice
    lines: tuple[tuple[str, float], ...]  # settings of the codec, Mbit/s
    line_learn_seconds: float  # until the rate is known, and the codec chosen
    line_seconds: float
    screen_rounds: int  # of each program on each back-end's screen
    screen_seconds: float  # a slice
    screen_rest_seconds: float

    @property
    def program(self) -> Program:
        """Our agent as a program beside others."""
        return Program((*self.agent, "stream"))


FULL: Final = Plan(
    parts=PARTS, agent=AGENT, peer=None, size=(1920, 1080), fps=60,
    rounds=5, seconds=2, age_seconds=6, rest_seconds=60, share_rounds=3, share_seconds=1.5,
    warm=60, cold=15, relay_seconds=10, asks=True, call_rounds=15, call_seconds=0.2,
    command_mb=256, command_starts=3, pty_mb=100, questions=5000,
    codecs=("jpeg", "vp8", "vp9", "h264", "h265"), codec_rounds=3, codec_seconds=2,
    lines=tuple(
        (setting, mbit) for mbit in (10, 2) for setting in ("auto", "jpeg", "vp8", "vp9", "h264")
    ),
    line_learn_seconds=8, line_seconds=8,
    screen_rounds=3, screen_seconds=2, screen_rest_seconds=20,
)  # fmt: skip
SHORT: Final = dataclasses.replace(
    FULL, rounds=3, seconds=1, age_seconds=2, rest_seconds=5, share_rounds=2, share_seconds=0.4,
    warm=20, cold=5, relay_seconds=3, call_rounds=9, call_seconds=0.15,
    command_mb=128, command_starts=2, pty_mb=20, questions=1000,
    codecs=("jpeg", "vp8", "h264"), codec_rounds=1, codec_seconds=1,
    lines=(("auto", 10), ("auto", 2), ("h264", 2)), line_learn_seconds=5, line_seconds=3,
    screen_rounds=1, screen_seconds=1, screen_rest_seconds=4,
)  # fmt: skip


def read_plan(argv: Sequence[str], description: str | None) -> tuple[Plan, Path]:
    """Read the command line; returns the directory for the results too."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--short", action="store_true", help="seven minutes, and more noise")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; repeatable")
    parser.add_argument("--rounds", type=int, help="of each kind of slice (5; short: 3)")
    parser.add_argument("--seconds", type=float, help="of a slice (2; short: 1)")
    parser.add_argument("--fps", type=float, default=60.0, help="of loads and agent (60)")
    parser.add_argument("--size", default="1920x1080", help="of the screen (1920x1080)")
    parser.add_argument("--agent", type=shlex.split, help="our agent's command, if not this tree's")
    parser.add_argument(
        "--peer",
        type=shlex.split,
        metavar="PROGRAM",
        help="takes spice-streaming-agent's options; runs in turn with our agent",
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="directory (build/bench)")
    options = parser.parse_args(argv)
    if options.peer:
        program, *rest = options.peer
        found = shutil.which(program) or parser.error(f"there is no program {program}")
        options.peer = [str(Path(found).absolute()), *rest]
    base = SHORT if options.short else FULL
    width, height = map(int, options.size.split("x"))
    plan = dataclasses.replace(
        base,
        parts=tuple(options.only or PARTS),
        agent=tuple(options.agent or AGENT),
        peer=Program(tuple(options.peer), is_pty=True) if options.peer else None,
        size=(width, height),
        fps=options.fps,
        rounds=options.rounds or base.rounds,
        seconds=options.seconds or base.seconds,
    )
    return plan, options.output
