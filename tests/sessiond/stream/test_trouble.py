"""When a failed agent is tried again: by the back-off, or after an event, but not at once."""

from __future__ import annotations

import asyncio
import time

import pytest

from sessiond.model import Reason
from sessiond.stream import trouble as module
from sessiond.stream.trouble import Troubles
from sessiond.transport import backoff
from tests.fixtures.loop import Signal, in_loop, turns

NONE = Reason.NO_DISPLAY_FOUND
CRASHED = Reason.AGENT_CRASHED


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let seconds be milliseconds."""
    monkeypatch.setattr(backoff, "FIRST", 0.001)
    monkeypatch.setattr(module, "SOONEST", 0.001)


@in_loop
async def test_a_failure_waits_and_is_due() -> None:
    due = Signal()
    troubles = Troubles(due.happened)
    troubles.add("3", CRASHED, "it ended")
    assert "3" in troubles
    assert troubles.explain("3") == (CRASHED, "it ended")
    assert troubles.is_waiting("3")
    assert troubles.next_try() > time.time() - 1
    await due.until(lambda: not troubles.is_waiting("3"))
    assert "3" in troubles, "it is explained until it is forgiven"
    troubles.forgive(["3", "nobody"])
    assert "3" not in troubles
    assert troubles.explain("3") == (None, "")
    assert not troubles.is_waiting("3")
    assert troubles.next_try() == 0


@in_loop
async def test_each_failure_waits_longer_than_the_one_before() -> None:
    troubles = Troubles(lambda: None)
    waits = []
    for _ in range(4):
        troubles.add("3", CRASHED, "")
        waits.append(troubles.next_try() - time.time())
    assert waits == sorted(waits)
    assert waits[-1] > 4 * waits[0]
    troubles.forgive(["3"])


@in_loop
async def test_at_rest_no_timer_runs_until_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    due = Signal()
    troubles = Troubles(due.happened)
    troubles.rest("3", NONE, "no X server")
    assert troubles.next_try() == 0
    assert troubles.is_waiting("3")
    assert troubles.because({NONE, CRASHED}) == {"3"}
    troubles.hurry(troubles.because({CRASHED}))
    assert troubles.next_try() == 0, "the event was about something else"
    troubles.hurry({"3", "nobody"})
    await due.until(lambda: not troubles.is_waiting("3"))
    # A user can cause such events by the thousand: never sooner than this after a failure.
    monkeypatch.setattr(module, "SOONEST", 3600.0)
    troubles.rest("3", NONE, "no X server")
    troubles.hurry({"3", "nobody"})
    assert troubles.next_try() > time.time() + 3000
    troubles.forgive(["3"])


@in_loop
async def test_an_event_ends_a_long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST", 3600.0)
    due = Signal()
    troubles = Troubles(due.happened)
    troubles.add("3", NONE, "not yet")
    troubles.hurry({"3", "nobody"})
    await due.until(lambda: not troubles.is_waiting("3"))


@in_loop
async def test_a_probe_is_given_up_where_the_wait_would_be_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backoff, "FIRST", backoff.LONGEST / 2)
    troubles = Troubles(lambda: None)
    troubles.add("3", NONE, "", is_probe=True)
    assert troubles.next_try() > 0
    troubles.add("3", NONE, "", is_probe=True)
    assert troubles.next_try() == 0
    assert troubles.is_waiting("3")


@in_loop
async def test_forgiven_it_is_never_due() -> None:
    called = []
    troubles = Troubles(lambda: called.append(1))
    troubles.add("3", CRASHED, "")
    troubles.forgive(troubles.keys())
    await asyncio.wait_for(turns(50), 1)
    assert not called
