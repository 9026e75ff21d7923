"""The table of goals is whole, whatever was measured, and says met only of what was."""

from dataclasses import replace

from tests.bench.codecs import Coded
from tests.bench.cost import Cost
from tests.bench.goals import goals
from tests.bench.host import Calls, HostResult, Ratios
from tests.bench.lines import Behind
from tests.bench.moving import Moving
from tests.bench.results import Results
from tests.bench.screens import Rested, ScreensResult, Taken
from tests.bench.speed import Speed
from tests.bench.usage import Memory

SIZE = (1920, 1080)
FLOOR = Cost(program=4.0, server=1.0, total=5.0, fps=60, bytes=1, wakeups=0)
VIDEO = Moving(
    load="video", drawing_ms=1, floor=FLOOR, part=None, agent=replace(FLOOR, total=6.0),
    ratio=1.2, part_ratio=None, first_ms=30, age_asked_ms=9, age_drawn_ms=7,
    memory=Memory(40, 20, 30), after_stop=0, after_stop_ms=0, picture_fault="",
)  # fmt: skip

CALLS = Calls(9e3, 110, 300, 100, 20e3, 50)
RATIOS = Ratios(latency=4.0, cpu=4, pipelined_time=4.0, pipelined_cpu=3)
HOST = HostResult(
    agent=CALLS, daemon=CALLS, qemu_ga=replace(CALLS, median_us=28),
    agent_ratios=RATIOS, daemon_ratios=replace(RATIOS, latency=2.0),
    rest_seconds=5, idle_agent=0, idle_daemon=0, held=Memory(30, 12, 24.0),
)  # fmt: skip


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    rows = goals(Results(), SIZE)
    assert {(row.value, row.met) for row in rows} == {(None, None)}
    assert len({row.name for row in rows}) == len(rows)


def test_a_full_frame_is_held_against_the_floor_of_the_same_rounds() -> None:
    for ratio, met in ((1.2, True), (1.21, False)):
        found = Results(moving=[replace(VIDEO, ratio=ratio)])
        row = next(row for row in goals(found, SIZE) if row.name.startswith("video, agent"))
        assert (row.value, row.floor, row.ratio, row.met) == (6.0, 5.0, ratio, met)


def test_frames_a_second_are_held_from_below() -> None:
    for fps, met in ((99.6, True), (99.4, False), (140.0, True)):
        speed = Speed(asked=100, fps=fps, floor_fps=200, drawn_fps=200)
        (row,) = [row for row in goals(Results(speed=speed), SIZE) if row.met is not None]
        assert (row.ratio, row.met) == (fps / 200, met)


def test_a_run_that_measured_one_load_has_the_others_rows_too() -> None:
    names = [row.name for row in goals(Results(moving=[VIDEO]), SIZE)]
    assert names == [row.name for row in goals(Results(), SIZE)]


def test_calls_are_held_against_qemu_gas_of_the_same_rounds() -> None:
    (before,) = {row.met for row in goals(Results(host=HOST), SIZE) if row.met is not None}
    assert before
    worse = replace(
        HOST,
        agent_ratios=replace(RATIOS, latency=4.1, pipelined_time=4.1),
        daemon_ratios=replace(RATIOS, latency=2.1),
        idle_agent=1, idle_daemon=1, held=Memory(30, 12, 24.1),
    )  # fmt: skip
    (after,) = {row.met for row in goals(Results(host=worse), SIZE) if row.met is not None}
    assert not after
    names = [row.name for row in goals(Results(host=HOST), SIZE)]
    assert [it.replace("5 s", "60 s") for it in names] == [
        row.name for row in goals(Results(), SIZE)
    ]


def test_a_codec_costs_no_more_than_its_goal_and_keeps_30_frames() -> None:
    for ms, fps, met in ((20.0, 29.6, True), (20.1, 29.4, False)):
        one = Coded("vp8", "video", replace(FLOOR, fps=fps), ms)
        judged = [row for row in goals(Results(codecs=[one]), SIZE) if row.met is not None]
        assert [(row.value, row.met) for row in judged] == [(ms, met), (fps, met)]


def test_only_the_codec_that_was_chosen_has_to_be_fresh() -> None:
    auto = Behind("auto", 2, [1, 2], 5e3, 300, 400, 200, 30, 33, 30, 1.2)
    named = replace(auto, setting="jpeg", median_ms=2000)
    (age, pictures) = [
        row for row in goals(Results(lines=[named, auto]), SIZE) if row.met is not None
    ]
    assert (age.value, age.met, pictures.met) == (300, True, True)
    worse = Results(lines=[replace(auto, median_ms=301, fps=20)])
    assert [row.met for row in goals(worse, SIZE) if row.met is not None] == [False, False]


def test_a_back_end_is_held_to_its_capture_alone_and_to_silence() -> None:
    for ms, woken, met in ((0.5, 0, True), (0.51, 1, False)):
        capture = Taken("wlroots", "whole", "capture", replace(FLOOR, program=ms, total=9))
        agent = replace(capture, program="agent", cost=FLOOR)
        x11 = replace(capture, backend="x11")
        rest = Rested(
            "wlroots", "agent", 5, frames=0, ms=0, wakeups=woken, server_ms=0, server_wakeups=3
        )
        found = Results(screens=ScreensResult([agent, capture, x11], [rest], []))
        rows = [row for row in goals(found, SIZE) if row.met is not None]
        assert [(row.value, row.floor, row.met) for row in rows] == [
            (ms, ms, met), (0, None, True), (woken, None, met),
        ]  # fmt: skip


def test_kms_is_held_to_what_a_look_costs_and_how_often_it_looks() -> None:
    for ms, looks, woken, met in ((15.0, 20, 0, True), (20.0, 21, 1, False)):
        rest = Rested(
            "kms", "agent", 5, frames=woken, ms=ms, wakeups=40, server_ms=15, server_wakeups=20,
            looks=looks,
        )  # fmt: skip
        unwatched = Rested(
            "kms", "agent, not watched", 5, frames=0, ms=0, wakeups=0, server_ms=0,
            server_wakeups=woken,
        )  # fmt: skip
        found = Results(screens=ScreensResult([], [rest, unwatched], []))
        rows = [row for row in goals(found, SIZE) if row.met is not None]
        assert [(row.value, row.met) for row in rows] == [
            ((ms + 15) / looks, met), (woken, met), (looks / 5, met), (woken, met),
        ]  # fmt: skip
