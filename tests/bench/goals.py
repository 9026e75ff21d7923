"""The goals, each held against what was measured.  Pure: results come in, rows come out."""

import dataclasses
import statistics
from collections.abc import Iterator
from typing import Final

from tests.bench.codecs import GSTREAMER
from tests.bench.commands import CommandsResult
from tests.bench.daemon import DaemonResult
from tests.bench.host import HostResult
from tests.bench.ptys import PtysResult
from tests.bench.results import Results
from tests.bench.screens import AGENT, CAPTURE, UNWATCHED, ScreensResult
from tests.bench.screens import LOADS as SCREEN_LOADS
from tests.bench.terminals import TerminalsResult

# The X server's and the agent's CPU for a full new frame, times the floor's.
FULL_FRAME: Final = 1.2
BESIDE_PEER: Final = 0.35  # of the other program's
TYPING_MS: Final = 0.8
AGE_MS: Final = 300.0
FPS: Final = 100.0
DELIVERED_MS: Final = {"video": 8.0, "typing": 2.0}
WARM_MS: Final = 50.0
COLD_MS: Final = 400.0
RELAY_MS: Final = 0.4
DAEMON_MB: Final = 32.0
AGENT_MB: Final = 48.0  # and one frame of shared memory
QUERY: Final = 1.5  # times logind's
ROUTED: Final = 4.0  # times qemu-ga's, through two processes instead of one
OWN: Final = 2.0  # likewise, through one
USER_AGENT_MB: Final = 24.0
PASSED: Final = 0.9  # of a plain pipe's speed: what is passed by descriptor is one
BESIDE_SSH: Final = 1.0  # of ssh's speed at the least, and of its time at the most
LISTENER_MB: Final = 8.0
LISTENER_MS: Final = 60.0
HANDOVER_MS: Final = 200.0
CODEC_MS: Final = {"video": 20.0, "typing": 6.0}
CODEC_FPS: Final = 30.0
GOOD_CODECS: Final = ("vp8", "h264")
LINE_MBIT: Final = 2.0  # behind which typing is to be fresh, by the codec chosen
# Above the encoder: what our side of a back-end costs; the compositor's part stands beside it.
CAPTURE_MS: Final = {"wlroots": 0.5, "mutter": 0.7}
LOOK_MS: Final = 1.5  # one that finds nothing: agent and helper
LOOKS: Final = 4.0  # a second, at rest: nobody can be asked to tell of changes
QUERY_LIBRARY: Final = "dbus_fast"  # what the packages bring


@dataclasses.dataclass(frozen=True, slots=True)
class Goal:
    """One row: `value` and `floor` in `unit`, both None where they were not measured.

    `ratio` is value to floor. `limit` says the goal in words; `met` is None without a value.
    """

    name: str
    unit: str
    value: float | None
    floor: float | None
    ratio: float | None
    limit: str
    met: bool | None


def goals(found: Results, size: tuple[int, int]) -> list[Goal]:
    """Return the whole table, also of what was not measured; SIZE is the screen's."""
    frame_mb = size[0] * size[1] * 4 / 1e6
    return [
        *_frames(found),
        *_beside_peer(found),
        *_rest(found),
        *_fresh(found),
        _speed(found),
        *_delivered(found),
        *_daemon(found.daemon, found, frame_mb),
        *_queries(found),
        *_calls(found.host),
        *_user_agent(found.host),
        *_commands(found.commands),
        *_ptys(found.ptys),
        *_terminals(found.terminals),
        *_codecs(found),
        *_lines(found),
        *_screens(found.screens),
        *_looks(found.screens),
    ]


def _at_most(
    name: str, unit: str, value: float | None, limit: float, floor: float | None = None
) -> Goal:
    ratio = value / floor if value is not None and floor else None
    met = None if value is None else value <= limit
    return Goal(name, unit, value, floor, ratio, f"at most {limit:.3g}", met)


