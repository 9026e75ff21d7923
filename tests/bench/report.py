"""The results as tables, and as JSON."""

import dataclasses
import json
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from sessiond.wire.device import Codec
from tests.bench.cost import Cost
from tests.bench.goals import Goal
from tests.bench.host import WINDOW
from tests.bench.plan import Plan
from tests.bench.results import Results
from tests.bench.screens import Rested, ScreensResult

WIDTH: Final = 110  # columns where there is no terminal
_COST: Final = ["frames/s", "program", "X on top", "sum", "bytes", "wake-ups"]
_SCREENS: Final = [
    "load, back-end, program", "frames/s", "program", "server", "sum", "bytes", "wake-ups",
]  # fmt: skip
_PTYS: Final = {"exec": "exec --pty", "ssh": "ssh -tt"}
_GOAL: Final = ["measure", "measured", "floor", "ratio", "goal", "unit", ""]


def show(found: Results, rows: Sequence[Goal], facts: dict[str, str | int]) -> None:
    """Print everything, the goals last."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    parts: list[RenderableType] = [", ".join(f"{name} {value}" for name, value in facts.items())]
    if found.moving:
        parts += [_frames(found), *_notes(found)]
    if found.shares:
        parts.append(_shares(found))
    if found.versus:
        parts.append(_versus(found))
    if found.codecs:
        parts.append(_codecs(found))
    if found.lines:
        parts.append(_behind(found))
    if found.screens:
        parts += _screens(found.screens)
    parts += [*_daemon(found), *_lines(found), *_host(found), *_commands(found)]
    parts += _terminals(found)
    parts.append(_goals(rows))
    parts += [f"{name}: not measured, for it needs {why}" for name, why in found.missing.items()]
    console.print(*parts, sep="\n\n")


def write(
    path: Path, plan: Plan, found: Results, rows: Iterable[Goal], facts: dict[str, str | int]
) -> None:
    """Write all numbers to a JSON file: machine, plan, goals, results."""
    everything = {
        "machine": facts,
        "plan": dataclasses.asdict(plan),
        "goals": [dataclasses.asdict(row) for row in rows],
        "results": dataclasses.asdict(found),
    }
    path.write_text(json.dumps(everything, indent=1) + "\n")


def markdown(rows: Iterable[Goal]) -> str:
    """Return the goals as docs/performance.md has them."""
    lines = [_GOAL, ["---", *["---:"] * 3, *["---"] * 3], *map(_goal, rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _table(title: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Lay out columns: words to the left in the first, numbers to the right in the others."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for at, name in enumerate(names):
        table.add_column(name, justify="right" if at else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _goals(rows: Sequence[Goal]) -> Table:
    return _table("The goals", _GOAL, map(_goal, rows))


def _goal(row: Goal) -> list[str]:
    verdict = {None: "not run", True: "met", False: "MISSED"}[row.met]
    numbers = [_number(row.value), _number(row.floor), _number(row.ratio, ".2f")]
    return [row.name, *numbers, row.limit, row.unit, verdict]


def _number(value: float | None, form: str = ".4g") -> str:
    return "" if value is None else format(value, form)


def _cost(name: str, one: Cost) -> list[str]:
    return [
        name, f"{one.fps:.1f}", f"{one.program:.2f}", f"{one.server:.2f}", f"{one.total:.2f}",
        str(one.bytes), f"{one.wakeups:.1f}",
    ]  # fmt: skip


def _frames(found: Results) -> Table:
    rows = []
    for one in found.moving:
        floors = [("floor", one.floor), ("floor of what changed", one.part)]
        for name, cost in (*floors, ("agent", one.agent)):
            if cost is not None:
                ratio = f"{one.agent.total / cost.total:.2f}" if cost is not one.agent else ""
                rows.append([*_cost(f"{one.load}, {name}", cost), ratio])
    names = ["load", *_COST, "agent to it"]
    return _table("CPU milliseconds a frame, medians", names, rows)


def _notes(found: Results) -> Iterator[str]:
    for one in found.moving:
        yield (
            f"{one.load}: newest picture {one.picture_fault or 'right'}; first frame "
            f"{one.first_ms:.0f} ms after START; drawing {one.drawing_ms:.2f} ms a frame; "
            f"peak {one.memory.peak:.1f} MB, {one.memory.private:.1f} its own; in 1 s after STOP "
            f"{one.after_stop} messages, {one.after_stop_ms:.1f} ms"
        )


def _shares(found: Results) -> Table:
    return _table(
        "CPU milliseconds a frame, by the share of the screen that changes",
        ["share", "agent + X", "floor of what changed", "floor of a whole frame", "bytes"],
        [
            [
                f"{100 * one.share:g} %", f"{one.agent_ms:.2f}", f"{one.part_ms:.2f}",
                f"{one.whole_ms:.2f}", str(one.bytes),
            ]
            for one in found.shares
        ],
    )  # fmt: skip


def _versus(found: Results) -> Table:
    rows = []
    for one in found.versus:
        rows += [
            [*_cost(f"{one.load}, ours", one.ours), f"{one.ratio:.2f}"],
            [*_cost(f"{one.load}, theirs", one.theirs), ""],
        ]
    names = ["on a pty, in turn", *_COST, "ours to theirs"]
    table = _table("Beside the other program, CPU milliseconds a frame", names, rows)
    if rest := found.at_rest:
        table.caption = (
            f"static: ours {rest.ours_percent:.1f} % of a CPU, {rest.ours_fps:.1f} frames/s; "
            f"theirs {rest.theirs_percent:.1f} %, {rest.theirs_fps:.1f}"
        )
    return table


def _host(found: Results) -> Iterator[RenderableType]:
    if not (one := found.host):
        return
    peers = (
        ("a user's agent", one.agent, one.agent_ratios),
        ("the daemon", one.daemon, one.daemon_ratios),
        ("qemu-ga", one.qemu_ga, None),
    )
    rows = [
        [
            name, f"{calls.median_us:.0f}", f"{calls.p99_us:.0f}", f"{calls.per_second:.0f}",
            f"{calls.cpu_us:.0f}", f"{ratios.latency:.2f}" if ratios else "",
            f"{calls.pipelined_per_second:.0f}", f"{calls.pipelined_cpu_us:.0f}",
            f"{ratios.pipelined_time:.2f}" if ratios else "",
        ]
        for name, calls, ratios in peers
    ]  # fmt: skip
    yield _table(
        f"Host channel: guest-ping, microseconds, one after the other and {WINDOW} at once",
        ["answered by", "median", "p99", "calls/s", "CPU", "to qemu-ga", "calls/s at once", "CPU",
         "to qemu-ga"],
        rows,
    )  # fmt: skip
    yield (
        f"user's agent: {one.held.pss:.1f} MB (PSS), {one.held.private:.1f} its own, at the most "
        f"{one.held.peak:.1f}; nobody asking, {one.rest_seconds:g} s: {one.idle_agent} wake-ups, "
        f"daemon {one.idle_daemon}"
    )


def _commands(found: Results) -> Iterator[RenderableType]:
    if not (one := found.commands):
        return
    rows = []
    for name, way in one.ways.items():
        to_pipe, to_ssh = (one.ratios(name, other) for other in ("pipe", "ssh"))
        rows.append([
            name, f"{way.stdin_mb_s:.0f}", f"{to_pipe.stdin:.2f}", f"{to_ssh.stdin:.2f}",
            f"{way.stdout_mb_s:.0f}", f"{to_pipe.stdout:.2f}", f"{to_ssh.stdout:.2f}",
            f"{way.start_ms:.1f}", f"{to_ssh.start:.2f}",
        ])  # fmt: skip
    yield _table(
        "Commands: megabytes a second, and milliseconds to the first byte of output",
        ["by", "stdin", "to pipe", "to ssh", "stdout", "to pipe", "to ssh", "start", "to ssh"],
        rows,
    )
    woken = ", ".join(f"{who} {count}" for who, count in one.idle.items())
    yield f"two commands that wait, {one.rest_seconds:g} s, wake-ups: {woken}"


def _terminals(found: Results) -> Iterator[RenderableType]:
    if ptys := found.ptys:
        rows = []
        for name, way in ptys.ways.items():
            to_ssh = ptys.ratios(name)
            rows.append([
                _PTYS[name], f"{way.start_ms:.0f}", f"{to_ssh.start:.2f}",
                f"{way.key_us:.0f}", f"{way.key_p99_us:.0f}", f"{to_ssh.key:.2f}",
                f"{way.mb_s:.0f}", f"{to_ssh.lines:.2f}",
                f"{way.cpu_ms:.1f}", f"{to_ssh.cpu:.2f}",
            ])  # fmt: skip
        yield _table(
            "Terminals: ms to the prompt, us to a key's echo, MB/s of lines, ms of CPU a MB",
            ["by", "prompt", "to ssh", "key", "p99", "to ssh", "lines", "to ssh", "CPU", "to ssh"],
            rows,
        )
    if one := found.terminals:
        yield (
            f"a terminal is handed over in {one.handover_ms:.0f} ms, at the most "
            f"{max(one.handovers):.0f}"
        )
        yield (
            f"a resize listener is ready after {one.start_ms:.0f} ms, at the most "
            f"{max(one.starts):.0f}, and holds {one.held.private:.1f} MB of its own "
            f"({one.held.pss:.1f} PSS); at rest, {one.rest_seconds:g} s: {one.idle} wake-ups"
        )


def _codecs(found: Results) -> Table:
    rows = [
        [
            f"{one.load}, {one.codec}", f"{one.cost.fps:.1f}", f"{one.cost.program:.2f}",
            "" if one.encoding_ms is None else f"{one.encoding_ms:.2f}",
            str(one.cost.bytes), f"{one.cost.bytes * one.cost.fps * 8 / 1e6:.1f}",
        ]
        for one in found.codecs
    ]  # fmt: skip
    names = ["load, codec", "frames/s", "CPU ms a frame", "of it encoding", "bytes", "Mbit/s"]
    return _table("Codecs: the agent alone, 30 frames/s drawn, medians", names, rows)


def _behind(found: Results) -> Table:
    rows = [
        [
            f"{one.mbit:g} Mbit/s, {one.setting}",
            " ".join(Codec(number).name.lower() for number in one.codecs),
            f"{one.median_ms:.0f}", f"{one.worst_ms:.0f}", f"{one.longest_ms:.0f}",
            f"{one.fps:.1f}", f"{one.shown_fps:.1f}", f"{one.bytes:.0f}", f"{one.mbit_used:.2f}",
        ]
        for one in found.lines
    ]  # fmt: skip
    names = [
        "line, setting",
        "codecs",
        "age ms",
        "worst",
        "apart",
        "frames/s",
        "shown/s",
        "bytes",
        "Mbit/s",
    ]
    return _table("Typing behind a slow line", names, rows)


def _screens(found: ScreensResult) -> Iterator[RenderableType]:
    rows = [_cost(f"{it.load}, {it.backend}, {it.program}", it.cost) for it in found.taken]
    yield _table("Screens: CPU milliseconds a frame, medians", _SCREENS, rows)
    for rest in found.rested:
        yield (
            f"static, {rest.seconds:g} s, {rest.program} by {rest.backend}: {rest.frames} frames, "
            f"{rest.ms:.2f} ms, {rest.wakeups} wake-ups, and {rest.server_wakeups} more of who "
            f"serves it{_looks(rest)}"
        )


def _looks(rest: Rested) -> str:
    """Say what the looks at a card of no driver's cost, if there were any."""
    if not rest.looks:
        return ""
    agent, helper = rest.ms / rest.looks, rest.server_ms / rest.looks
    return (
        f"; {rest.looks} looks, each {agent:.2f} ms of the agent's and {helper:.2f} of the "
        "helper's, where a real card's ioctls cost more"
    )


