"""Bytes are counted exactly in each way, and ways are compared round by round."""

import sys
from dataclasses import replace

import pytest

from tests.bench.commands import PIECE, CommandsResult, Turn, Way, _piped, _start, _stdin, _stdout
from tests.bench.goals import goals
from tests.bench.processes import BenchError
from tests.bench.results import Results

pytestmark = pytest.mark.parts

SIZE = (1920, 1080)
REST = {"daemon": 0, "user's agent": 0, "commands": 0}


def turn(seconds: float) -> Turn:
    return Turn(seconds, 2 * seconds, [0.5 * seconds, seconds, 9 * seconds])


def result(pipe: list[float], ours: list[float], ssh: list[float]) -> CommandsResult:
    seconds = {"pipe": pipe, "exec": ours, "qrexec": ours, "ssh": ssh}
    return CommandsResult(
        ways=dict.fromkeys(seconds, Way(1000, 500, 20)),
        turns={name: [turn(one) for one in each] for name, each in seconds.items()},
        rest_seconds=60,
        idle=REST,
    )


def test_a_machine_that_slows_down_changes_no_ratio() -> None:
    found = result([1, 1, 3], [2, 2, 6], [4, 4, 12]).ratios("exec", "ssh")
    assert (found.stdin, found.stdout, found.start) == (2, 2, 0.5)


def test_commands_are_held_against_pipe_and_ssh() -> None:
    good = result([1.0, 1.0, 3.0], [1.1, 1.1, 3.3], [1.2, 1.2, 3.6])
    bad = replace(
        result([1.0, 1.0, 3.0], [1.2, 1.2, 3.6], [1.1, 1.1, 3.3]), idle=dict.fromkeys(REST, 1)
    )
    for found, met in ((good, True), (bad, False)):
        rows = goals(Results(commands=found), SIZE)
        assert {row.met for row in rows if row.met is not None} == {met}
        assert [row.name for row in rows] == [row.name for row in goals(Results(), SIZE)]


def test_what_is_piped_is_all_that_was_asked_for() -> None:
    for measure in (_stdin, _stdout):
        assert measure(lambda script: _piped(["sh", "-c", script]), 40) > 0
    count = "import sys; print(); print(len(sys.stdin.buffer.read()))"
    with _piped([sys.executable, "-c", count]) as command:
        command.wait_begun()
        command.write(3)
        command.end()
        command.read(3)
        command.read(len(f"{3 * PIECE}\n") - 3)
        with pytest.raises(BenchError, match="1 bytes are missing"):
            command.read(1)


@pytest.mark.parametrize("script", ["true", "echo; exit 3"])
def test_a_command_that_fails_is_not_taken_for_a_quick_one(script: str) -> None:
    with pytest.raises(BenchError):
        _start(lambda _: _piped(["sh", "-c", script]))
