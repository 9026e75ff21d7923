"""What the log says of refusals, and how often."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sessiond.transport import refusals
from sessiond.transport.refusals import LINES, LINES_EACH, Refusals
from tests.fixtures.loop import Signal, in_loop, turns

if TYPE_CHECKING:
    import pytest


@in_loop
async def test_each_reason_is_told(caplog: pytest.LogCaptureFixture) -> None:
    told = Refusals("a helper")
    told.add(1000, 77, "no DISPLAY")
    told.add(1001, 78, "its process has ended")
    told.close()
    assert caplog.messages == [
        "a helper of uid 1000, pid 77, is refused: no DISPLAY",
        "a helper of uid 1001, pid 78, is refused: its process has ended",
    ]


@in_loop
async def test_one_users_flood_hides_nobody_elses(caplog: pytest.LogCaptureFixture) -> None:
    told = Refusals("a helper")
    for _ in range(1000):
        told.add(1000, 77, "garbage")
    told.add(1001, 78, "no DISPLAY")
    assert len(caplog.messages) == LINES_EACH + 1
    assert caplog.messages[-1].endswith("no DISPLAY")
    told.close()
    rest = 1000 - LINES_EACH
    told_last = f"{rest} more suppressed: refused as a helper were {rest} of uid 1000"
    assert caplog.messages[-1] == told_last


@in_loop
async def test_a_flood_of_many_uids_is_one_as_well(caplog: pytest.LogCaptureFixture) -> None:
    told = Refusals("a helper")
    for uid in range(10_000):
        told.add(uid, 77, "garbage")
    told.close()
    assert len(caplog.messages) == LINES + 1
    assert f"{10_000 - LINES} more suppressed" in caplog.messages[-1]
    assert len(caplog.messages[-1]) < 1000


@in_loop
async def test_the_rest_is_told_when_the_period_ends(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Signal()
    warning = logging.Logger.warning

    def warn(self: logging.Logger, text: str, *values: object) -> None:
        warning(self, text, *values)
        ended.happened()

    monkeypatch.setattr(logging.Logger, "warning", warn)
    told = Refusals("a helper", period=0.05)
    for _ in range(LINES_EACH + 3):
        told.add(1000, 77, "garbage")
    await ended.until(
        lambda: caplog.messages[-1] == "3 more suppressed: refused as a helper were 3 of uid 1000"
    )
    told.add(1000, 77, "a new period")
    assert caplog.messages[-1].endswith("a new period")
    told.close()
    assert len(caplog.messages) == LINES_EACH + 2


@in_loop
async def test_no_timer_without_something_to_say() -> None:
    told = Refusals("a helper")
    told.add(1000, 77, "garbage")
    await turns(2)
    assert told._timer is None
    told.close()
    assert refusals.PERIOD >= 1
