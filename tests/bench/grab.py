"""A capture back-end without an agent around it: it takes each picture, and nobody encodes it.

    python -m tests.bench.grab BACKEND DISPLAY [--fps N]

Prints a line when it has its first picture; then one of JSON for each line of its standard input:
how many it has taken since the last, and of how many bands they said that they may be new.  Takes
at most N a second, as the agent's pacing does.  Its end ends the process.  Its CPU is measured from
outside (`tests.bench.usage`): the capture, what the back-end's own threads do, and this loop.
"""

import argparse
import contextlib
import ctypes
import itertools
import json
import os
import select
import signal
import sys
import time
from typing import Final

from agent.capture import NAMES, find_backend
from agent.capture.base import BAND, SLOTS, Capture, Changes

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_WANTED: Final = Changes.PICTURE | Changes.AVAILABLE


def main() -> None:
    """Take pictures until standard input ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    parser = argparse.ArgumentParser(prog="python -m tests.bench.grab")
    parser.add_argument("backend", choices=NAMES)
    parser.add_argument("display")
    parser.add_argument("--fps", type=float, default=60.0)
    options = parser.parse_args()
    with contextlib.closing(find_backend(options.backend)(options.display)) as capture:
        capture.begin()
        _serve(capture, 1 / options.fps)


def _serve(capture: Capture, beat: float) -> None:
    stdin = sys.stdin.fileno()
    taken = bands = 0
    is_new, due = True, 0.0
    slots = itertools.cycle(range(SLOTS))
    while True:
        if not is_new:
            is_new = bool(capture.wait(stdin) & _WANTED)
        left = max(0.0, due - time.monotonic()) if is_new else 0.0
        if select.select([stdin], [], [], left)[0]:
            if not os.read(stdin, 1 << 10):
                return
            _say({"frames": taken, "bands": bands})
            taken = bands = 0
        elif is_new:
            is_new = False
            frame = capture.grab(next(slots))
            if frame is None:  # for now
                continue
            if not due:
                _say({})
            due = time.monotonic() + beat
            taken += 1
            bands += -(-frame.height // BAND) if frame.changed is None else len(frame.changed)


def _say(what: dict[str, int]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
