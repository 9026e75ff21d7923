"""The end of a kernel session's leader."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from sessiond.helper.life import Lives
from sessiond.helper.origin import start_of
from tests.fixtures.loop import Signal, in_loop, turns

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.parts


@pytest.fixture
def two() -> Iterator[list[subprocess.Popen[bytes]]]:
    with subprocess.Popen(["sleep", "60"]) as one, subprocess.Popen(["sleep", "60"]) as other:
        yield [one, other]
        one.kill()
        other.kill()


@in_loop
async def test_each_end_is_told_once_and_only_of_the_keys_newest(
    two: list[subprocess.Popen[bytes]],
) -> None:
    lives, told, signal = Lives(), list[str](), Signal()

    def end(name: str) -> None:
        told.append(name)
        signal.happened()

    one, other = two
    start = start_of(one.pid)
    lives.watch(7, one.pid, start, lambda: end("an older one"))
    lives.watch(7, one.pid, start, lambda: end("one"))
    lives.watch(8, one.pid, start, lambda: end("one again"))
    lives.watch(9, other.pid, start_of(other.pid), lambda: end("other"))
    one.kill()
    await signal.until(lambda: len(told) == 2)
    assert sorted(told) == ["one", "one again"]
    lives.close()
    other.kill()
    await turns(20)
    assert len(told) == 2
    one.wait()
    with pytest.raises(ProcessLookupError):
        lives.watch(7, one.pid, start, lambda: None)
    assert start_of(one.pid) == 0


@in_loop
async def test_a_process_that_began_later_has_only_got_the_number(
    two: list[subprocess.Popen[bytes]],
) -> None:
    lives, one = Lives(), two[0]
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ProcessLookupError):
        lives.watch(7, one.pid, start_of(one.pid) - 1, lambda: None)
    assert len(os.listdir("/proc/self/fd")) <= len(before)
