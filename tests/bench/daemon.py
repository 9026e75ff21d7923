"""What the daemon costs and how quick it is, beside its goals.

The daemon runs as in its tests, on a private bus with a stand-in login1, but without debug
messages. Its port is `tests.bench.peer`, which sees when each frame has come; only behind the slow
line it is a real SPICE server with a real client. What each figure is says `EXPLAINED`, which is
printed below them.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.bench.measure import BenchError, Load, Peer, cpu_ns, family, status_fields, x_server
from tests.fixtures.bus import PrivateBus
from tests.fixtures.child import Child
from tests.fixtures.daemon import Login1Process
from tests.fixtures.drawing import Canvas, number_of
from tests.fixtures.newest import CountingScreen, Freshness, arrivals, freshness
from tests.fixtures.relay import STREAM_DATA, Relay
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.fixtures.xserver import Xvfb

# Milliseconds, wake-ups and megabytes; a frame is one more where shared memory is counted.
GOAL_WARM: Final = 50.0
GOAL_COLD: Final = 400.0
GOAL_RELAY: Final = 0.4
GOAL_IDLE: Final = 0.0
GOAL_DAEMON: Final = 32.0
GOAL_AGENT: Final = 48.0
GOAL_AGE: Final = 300.0

EXPLAINED: Final = """\
switch    from just before the stand-in login1 is told to signal it to the last byte of the other
          session's first frame in the port; its agent waits (warm) or is yet to start (cold)
relay     the daemon's CPU, user + system, for each frame of the load 'desktop' in the port
idle      how often the threads of daemon and agents went to sleep or were interrupted while
          nothing moved, and a client was asking
memory    resident at the most, under 'desktop', and what of it is nobody else's now; the agent's
          goal has one frame of shared memory in it
fresh     behind 10 Mbit/s, a real server and a real client: age of a picture when its last byte
          comes to the client, and (taken) already when the server has read it from the port. The
          rest of its way, through server and kernel, the guest does not see: one frame queued, one
          under way, and a send buffer, here of 64 KiB (see tests/fixtures/newest.py)"""

ASKED: Final = 1000  # questions a second
SETTLE: Final = 2.0  # seconds until a start has left no trace
REST: Final = 0.1  # seconds between two switches
SEND_BUFFER: Final = 64 << 10  # bytes
SLOW: Final = 1.25e6  # bytes/s
LEARNED: Final = 100  # the number on the screen, 23 a second, up to which the rate is learned
MEASURED: Final = 100  # more numbers


@dataclasses.dataclass(frozen=True, slots=True)
class DaemonPlan:
    """What to run, and for how long."""

    command: tuple[str, ...]  # the agent's
    size: tuple[int, int]
    fps: float
    warm: int  # switches
    cold: int
    seconds: float  # of relaying
    idle_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """Megabytes (10^6): resident at the most, and private as of now."""

    peak: float
    private: float


@dataclasses.dataclass(frozen=True, slots=True)
class DaemonResult:
    """All that was measured."""

    warm_ms: list[float]
    cold_ms: list[float]
    relay_ms: float
    relayed: int  # frames
    relay_seconds: float
    asked: int  # frames in as long, while questions were asked
    frame_bytes: float
    idle_seconds: float
    idle_daemon: int  # wake-ups
    idle_agents: int
    daemon: Held
    agent: Held
    frame_mb: float  # of the screen, as the X server has it
    fresh: list[Freshness]
    load: str = "daemon"


# ---------------------------------------------------------------- around the daemon


class QuietDaemon(Child):
    """``python -m sessiond`` with its default log, which tells no single message."""

    def __init__(self, bus: PrivateBus, port: Path, command: Sequence[str], fps: float) -> None:
        settings = (
            f'bus.address="{bus.address}"',
            f'stream.port="{port}"',
            f"stream.agent={json.dumps(command)}",
            f'stream.codec_options=["framerate={fps:g}"]',
            # What else goes on on this machine is not to wake it: X servers that start and end,
            # and the VTs, where the stand-in login1 has none.
            f'displays.sockets="{port.parent}"',
            'vt.active="/dev/null"',
            f'helper.socket="@spice-bench-{os.getpid()}"',
        )
        args = [part for setting in settings for part in ("--set", setting)]
        super().__init__([sys.executable, "-m", "sessiond", *args])


class Seat:
    """A daemon and its login1; sessions are its own user's."""

    def __init__(self, daemon: QuietDaemon, login1: Login1Process, address: str) -> None:
        self.daemon = daemon
        self.login1 = login1
        self.address = address

    def add(self, name: str, display: str, *, vt: int, front: bool) -> None:
        """Log in."""
        me = {"uid": os.getuid(), "gid": os.getgid(), "user": "bench"}
        self.login1.do("add_session", id=name, display=display, vt=vt, front=front, **me)

    def agents(self) -> list[int]:
        """Return the agents' pids."""
        return [pid for pid in family(self.daemon.pid) if pid != self.daemon.pid]