def _frames(found: Results) -> Iterator[Goal]:
    for load in ("video", "desktop"):
        one = found.load(load)
        name, limit = f"{load}, agent + X server", f"at most {FULL_FRAME:g} x floor"
        if one is None:
            yield Goal(name, "ms/frame", None, None, None, limit, met=None)
        else:
            met = one.ratio <= FULL_FRAME
            yield Goal(name, "ms/frame", one.agent.total, one.floor.total, one.ratio, limit, met)
    typing = found.load("typing")
    value = typing.agent.total if typing else None
    floor = typing.part.total if typing and typing.part else None
    yield _at_most("typing, agent + X server", "ms/frame", value, TYPING_MS, floor)


def _beside_peer(found: Results) -> Iterator[Goal]:
    for load in ("video", "desktop"):
        one = next((each for each in found.versus if each.load == load), None)
        yield _at_most(
            f"{load}, times the other program", "x", one.ratio if one else None, BESIDE_PEER
        )


def _rest(found: Results) -> Iterator[Goal]:
    rest = found.rest
    seconds = f"{rest.seconds:g} s" if rest else "60 s"
    yield _at_most(f"static {seconds}, frames", "", rest.frames if rest else None, 0)
    yield _at_most(f"static {seconds}, agent", "wake-ups", rest.agent_wakeups if rest else None, 0)
    on_top = rest.server_wakeups - rest.alone_server_wakeups if rest else None
    yield _at_most(f"static {seconds}, X server on top", "wake-ups", on_top, 0)
    daemon = found.daemon
    seconds = f"{daemon.idle_seconds:g} s" if daemon else "60 s"
    for name, value in (
        ("daemon", daemon.idle_daemon if daemon else None),
        ("its agents", daemon.idle_agents if daemon else None),
    ):
        yield _at_most(f"static {seconds}, {name}", "wake-ups", value, 0)


def _fresh(found: Results) -> Iterator[Goal]:
    for one in found.fresh:
        name = f"age behind 10 Mbit/s, {one.bytes / 1e3:.0f} kB"
        yield _at_most(name, "ms", one.median_ms, AGE_MS, one.line_ms)
    if not found.fresh:
        yield _at_most("age behind 10 Mbit/s", "ms", None, AGE_MS)


def _speed(found: Results) -> Goal:
    speed = found.speed
    name, limit = "full-screen video, host keeps up", f"at least {FPS:g}"
    if speed is None:
        return Goal(name, "frames/s", None, None, None, limit, met=None)
    # The agent can be asked for no more than the goal, so a beat missed at the edge is not held
    # against it.
    met = round(speed.fps) >= FPS
    ratio = speed.fps / speed.floor_fps
    return Goal(name, "frames/s", speed.fps, speed.floor_fps, ratio, limit, met)


def _delivered(found: Results) -> Iterator[Goal]:
    for load, limit in DELIVERED_MS.items():
        one = found.load(load)
        floor = (one.part or one.floor).program if one else None
        value = one.age_drawn_ms if one else None
        yield _at_most(f"damage to last byte, {load}", "ms", value, limit, floor)


def _daemon(daemon: DaemonResult | None, found: Results, frame_mb: float) -> Iterator[Goal]:
    desktop = found.load("desktop")
    floor = desktop.floor.program if desktop else None
    warm, cold = (daemon.warm_ms, daemon.cold_ms) if daemon else (None, None)
    yield _at_most("VT switch, warm agent", "ms", _median(warm), WARM_MS, floor)
    yield _at_most("VT switch, cold agent", "ms", _median(cold), COLD_MS)
    relayed = daemon.relayed if daemon else None
    value, plain = (relayed.ms, relayed.plain_ms) if relayed else (None, None)
    yield _at_most("relay, daemon", "ms/frame", value, RELAY_MS, plain)
    peak = daemon.daemon.peak if daemon else None
    yield _at_most("memory, daemon", "MB", peak, DAEMON_MB)
    peak = daemon.agent.peak if daemon else None
    yield _at_most("memory, agent", "MB", peak, AGENT_MB + frame_mb)


