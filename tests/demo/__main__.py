"""The main job on an embedded example: the picture follows the person from session to session.

    python -m tests.demo [--keep] [--directory DIR]

Starts two users' X servers with real programs, a private message bus with a stand-in for logind
(the machine's own seat is not touched), the daemon, a real SPICE host and a real client. Switches
from one session to the other, saves what the client shows before and after, compares each with the
X server's own content, and prints what busctl says at each step.
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.fixtures.daemon import BUS_NAME, MANAGER, MANAGER_PATH, Stage
from tests.fixtures.drawing import Canvas, psnr
from tests.fixtures.processes import DIE_WITH_PARENT, EventTimeoutError
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.fixtures.xserver import Xvfb

SIZE: Final = (1280, 800)
ENOUGH: Final = 35.0  # dB; a JPEG of quality 80 whose text is sharp
_DATA: Final = 3  # the stream device's type of a frame
PROPERTIES: Final = ("ActiveSession", "State", "Reason", "AgentPID")

# The terminal counts to a number and then rests, so that the last picture can be compared.
COUNT: Final = """
printf '\\033[1;32mspice-sessiond\\033[0m: the session of %s\\n\\n' "$1"
i=0
while [ $i -lt 60 ]; do
    i=$((i + 1)); printf '\\rline drawn and streamed: %3d of 60 ' $i; sleep 0.04
done
printf '\\n\\nand now nothing moves, so nothing is sent.\\n'
exec sleep infinity
"""


def main() -> int:
    """Run the demo; the exit status is 0 when both pictures are right."""
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument("--keep", action="store_true", help="stay up until ^C, and switch on Enter")
    parser.add_argument("--directory", type=Path, default=Path("demo"))
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    print("logind is a stand-in here, on a bus of its own: this machine's seat is left alone.")
    with contextlib.ExitStack() as stack:
        screens = {}
        colours = {"alice": "steelblue", "bob": "darkolivegreen"}
        for user in colours:
            screens[user] = stack.enter_context(Xvfb(*SIZE)).display
        host = stack.enter_context(SpiceHost(multi=True))
        stage = stack.enter_context(Stage(host.socket_path))
        probe = stack.enter_context(SpiceProbe(host.uri))
        # A user of the machine is needed to run the agents as; the demo has only the one it has.
        me = {"uid": os.getuid(), "gid": os.getgid(), "user": "demo"}
        results = []
        told = 0  # frames
        for number, user in enumerate(screens, 1):
            stage.login1.do(
                "add_session", id=str(number), vt=6 + number, display=screens[user], **me
            )
            probe.wait_for("invalidate")
            _start_programs(stack, screens[user], user, colours[user])
            picture = options.directory / f"{number}-{user}.png"
            results.append(_look(stage, probe, screens[user], picture))
            told = _tell_cost(host, stage, told)
        print("\n$ loginctl activate 1")
        stage.login1.do("switch", id="1")
        picture = options.directory / "3-alice.png"
        results.append(_look(stage, probe, screens["alice"], picture))
        if options.keep:
            _keep(host, stage)
    return 0 if min(results) >= ENOUGH else 1


def _start_programs(stack: contextlib.ExitStack, display: str, user: str, colour: str) -> None:
    environment = os.environ | {"DISPLAY": display}
    font = ("-fa", "DejaVu Sans Mono", "-fs", "10")
    for argv in (
        ("xsetroot", "-solid", colour),
        ("xclock", "-geometry", "220x220+40+40", "-bg", "ivory"),
        ("xterm", "-geometry", "100x30+330+40", *font, "-e", "sh", "-c", COUNT, "sh", user),
    ):
        if not shutil.which(argv[0]):
            sys.exit(f"{argv[0]} is missing: run make setup")
        program = subprocess.Popen(
            [*DIE_WITH_PARENT, *argv], env=environment, stderr=subprocess.DEVNULL
        )
        stack.callback(program.wait)
        stack.callback(program.terminate)


def _look(stage: Stage, probe: SpiceProbe, display: str, path: Path) -> float:
    """Print the status, save the client's picture, return its likeness to the display in dB."""
    with contextlib.suppress(EventTimeoutError):
        while True:  # until the terminal rests and all of it is drawn
            probe.wait_for("invalidate", timeout=2.0)
    print(f"\n$ busctl get-property {BUS_NAME} {MANAGER_PATH} {MANAGER} {' '.join(PROPERTIES)}")
    address = f"--address={stage.bus.address}"
    subprocess.run(
        ["busctl", address, "get-property", BUS_NAME, MANAGER_PATH, MANAGER, *PROPERTIES],
        check=True,
    )
    picture = probe.shot()
    picture.save(path)
    with Canvas(display) as screen:
        likeness = psnr(picture, screen.content())
    print(f"{path}: {likeness:.1f} dB against the X server's own content ({ENOUGH:g} is right)")
    return likeness


def _tell_cost(host: SpiceHost, stage: Stage, told: int) -> int:
    """Print what the new session's agent has sent and used; TOLD frames are of others.

    Returns how many frames there are in all.
    """
    pid = stage.daemon.property("AgentPID")
    frames = [e["size"] for e in host.events if e["event"] == "from-guest" and e["type"] == _DATA]
    frames = frames[told:]
    cpu = sum(
        int((task / "schedstat").read_text(encoding="ascii").split()[0])
        for task in Path(f"/proc/{pid}/task").iterdir()
    )
    size = sum(frames) / len(frames)
    print(
        f"agent {pid}: {len(frames)} frames, {size / 1000:.1f} kB and "
        f"{cpu / len(frames) / 1e6:.2f} ms of CPU a frame, its start included"
    )
    return told + len(frames)


def _keep(host: SpiceHost, stage: Stage) -> None:
    print(f"\nConnect a viewer to {host.uri}, for example: remote-viewer {host.uri}")
    print("Enter switches the session, ^C ends it.", flush=True)
    shown = 1
    with contextlib.suppress(KeyboardInterrupt):
        for _ in sys.stdin:
            shown = 3 - shown
            stage.login1.do("switch", id=str(shown))
            print(f"session {shown}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