def _daemon(found: Results) -> Iterator[str]:
    if one := found.daemon:
        relayed = one.relayed
        fps = "too few" if relayed.asked_fps is None else f"{relayed.asked_fps:.1f}"
        yield (
            f"daemon: {len(one.warm_ms)} warm switches, median {statistics.median(one.warm_ms):.0f}"
            f" and worst {max(one.warm_ms):.0f} ms, {len(one.cold_ms)} cold ones, "
            f"{statistics.median(one.cold_ms):.0f} and {max(one.cold_ms):.0f} ms; "
            f"{relayed.fps:.1f} frames/s of {relayed.bytes / 1e3:.0f} kB relayed, and "
            f"{fps} while 1000 questions a second were asked; private memory: "
            f"daemon {one.daemon.private:.1f} MB, agent {one.agent.private:.1f} MB"
        )
    for fresh in found.fresh:
        yield (
            f"behind 10 Mbit/s, {fresh.bytes / 1e3:.0f} kB a frame: age {fresh.median_ms:.0f} ms, "
            f"at most {fresh.worst_ms:.0f}; {fresh.taken_ms:.0f} when taken from the port; "
            f"{fresh.fps:.1f} frames/s, at most {fresh.longest_ms:.0f} ms apart; "
            f"line {fresh.line_share:.0%} full"
        )


def _lines(found: Results) -> Iterator[str]:
    if rest := found.rest:
        yield (
            f"static, {rest.seconds:g} s: {rest.frames} frames; agent {rest.agent_ms:.2f} ms, "
            f"{rest.agent_wakeups} wake-ups; X server {rest.server_ms:.2f} ms, "
            f"{rest.server_wakeups} wake-ups (without agent {rest.alone_server_ms:.2f} ms, "
            f"{rest.alone_server_wakeups}); picture {rest.picture_fault or 'right'}"
        )
    for each in found.answers:
        yield (
            f"by {each.served_by}, medians: Get ActiveSession {each.get:.0f} us "
            f"(logind {each.get_logind:.0f}), ListSessions {each.list:.0f} us "
            f"(logind {each.list_logind:.0f})"
        )