def _queries(found: Results) -> Iterator[Goal]:
    one = next((each for each in found.answers if each.served_by == QUERY_LIBRARY), None)
    for name, value, floor in (
        ("Get ActiveSession", one.get if one else None, one.get_logind if one else None),
        ("ListSessions", one.list if one else None, one.list_logind if one else None),
    ):
        ratio = value / floor if value is not None and floor else None
        met = None if ratio is None else ratio <= QUERY
        limit = f"at most {QUERY:g} x logind"
        yield Goal(f"query, {name}", "us", value, floor, ratio, limit, met)


def _calls(host: HostResult | None) -> Iterator[Goal]:
    own, routed = "guest-ping, daemon", "guest-ping, user's agent"
    if host is None:
        for name, times in ((own, OWN), (routed, ROUTED), (f"{routed}, at once", ROUTED)):
            yield Goal(name, "us", None, None, None, _to_qemu_ga(times), met=None)
        return
    theirs = host.qemu_ga
    for name, times, one, ratio in (
        (own, OWN, host.daemon, host.daemon_ratios.latency),
        (routed, ROUTED, host.agent, host.agent_ratios.latency),
    ):
        limit, met = _to_qemu_ga(times), ratio <= times
        yield Goal(name, "us", one.median_us, theirs.median_us, ratio, limit, met)
    value, floor = (1e6 / each.pipelined_per_second for each in (host.agent, theirs))
    ratio = host.agent_ratios.pipelined_time
    limit, met = _to_qemu_ga(ROUTED), ratio <= ROUTED
    yield Goal(f"{routed}, at once", "us", value, floor, ratio, limit, met)


def _to_qemu_ga(times: float) -> str:
    return f"at most {times:g} x qemu-ga"


def _user_agent(host: HostResult | None) -> Iterator[Goal]:
    seconds = f"{host.rest_seconds:g} s" if host else "60 s"
    for name, value in (
        ("user's agent", host.idle_agent if host else None),
        ("daemon with one", host.idle_daemon if host else None),
    ):
        yield _at_most(f"static {seconds}, {name}", "wake-ups", value, 0)
    yield _at_most(
        "memory, user's agent (PSS)", "MB", host.held.pss if host else None, USER_AGENT_MB
    )


def _commands(found: CommandsResult | None) -> Iterator[Goal]:
    for way, floor, least in (("exec", "pipe", PASSED), ("qrexec", "ssh", BESIDE_SSH)):
        for stream in ("stdin", "stdout"):
            name, limit = f"{stream} by {way}", f"at least {least:g} x {floor}"
            if found is None:
                yield Goal(name, "MB/s", None, None, None, limit, met=None)
                continue
            ours, theirs = (getattr(found.ways[it], f"{stream}_mb_s") for it in (way, floor))
            ratio = getattr(found.ratios(way, floor), stream)
            yield Goal(name, "MB/s", ours, theirs, ratio, limit, ratio >= least)
    for way in ("exec", "qrexec"):
        name, limit = f"start by {way}", f"at most {BESIDE_SSH:g} x ssh"
        if found is None:
            yield Goal(name, "ms", None, None, None, limit, met=None)
            continue
        ratio = found.ratios(way, "ssh").start
        ours, theirs = (found.ways[it].start_ms for it in (way, "ssh"))
        yield Goal(name, "ms", ours, theirs, ratio, limit, ratio <= BESIDE_SSH)
    seconds = f"{found.rest_seconds:g} s" if found else "60 s"
    for who in ("commands", "user's agent", "daemon"):
        value = found.idle[who] if found else None
        yield _at_most(f"two commands wait {seconds}, {who}", "wake-ups", value, 0)


def _ptys(found: PtysResult | None) -> Iterator[Goal]:
    most, least = f"at most {BESIDE_SSH:g} x ssh -tt", f"at least {BESIDE_SSH:g} x ssh -tt"
    names = (("prompt", "ms", most), ("echo of a key", "us", most), ("lines", "MB/s", least))
    if found is None:
        for name, unit, limit in names:
            yield Goal(f"{name}, exec --pty", unit, None, None, None, limit, met=None)
        return
    ratios, ours, theirs = found.ratios("exec"), found.ways["exec"], found.ways["ssh"]
    numbers = (
        (ours.start_ms, theirs.start_ms, ratios.start, ratios.start <= BESIDE_SSH),
        (ours.key_us, theirs.key_us, ratios.key, ratios.key <= BESIDE_SSH),
        (ours.mb_s, theirs.mb_s, ratios.lines, ratios.lines >= BESIDE_SSH),
    )
    for (name, unit, limit), (value, floor, ratio, met) in zip(names, numbers, strict=True):
        yield Goal(f"{name}, exec --pty", unit, value, floor, ratio, limit, met)


