"""What each back-end costs: our capture alone, our agent, and what else shows such a screen.

The same pictures are drawn on an X server and on sway, 30 times a second, and on mutter, 10 times:
whole ones, and ones of which a small part changes.  Of each round the load alone is a slice, and
then each program has one.  The server's or compositor's part is what it needs beyond the load
alone; a compositor that nobody captures may show a window's memory as it is, so the copy that it
then does not spare counts as well.  For KMS the server's part is the helper's, and its card is of
memory files: a real driver's ioctls cost more.
"""

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.bench.cost import Cost, cost, drawing_ms
from tests.bench.plan import Plan
from tests.bench.processes import Child, x_server
from tests.bench.rest import SETTLE
from tests.bench.stage import WARM_UP, Slice
from tests.bench.takers import Screen, Taker, agent, drawn, looked, missing, painting, takers
from tests.bench.usage import Usage, usage
from tests.screens.mutter import Mutter
from tests.screens.sway import Sway

LOADS: Final = ("whole", "small")
AGENT: Final = "agent"
UNWATCHED: Final = "agent, not watched"
CAPTURE: Final = "capture"
_MUTTER_FPS: Final = 10.0  # it draws by OpenGL alone, which is software here
_SETTLE: Final = 2.0  # seconds; what our agent needs is more
_SETTLE_ALONE: Final = 6.0  # of servers, after all that was done before


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """A program on a back-end's screen, while a load runs there."""

    backend: str
    load: str
    program: str
    cost: Cost  # ``server`` is the X server's or the compositor's, and PipeWire's


@dataclasses.dataclass(frozen=True, slots=True)
class Rested:
    """A program on a screen at rest, for ``seconds``: its own, and that of those who serve it.

    What is of a server is beyond what it does without the program.
    """

    backend: str
    program: str
    seconds: float
    frames: int
    ms: float
    wakeups: int
    server_ms: float
    server_wakeups: int
    looks: int = 0  # at a card

    @property
    def look_ms(self) -> float | None:
        """What one look costs that finds nothing, at both ends; None where nobody looks."""
        return (self.ms + self.server_ms) / self.looks if self.looks else None


@dataclasses.dataclass(frozen=True, slots=True)
class ScreensResult:
    """All of it, and which programs there are not."""

    taken: list[Taken]
    rested: list[Rested]
    missing: list[str]

    def cost(self, backend: str, load: str, program: str) -> Cost | None:
        """Return what a program costs on a load."""
        wanted = (backend, load, program)
        found = (it for it in self.taken if (it.backend, it.load, it.program) == wanted)
        return next((it.cost for it in found), None)

    def rest(self, backend: str, program: str) -> Rested | None:
        """Return what a program does at rest."""
        wanted = (backend, program)
        return next((it for it in self.rested if (it.backend, it.program) == wanted), None)


def run_screens(plan: Plan, directory: Path) -> ScreensResult:
    """Measure all back-ends. Raises BenchError, FixtureError."""
    with contextlib.ExitStack() as stack:
        screens = [
            stack.enter_context(make(plan, directory)) for make in (_x11, _sway, _mutter, _kms)
        ]
        taken = [one for load in LOADS for screen in screens for one in _moving(screen, load, plan)]
        rested = _rest(screens, plan)
    return ScreensResult(taken, rested, missing())


@contextlib.contextmanager
def _x11(plan: Plan, directory: Path) -> Iterator[Screen]:
    own = _made(directory / "x11")
    with x_server(*plan.size, own / "xvfb.log") as (server, display):
        yield Screen("x11", display, "x11", display, (server.pid,), {}, own)


@contextlib.contextmanager
def _sway(plan: Plan, directory: Path) -> Iterator[Screen]:
    with Sway(plan.size) as sway:
        path, own = sway.wayland, _made(directory / "wlroots")
        environment = sway.environment | {"WAYLAND_DISPLAY": Path(path).name}
        yield Screen("wlroots", path, "wayland", path, (sway.pid,), environment, own)


@contextlib.contextmanager
def _mutter(plan: Plan, directory: Path) -> Iterator[Screen]:
    with Mutter(plan.size) as mutter:
        pids = (mutter.pid, mutter.pipewire.pid, mutter.wireplumber.pid)
        path, own = mutter.wayland, _made(directory / "mutter")
        display = str(mutter.runtime)
        yield Screen("mutter", display, "wayland", path, pids, mutter.environment, own, _MUTTER_FPS)


