"""So many in a period, and the rest in one word."""

from __future__ import annotations

import asyncio

from sessiond.users.budget import Budget
from tests.fixtures.loop import Clock, in_loop, turns


@in_loop
async def test_so_many_in_a_period() -> None:
    clock, told = Clock(), list[int]()
    budget = Budget(3, 10, told.append)
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]
    clock.advance(9)
    await turns(3)
    assert not told
    assert not budget.take()
    clock.advance(1)
    await turns(3)
    assert told == [3]
    assert budget.take()


@in_loop
async def test_no_timer_unless_something_was_suppressed() -> None:
    clock, told = Clock(), list[int]()
    budget = Budget(1, 10, told.append)
    handles = len(asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]
    assert budget.take()
    clock.advance(10)
    assert budget.take()
    assert len(asyncio.get_running_loop()._scheduled) <= handles + 1  # type: ignore[attr-defined]
    assert budget._timer is None
    budget.close()
    assert not told


@in_loop
async def test_the_end_says_the_rest_once() -> None:
    clock, told = Clock(), list[int]()
    budget = Budget(0, 10, told.append)
    assert not budget.take()
    budget.close()
    budget.close()
    clock.advance(10)
    await turns(3)
    assert told == [1]