def _terminals(found: TerminalsResult | None) -> Iterator[Goal]:
    handover = found.handover_ms if found else None
    yield _at_most("hand-over of a terminal", "ms", handover, HANDOVER_MS)
    start = found.start_ms if found else None
    yield _at_most("start of a resize listener", "ms", start, LISTENER_MS)
    held = found.held.private if found else None
    yield _at_most("memory, resize listener (its own)", "MB", held, LISTENER_MB)
    seconds = f"{found.rest_seconds:g} s" if found else "60 s"
    woken = found.idle if found else None
    yield _at_most(f"static {seconds}, resize listener", "wake-ups", woken, 0)


def _codecs(found: Results) -> Iterator[Goal]:
    for codec in GOOD_CODECS:
        for load, limit in CODEC_MS.items():
            one, floor = found.coded(codec, load), found.coded(GSTREAMER, load)
            yield _at_most(
                f"{load} by {codec}, conversion and encoding", "ms/frame",
                one.encoding_ms if one else None, limit, floor.cost.program if floor else None,
            )  # fmt: skip
        one = found.coded(codec, "video")
        value = one.cost.fps if one else None
        met = None if value is None else round(value) >= CODEC_FPS
        name, limit_text = f"video by {codec}", f"at least {CODEC_FPS:g}"
        yield Goal(name, "frames/s", value, None, None, limit_text, met)


def _lines(found: Results) -> Iterator[Goal]:
    behind = f"behind {LINE_MBIT:g} Mbit/s, typing"
    one = found.behind("auto", LINE_MBIT)
    yield _at_most(f"age {behind}", "ms", one.median_ms if one else None, AGE_MS)
    fps, drawn = (one.fps, one.drawn_fps) if one else (None, None)
    met = None if fps is None else round(fps) >= CODEC_FPS
    ratio = fps / drawn if fps is not None and drawn else None
    limit = f"at least {CODEC_FPS:g}"
    yield Goal(f"pictures {behind}", "frames/s", fps, drawn, ratio, limit, met)


def _screens(found: ScreensResult | None) -> Iterator[Goal]:
    for backend, limit in CAPTURE_MS.items():
        for load in SCREEN_LOADS:
            one = found.cost(backend, load, CAPTURE) if found else None
            x11 = found.cost("x11", load, CAPTURE) if found else None
            name = f"capture by {backend}, {load}"
            value, floor = (it.program if it else None for it in (one, x11))
            yield _at_most(name, "ms/frame", value, limit, floor)
    for backend in CAPTURE_MS:
        rest = found.rest(backend, AGENT) if found else None
        seconds = f"{rest.seconds:g} s" if rest else "60 s"
        for what, count in (
            ("frames", rest.frames if rest else None),
            ("wake-ups", rest.wakeups if rest else None),
        ):
            yield _at_most(f"static {seconds}, agent by {backend}, {what}", "", count, 0)


def _looks(found: ScreensResult | None) -> Iterator[Goal]:
    rest = found.rest("kms", AGENT) if found else None
    unwatched = found.rest("kms", UNWATCHED) if found else None
    yield _at_most("a look by kms, agent + helper", "ms", rest.look_ms if rest else None, LOOK_MS)
    seconds = f"static {rest.seconds if rest else 60:g} s, agent by kms"
    yield _at_most(f"{seconds}, frames", "", rest.frames if rest else None, 0)
    rate = rest.looks / rest.seconds if rest else None
    yield _at_most(f"{seconds}, looks", "1/s", rate, LOOKS)
    value = unwatched.wakeups + unwatched.server_wakeups if unwatched else None
    yield _at_most(f"{seconds}, not watched", "wake-ups", value, 0)


def _median(values: list[float] | None) -> float | None:
    return statistics.median(values) if values else None
