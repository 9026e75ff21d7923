"""What the daemon costs and how quick it is: switches, idling, relaying, memory.

Its port is `tests.bench.peer`, which sees when each frame has come.

A switch is timed from just before the stand-in login1 is told to signal it to the last byte of the
other session's first frame in the port; its agent waits (warm) or is yet to start (cold).  Idle
counts how often the threads of daemon and agents went to sleep or were interrupted while nothing
moved and a client was asking.  Relaying is the daemon's CPU for each frame of the load 'desktop'.
"""

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.bench.plain import plain_relay_ms
from tests.bench.plan import Plan
from tests.bench.processes import BenchError, Load, Peer, x_server
from tests.bench.seat import Seat, new_session, seat
from tests.bench.usage import Memory, cpu_ns, memory, wakeups

ASKED: Final = 1000  # questions a second
ANSWERED: Final = 5.0  # seconds after which the last question has its answer
SETTLE: Final = 2.0  # seconds until a start has left no trace
AT_REST: Final = 9.0  # seconds until an agent has sent the last picture as often as it does
REST: Final = 0.1  # seconds between two switches


@dataclasses.dataclass(frozen=True, slots=True)
class Relayed:
    """How frames pass the daemon."""

    ms: float  # the daemon's CPU a frame
    plain_ms: float  # that of a relay that does nothing else
    ratio: float  # of the two, in the same round
    fps: float
    asked_fps: float | None  # while it is asked ASKED questions a second
    bytes: float  # of a frame


@dataclasses.dataclass(frozen=True, slots=True)
class DaemonResult:
    """All that was measured."""

    warm_ms: list[float]
    cold_ms: list[float]
    idle_seconds: float
    idle_daemon: int  # wake-ups
    idle_agents: int
    relayed: Relayed
    daemon: Memory
    agent: Memory


def run_daemon(plan: Plan, directory: Path) -> DaemonResult:
    """Everything, one after the other, on a daemon with two X servers."""
    with contextlib.ExitStack() as stack:
        folders = [directory / f"screen-{number}" for number in range(2)]
        displays = []
        for folder in folders:  # of their own: a load's record is named for the load alone
            folder.mkdir()
            _, display = stack.enter_context(x_server(*plan.size, folder / "xvfb.log"))
            displays.append(display)
        port = directory / "daemon-port"
        peer = stack.enter_context(Peer(port, log=directory / "daemon-peer.log"))
        place = stack.enter_context(seat(port, plan))
        with contextlib.ExitStack() as resting:
            for folder, display in zip(folders, displays, strict=True):
                resting.enter_context(Load("static", display, plan.fps, folder))
            warm, cold = _switches(peer, place, displays, plan)
            idle = _idle(place, plan.rest_seconds)
        with Load("desktop", displays[0], plan.fps, folders[0]):
            relayed = _relay(peer, place, plan)
        held = [memory(pid) for pid in place.agents()]
        return DaemonResult(
            warm, cold, plan.rest_seconds, *idle, relayed,
            memory(place.daemon.pid), max(held, key=lambda one: one.peak),
        )  # fmt: skip


def _first_frame_ms(peer: Peer, place: Seat, action: str, **arguments: object) -> float:
    """Play a change of session; return the milliseconds to the first frame after a new FORMAT."""
    peer.ask("next")
    begun = time.monotonic_ns()
    place.login1.do(action, **arguments)
    milliseconds = (float(json.loads(peer.wait_line())["ns"]) - begun) / 1e6
    time.sleep(REST)
    return milliseconds


def _switches(
    peer: Peer, place: Seat, displays: Sequence[str], plan: Plan
) -> tuple[list[float], list[float]]:
    """Switch between two sessions that are there, then to sessions that are new."""
    one, other = displays
    place.add("1", one, vt=7, front=True)
    peer.ask("first")
    place.add("2", other, vt=8, front=False)
    _first_frame_ms(peer, place, "switch", id="2")  # its agent starts
    time.sleep(SETTLE)
    warm = [
        _first_frame_ms(peer, place, "switch", id="1" if number % 2 == 0 else "2")
        for number in range(2 * (plan.warm // 2))
    ]
    cold = []
    before = "2"
    for number in range(plan.cold):
        _first_frame_ms(peer, place, "switch", id="1")
        place.login1.do("remove_session", id=before)
        time.sleep(SETTLE / 4)  # its agent ends
        before = f"c{number}"
        cold.append(_first_frame_ms(peer, place, "add_session", **new_session(before, other, 8)))
    _first_frame_ms(peer, place, "switch", id="1")
    return warm, cold


def _idle(place: Seat, seconds: float) -> tuple[int, int]:
    """Return the wake-ups of the daemon and of its agents, nothing moving."""
    time.sleep(AT_REST)
    pids = [place.daemon.pid, *place.agents()]
    before = [wakeups(pid) for pid in pids]
    time.sleep(seconds)
    daemon, *agents = (wakeups(pid) - was for pid, was in zip(pids, before, strict=True))
    return daemon, sum(agents)


def _relay(peer: Peer, place: Seat, plan: Plan) -> Relayed:
    """Measure on the load that runs: the daemon and a plain relay in turn, then with questions."""
    seconds = plan.relay_seconds / plan.rounds
    time.sleep(SETTLE / 2)
    ours, plain, sizes = [], [], list[int]()
    for _ in range(plan.rounds):
        peer.ask("mark")
        before = cpu_ns(place.daemon.pid)
        time.sleep(seconds)
        used = cpu_ns(place.daemon.pid) - before
        came = peer.ask("mark")["sizes"]
        if not came:
            raise BenchError("the daemon relayed nothing")
        sizes += came
        ours.append(used / 1e6 / len(came))
        plain.append(plain_relay_ms(int(statistics.mean(came)), plan.fps, seconds))
    return Relayed(
        ms=statistics.median(ours),
        plain_ms=statistics.median(plain),
        ratio=statistics.median(one / other for one, other in zip(ours, plain, strict=True)),
        fps=len(sizes) / plan.relay_seconds,
        asked_fps=_asked(peer, place, plan.relay_seconds) if plan.asks else None,
        bytes=statistics.mean(sizes),
    )


def _asked(peer: Peer, place: Seat, seconds: float) -> float | None:
    """Return how many frames come in a second while somebody asks ASKED questions a second.

    None when the machine is too busy for that: the daemon refuses what it cannot keep up with.
    """
    count = int(ASKED * seconds)
    asker = subprocess.Popen(
        [sys.executable, "-m", "tests.fixtures.asker", place.address, str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a complaint for each question that was refused
    )
    peer.ask("mark")
    time.sleep(seconds)
    frames = peer.ask("mark")["frames"]
    try:
        asker.communicate(timeout=ANSWERED)
    except subprocess.TimeoutExpired:
        return None  # it waits for all answers
    finally:
        asker.kill()
        asker.wait()
    return float(frames / seconds)
