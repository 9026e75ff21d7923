"""The main job on an embedded example: an X screen with real programs reaches a SPICE client.

    python -m tests.demo [--keep] [--picture FILE]

Starts an X server with a clock, eyes and a terminal that counts, the agent, a SPICE host and a
SPICE client; saves what the client shows and compares it with the X server's own content.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from PIL import Image

from tests.fixtures.agent import start_stream
from tests.fixtures.drawing import Canvas, psnr
from tests.fixtures.processes import DIE_WITH_PARENT, EventTimeoutError
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.fixtures.xserver import Xvfb

SIZE: Final = (1280, 800)
FRAMES: Final = 40  # drawn by the client before the picture is taken
ENOUGH: Final = 35.0  # dB; a JPEG of quality 80 whose text is sharp

# The terminal counts to a number and then rests, so that the last picture can be compared.
COUNT: Final = """
printf '\\033[1;32mspice-sessiond\\033[0m: this terminal runs in an X server without a screen\\n\\n'
i=0
while [ $i -lt 60 ]; do
    i=$((i + 1)); printf '\\rline drawn and streamed: %3d of 60 ' $i; sleep 0.04
done
printf '\\n\\nand now nothing moves but the eyes, so nothing is sent.\\n'
exec sleep infinity
"""
CLIENTS: Final = (
    ("xsetroot", "-solid", "steelblue"),
    ("xclock", "-geometry", "220x220+40+40", "-bg", "ivory"),
    ("xeyes", "-geometry", "260x160+40+320"),
    ("xterm", "-geometry", "100x30+330+40", "-fa", "DejaVu Sans Mono", "-fs", "10",
     "-e", "sh", "-c", COUNT),
)  # fmt: skip


def main() -> int:
    """Run the demo; the exit status is 0 when the picture is right."""
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument("--keep", action="store_true", help="stay up until ^C")
    parser.add_argument("--picture", type=Path, default=Path("demo/screen.png"))
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        xserver = stack.enter_context(Xvfb(*SIZE))
        host = stack.enter_context(SpiceHost(multi=True))
        agent = stack.enter_context(start_stream(host.socket_path, xserver.display))
        probe = SpiceProbe(host.uri)
        stack.callback(probe.close)
        probe.wait_for("primary-create")
        _start_clients(stack, xserver.display)
        for _ in range(FRAMES):
            probe.wait_for("invalidate")
        picture, distance = _settled_picture(probe, xserver.display)
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        picture.save(options.picture)
        if options.keep:
            print(f"Connect a viewer to {host.uri}, for example: remote-viewer {host.uri}")
            print("^C ends it.", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                agent.process.wait()
        probe.close()
        line = agent.wait_line("stopped: ")
        summary = agent.lines[line].partition("stopped: ")[2]
    print(f"What the SPICE client shows: {options.picture}, {picture.width}x{picture.height}")
    print(f"Against the X server's own content: {distance:.1f} dB (over {ENOUGH:g} is right)")
    print(f"The agent sent {summary}")
    return 0 if distance >= ENOUGH else 1


def _start_clients(stack: contextlib.ExitStack, display: str) -> None:
    environment = os.environ | {"DISPLAY": display}
    for argv in CLIENTS:
        if not shutil.which(argv[0]):
            sys.exit(f"{argv[0]} is missing: run make setup")
        client = subprocess.Popen(
            [*DIE_WITH_PARENT, *argv], env=environment, stderr=subprocess.DEVNULL
        )
        stack.callback(client.wait)
        stack.callback(client.terminate)


def _settled_picture(probe: SpiceProbe, display: str) -> tuple[Image.Image, float]:
    """Return the client's picture and its likeness in dB, once nothing is drawn for a second."""
    with contextlib.suppress(EventTimeoutError):
        while True:
            probe.wait_for("invalidate", timeout=1.0)
    with Canvas(display) as screen:
        picture = probe.shot()
        return picture, psnr(picture, screen.content())


if __name__ == "__main__":
    sys.exit(main())