@contextlib.contextmanager
def _kms(plan: Plan, directory: Path) -> Iterator[Screen]:
    own, size = _made(directory / "kms"), f"{plan.size[0]}x{plan.size[1]}"
    argv = [sys.executable, "-m", "tests.bench.card", size, str(own)]
    with Child(argv, log=own / "card.log") as card:
        canvas = f"{size}:{card.wait_line()}"
        yield Screen("kms", "", "card", canvas, (card.pid,), {}, own, drawn_on=False)


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def _moving(screen: Screen, load: str, plan: Plan) -> Iterator[Taken]:
    alone: list[Slice] = []
    slices: dict[str, list[Slice]] = {}
    with painting(screen, load) as painter:
        painter.wait_line(60)
        for _ in range(plan.screen_rounds):
            if screen.drawn_on:
                alone.append(_slice(screen, None, plan.screen_seconds))
            for name, take in takers(screen.backend).items():
                with take(screen, plan) as taker:
                    time.sleep(WARM_UP)
                    one = _slice(screen, taker, plan.screen_seconds)
                slices.setdefault(name, []).append(one)
        painter.check_alive()
    drawing = drawing_ms(alone) if alone else 0.0
    for name, found in slices.items():
        yield Taken(screen.backend, load, name, cost(found, drawing))


def _slice(screen: Screen, taker: Taker | None, seconds: float) -> Slice:
    """Measure for SECONDS, with or without somebody who takes the pictures."""
    if taker:
        taker.tally()
    begun, count, before = time.monotonic(), drawn(screen), _served(screen)
    own = usage(taker.pid) if taker else Usage(0, 0)
    time.sleep(seconds)
    own = usage(taker.pid) - own if taker else own
    server, count = _served(screen) - before, drawn(screen) - count
    lasted = time.monotonic() - begun
    frames, size = taker.tally() if taker else (0, 0)
    each = max(1, frames)
    return Slice(
        lasted, count, frames, size // each, own.cpu_ms / each, server.cpu_ms, own.switches
    )


def _rest(screens: list[Screen], plan: Plan) -> list[Rested]:
    """Measure on screens that do not change: our agents at the same time, then each other."""
    with contextlib.ExitStack() as stack:
        for screen in screens:
            stack.enter_context(painting(screen, "static")).wait_line(60)
        with _unwatched(screens[-1], plan) as unwatched:
            time.sleep(_SETTLE_ALONE)
            nobody: list[tuple[Screen, Taker | None]] = [(it, None) for it in screens[:-1]]
            alone = _resting([*nobody, (screens[-1], unwatched)], plan)
        found = [*_rested(UNWATCHED, screens[-1:], alone[-1:], [_NOTHING], plan)]
        with contextlib.ExitStack() as agents:
            ours = [(it, agents.enter_context(agent(it, plan))) for it in screens]
            time.sleep(SETTLE)
            found += _rested(AGENT, screens, _resting(ours, plan), alone, plan)
        for screen, was in zip(screens, alone, strict=True):
            for name, take in takers(screen.backend).items():
                if name not in {AGENT, CAPTURE}:
                    with take(screen, plan) as taker:
                        time.sleep(_SETTLE)
                        used = _resting([(screen, taker)], plan)
                    found += _rested(name, [screen], used, [was], plan)
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class _Resting:
    """What was used and taken at one screen at rest."""

    own: Usage
    server: Usage
    frames: int
    looks: int


_NOTHING: Final = _Resting(Usage(0, 0), Usage(0, 0), 0, 0)


@contextlib.contextmanager
def _unwatched(screen: Screen, plan: Plan) -> Iterator[Taker]:
    """Run our agent to a host that has seen its first picture, and wants no more."""
    with agent(screen, plan) as taker:
        taker.stop()
        yield taker


def _resting(places: Sequence[tuple[Screen, Taker | None]], plan: Plan) -> list[_Resting]:
    """Measure all of them at the same time."""

    def now() -> list[tuple[Usage, Usage]]:
        return [(usage(it.pid) if it else Usage(0, 0), _served(at)) for at, it in places]

    def frames() -> list[int]:
        return [it.tally()[0] if it else 0 for _, it in places]

    def looks() -> list[int]:
        return [looked(at) for at, _ in places]

    frames()
    begun, before = looks(), now()
    time.sleep(plan.screen_rest_seconds)
    return [
        _Resting(own - own_before, server - server_before, count, end - begin)
        for (own, server), (own_before, server_before), end, begin, count in zip(
            now(), before, looks(), begun, frames(), strict=True
        )
    ]


def _rested(
    program: str,
    screens: Sequence[Screen],
    used: Sequence[_Resting],
    alone: Sequence[_Resting],
    plan: Plan,
) -> Iterator[Rested]:
    for screen, one, was in zip(screens, used, alone, strict=True):
        yield Rested(
            backend=screen.backend,
            program=program,
            seconds=plan.screen_rest_seconds,
            frames=one.frames,
            ms=one.own.cpu_ms,
            wakeups=one.own.switches,
            server_ms=(one.server - was.server).cpu_ms,
            server_wakeups=(one.server - was.server).switches,
            looks=one.looks,
        )


def _served(screen: Screen) -> Usage:
    each = [usage(pid) for pid in screen.pids]
    return Usage(sum(one.cpu_ns for one in each), sum(one.switches for one in each))