@contextlib.contextmanager
def seat(port: Path, plan: DaemonPlan) -> Iterator[Seat]:
    """Start a daemon that has PORT open."""
    with (
        PrivateBus() as bus,
        Login1Process(bus) as login1,
        QuietDaemon(bus, port, plan.command, plan.fps) as daemon,
    ):
        daemon.wait_line("is open")
        yield Seat(daemon, login1, bus.address)


# ---------------------------------------------------------------- measuring


def wakeups(pid: int) -> int:
    """Return how often the threads of a process have gone to sleep or were interrupted so far."""
    names = ("voluntary_ctxt_switches", "nonvoluntary_ctxt_switches")
    fields = [status_fields(task) for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(each[name] for each in fields for name in names)


def held(pid: int) -> Held:
    """Return what a process holds."""
    private = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_"):
            private += int(line.split()[1])
    return Held(status_fields(Path(f"/proc/{pid}"))["VmHWM"] * 1024 / 1e6, private * 1024 / 1e6)


def first_frame_ms(peer: Peer, place: Seat, action: str, **arguments: object) -> float:
    """Play a change of session; return the milliseconds to the first frame after a new FORMAT."""
    peer.ask("next")
    begun = time.monotonic_ns()
    place.login1.do(action, **arguments)
    milliseconds = (float(json.loads(peer.wait_line())["ns"]) - begun) / 1e6
    time.sleep(REST)
    return milliseconds


def run_switches(
    peer: Peer, place: Seat, displays: Sequence[str], plan: DaemonPlan
) -> tuple[list[float], list[float]]:
    """Switch between two sessions that are there, then to sessions that are new."""
    one, other = displays
    place.add("1", one, vt=7, front=True)
    peer.ask("first")
    place.add("2", other, vt=8, front=False)
    first_frame_ms(peer, place, "switch", id="2")  # its agent starts
    time.sleep(SETTLE)
    warm = [
        first_frame_ms(peer, place, "switch", id="1" if number % 2 == 0 else "2")
        for number in range(2 * (plan.warm // 2))
    ]
    cold = []
    me = {"uid": os.getuid(), "gid": os.getgid(), "user": "bench"}
    before = "2"
    for number in range(plan.cold):
        first_frame_ms(peer, place, "switch", id="1")
        place.login1.do("remove_session", id=before)
        time.sleep(SETTLE / 4)  # its agent ends
        before = f"c{number}"
        new = {"id": before, "display": other, "vt": 8, **me}
        cold.append(first_frame_ms(peer, place, "add_session", **new))
    first_frame_ms(peer, place, "switch", id="1")
    return warm, cold


def run_idle(place: Seat, seconds: float) -> tuple[int, int]:
    """Return the wake-ups of the daemon and of its agents, nothing moving."""
    time.sleep(SETTLE)
    pids = [place.daemon.pid, *place.agents()]
    before = [wakeups(pid) for pid in pids]
    time.sleep(seconds)
    daemon, *agents = (wakeups(pid) - was for pid, was in zip(pids, before, strict=True))
    return daemon, sum(agents)


def run_relay(peer: Peer, place: Seat, seconds: float) -> tuple[float, int, float]:
    """Return the daemon's CPU ms a frame, how many frames, and their bytes."""
    time.sleep(SETTLE / 2)
    peer.ask("mark")
    before = cpu_ns(place.daemon.pid)
    time.sleep(seconds)
    used = cpu_ns(place.daemon.pid) - before
    tally = peer.ask("mark")
    frames = tally["frames"]
    return used / 1e6 / max(1, frames), frames, statistics.mean(tally["sizes"] or [0])


def run_asked(peer: Peer, place: Seat, seconds: float) -> int:
    """Return how many frames come while somebody asks ASKED questions a second."""
    count = int(ASKED * seconds)
    asker = subprocess.Popen(
        [sys.executable, "-m", "tests.fixtures.asker", place.address, str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )
    peer.ask("mark")
    time.sleep(seconds)
    frames = peer.ask("mark")["frames"]
    answered, _ = asker.communicate(timeout=60)
    if int(answered) != count:
        raise BenchError(f"{answered} of {count} questions were answered")
    return int(frames)


def run_fresh(plan: DaemonPlan, size: tuple[int, int], noise: float) -> Freshness:
    """Measure the age of pictures behind the slow line."""
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
    return freshness([one for one in seen if LEARNED <= one.number <= LEARNED + MEASURED])


def run_daemon(plan: DaemonPlan, directory: Path) -> DaemonResult:
    """Everything, one after the other."""
    port = directory / "daemon-port"
    with contextlib.ExitStack() as stack:
        displays = []
        for number in range(2):
            own = directory / f"screen-{number}"  # a load's record is named for the load alone
            own.mkdir()
            _, display = stack.enter_context(x_server(*plan.size, own / "xvfb.log"))
            displays.append(display)
        peer = stack.enter_context(Peer(port, log=directory / "daemon-peer.log"))
        place = stack.enter_context(seat(port, plan))
        with contextlib.ExitStack() as resting:
            for number, display in enumerate(displays):
                own = directory / f"screen-{number}"
                resting.enter_context(Load("static", display, plan.fps, own))
            warm, cold = run_switches(peer, place, displays, plan)
            idle = run_idle(place, plan.idle_seconds)
        with Load("desktop", displays[0], plan.fps, directory / "screen-0"):
            relay_ms, relayed, size = run_relay(peer, place, plan.seconds)
            asked = run_asked(peer, place, plan.seconds)
        daemon, agent = held(place.daemon.pid), max(map(held, place.agents()), key=_peak)
    width, height = plan.size
    return DaemonResult(
        warm, cold, relay_ms, relayed, plan.seconds, asked, size,
        plan.idle_seconds, *idle, daemon, agent,
        frame_mb=width * height * 4 / 1e6,
        # Frames of 80 kB, and of 250 kB as a full desktop has them.
        fresh=[run_fresh(plan, (640, 480), 12), run_fresh(plan, (1920, 1080), 5)],
    )  # fmt: skip


def _peak(one: Held) -> float:
    return one.peak


# ---------------------------------------------------------------- showing


def _row(name: str, value: float, worst: float | None, goal: float, unit: str) -> str:
    verdict = "met" if value <= goal else "MISSED"
    beside = "" if worst is None else f"{worst:.4g}"
    return f"{name:<34}{value:>9.4g}{beside:>9}{goal:>9.4g}  {unit:<9}{verdict}"


def show_daemon(one: DaemonResult) -> str:
    """Show all figures with their goals; the goal is held against the median where there is one."""
    lines = [
        f"{'daemon':<34}{'median':>9}{'worst':>9}{'goal':>9}",
        _row("switch, warm agent", *_spread(one.warm_ms), GOAL_WARM, "ms"),
        _row("switch, cold agent", *_spread(one.cold_ms), GOAL_COLD, "ms"),
        _row("relay", one.relay_ms, None, GOAL_RELAY, "ms/frame"),
        _row("idle, daemon", one.idle_daemon, None, GOAL_IDLE, "wake-ups"),
        _row("idle, agents", one.idle_agents, None, GOAL_IDLE, "wake-ups"),
        _row("memory, daemon", one.daemon.peak, None, GOAL_DAEMON, "MB"),
        _row("memory, agent", one.agent.peak, None, GOAL_AGENT + one.frame_mb, "MB"),
    ]
    for fresh in one.fresh:
        age = (1e3 * fresh.median, 1e3 * fresh.worst)
        lines.append(_row(f"fresh, {fresh.size / 1e3:.0f} kB a frame", *age, GOAL_AGE, "ms"))
    counts = f"{len(one.warm_ms)} warm and {len(one.cold_ms)} cold switches"
    rate = one.relayed / one.relay_seconds
    relayed = (
        f"{rate:.1f} frames/s of {one.frame_bytes / 1e3:.0f} kB relayed, and "
        f"{one.asked / one.relay_seconds:.1f} while {ASKED} questions a second were asked"
    )
    private = (
        f"private memory: daemon {one.daemon.private:.1f} MB, agent {one.agent.private:.1f} MB"
    )
    notes = [f"{counts}; {relayed}; idle for {one.idle_seconds:g} s", private]
    notes += [
        f"fresh, {fresh.size / 1e3:.0f} kB: taken at {1e3 * fresh.taken:.0f} ms, "
        f"{fresh.frames / _span(fresh):.1f} frames/s, at most {1e3 * fresh.longest:.0f} ms apart, "
        f"line {fresh.rate / SLOW:.0%} full"
        for fresh in one.fresh
    ]
    return "\n".join([*lines, "", *notes, "", EXPLAINED])


def _spread(values: list[float]) -> tuple[float, float]:
    return statistics.median(values), max(values)


def _span(one: Freshness) -> float:
    return one.frames * one.size / one.rate
