"""The supervisor between a host that reads when it is told to, and agents with a part to play."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from dataclasses import replace
from typing import Final

import pytest

from sessiond.model import Decision, Reason, Session
from sessiond.stream import supervisor
from sessiond.stream.agent import Agent
from sessiond.stream.freshness import Freshness
from sessiond.stream.reconcile import PLACEHOLDER
from sessiond.wire.device import Data, Format, StartStop, Type
from sessiond.wire.link import Unavailable, pack
from tests.fixtures.loop import in_loop, turns
from tests.sessiond.stream.stage import (
    BIG,
    SESSIONS,
    SETTINGS,
    SMALL,
    around,
    start_of,
    watching_host,
)

pytestmark = [pytest.mark.parts, pytest.mark.usefixtures("quick")]

UNANSWERED: Final = "The user database has not answered for 0.01 s about the account of 1000:"


@in_loop
async def test_a_frame_of_the_session_before_gives_the_next_one_no_second_credit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[tuple[str, int]] = []  # to whom, and how many it had not used
    give = Agent.give_credit

    def give_and_tell(agent: Agent) -> None:
        given.append((agent.key, agent._credits))
        it.signal.happened()
        give(agent)

    monkeypatch.setattr(Agent, "give_credit", give_and_tell)
    monkeypatch.setattr(Freshness, "delay", lambda _self, _now: 0.0)
    async with around() as it:
        with watching_host(it) as host:
            it.show("big")
            it.launch("big")
            await it.until_reason(Reason.OK)
            os.kill(it.pids["big"], signal.SIGUSR1)
            # In the middle of its frame: the host reads nothing, and no socket holds so much.
            await it.until_reason(Reason.HOST_STALLED)
            it.show("small")
            it.launch("small")
            await it.signal.until(lambda: ("small", 0) in given)
            await it.read_frames(host, 1)
            assert given == [("big", 0), ("small", 0)]
            os.kill(it.pids["small"], signal.SIGUSR1)
            await it.read_frames(host, 4)
            assert (it.frames[0], set(it.frames[1:])) == (BIG, {SMALL})
            assert set(given[1:]) == {("small", 0)}


@in_loop
async def test_what_encodes_is_told_while_it_does() -> None:
    async with around() as it:
        with watching_host(it) as host:
            await it.show_new("small")
            await it.signal.until(lambda: bool(it.statuses[-1].why))
            now = it.statuses[-1]
            assert (now.codec, now.width) == (1, 640)
            assert (now.encoder, now.why) == ("libjpeg-turbo", "the host keeps up")
            host.send(it.device.send(StartStop(())))
            await it.until_reason(Reason.HOST_NOT_ASKING)
            now = it.statuses[-1]
            assert (now.codec, now.encoder, now.why) == (0, "", "")


@in_loop
async def test_why_nothing_can_be_captured_is_told_while_it_is_so() -> None:
    off, on = pack(Unavailable("it is off")), pack(Unavailable(""))
    async with around() as it:
        with watching_host(it):
            it.show("1")
            it.prepared["1"](start_of("1", says=off))
            away = "is shown. Nothing can be captured now: it is off."
            await it.signal.until(
                lambda: bool(it.statuses) and it.statuses[-1].text == f"Session 1 {away}"
            )
            assert it.statuses[-1].reason is Reason.OK
            it.show("2")
            it.prepared["2"](start_of("2", says=off + on))
            expected = [f"Session 2 {away}", "Session 2 is shown."]
            await it.signal.until(lambda: [each.text for each in it.statuses[-2:]] == expected)


@in_loop
async def test_the_shown_agent_hears_how_fast_the_line_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, float]] = []

    def tell(agent: Agent, rate: float) -> None:
        told.append((agent.key, rate))
        it.signal.happened()

    monkeypatch.setattr(Agent, "tell_line", tell)
    monkeypatch.setattr(Freshness, "guess", property(lambda _self: 1000.0 + len(told)))
    async with around() as it:
        with watching_host(it) as host:
            await it.show_new("small")
            os.kill(it.pids["small"], signal.SIGUSR1)
            await it.read_frames(host, 1)
            await it.signal.until(lambda: len(told) > 1)
            assert told[:2] == [("small", 1000.0), ("small", 1001.0)]


@in_loop
async def test_an_agent_whose_look_up_ends_while_the_daemon_does_is_not_started() -> None:
    async with around() as it:
        with watching_host(it):
            it.show("small")
            it.launch("small")
            await it.until_reason(Reason.OK)
            it.show("big")
            async with asyncio.TaskGroup() as tasks:
                closing = tasks.create_task(it.supervisor.close())
                await turns(3)
                assert not closing.done()  # the one that runs does not heed SIGTERM
                it.launch("big")
            it.launch("big")
            assert set(it.pids) == {"small"}


@in_loop
async def test_a_look_up_that_a_helper_has_overtaken_is_made_again() -> None:
    async with around() as it:
        with watching_host(it):
            it.show("small")
            first = it.prepared.pop("small")
            it.supervisor.on_record("small", ":9")
            it.supervisor.on_no_display("small", "as it was before the helper spoke")
            assert it.prepared.pop("small") == first, "asked once more"
            it.supervisor.on_record("small", ":8")
            it.prepared["small"] = first
            it.launch("small")
            assert not it.pids, "what it would be started with is out of date"
            it.launch("small")
            await it.until_reason(Reason.OK)


@in_loop
async def test_a_look_up_that_hangs_is_told_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "READY_TIMEOUT", 0.01)
    async with around(replace(SETTINGS, when_idle="placeholder")) as it:
        it.sentences = []
        with watching_host(it) as host:
            it.show("1")
            hanging = it.prepared.pop("1")
            await it.until_reason(Reason.AGENT_TIMEOUT)
            await it.signal.until(lambda: it.supervisor._agents.active() is not None)
            os.kill(it.pids[PLACEHOLDER], signal.SIGUSR1)
            await it.read_frames(host, 1)
            told = it.statuses[-1].text
            assert told.startswith(UNANSWERED)
            assert it.sentences == [told]
            await it.show_new("2")
            it.show("1")
            await it.until_reason(Reason.AGENT_TIMEOUT)
            it.supervisor.restart_agent()
            it.supervisor.on_new_display()
            assert "1" not in it.prepared, "it was asked a second time"
            hanging(start_of("1"))
            await it.until_reason(Reason.OK)
            assert it.statuses[-1].agent_pid == it.pids["1"]


@in_loop
async def test_who_hangs_in_a_look_up_takes_nobodys_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async with around(replace(SETTINGS, keep_warm=1)) as it:
        with watching_host(it):
            await it.show_new("1")
            monkeypatch.setattr(supervisor, "READY_TIMEOUT", 0.01)
            it.show("2")
            await it.until_reason(Reason.AGENT_TIMEOUT)
            await it.show_new("3")
            it.launch("2")
            await turns(3)
            assert it.pids.keys() == {"1", "3"}
            assert not it.ends
            it.prepared.pop("2")
            await it.show_new("2")


@in_loop
async def test_who_was_in_front_a_moment_ago_gets_its_agent() -> None:
    async with around() as it:
        with watching_host(it):
            it.show("1")
            await it.show_new("2")
            it.launch("1")
            await it.signal.until(lambda: "1" in it.statuses[-1].displays)
            assert it.statuses[-1].agent_pid == it.pids["2"]


@pytest.mark.parametrize("between", [{}, {"2": SESSIONS["2"]}, SESSIONS])
@in_loop
async def test_a_look_up_of_another_account_starts_no_agent(between: dict[str, Session]) -> None:
    anew = {**SESSIONS, "1": replace(SESSIONS["1"], uid=1001)}
    async with around() as it:
        with watching_host(it):
            it.show("1")
            first = it.prepared.pop("1")
            await it.until_reason(Reason.AGENT_STARTING)
            nobody = Decision("", Reason.NO_ACTIVE_SESSION, "No session is active.")
            it.supervisor.on_decision(nobody, between, is_gap=False)
            it.supervisor.on_decision(Decision("1"), anew, is_gap=False)
            assert not it.prepared
            first(start_of("1"))
            assert not it.pids, "it would be the other account's"
            it.launch("1")
            await it.until_reason(Reason.OK)


@in_loop
async def test_those_stay_that_were_in_front_last() -> None:
    async with around(replace(SETTINGS, keep_warm=2)) as it:
        with watching_host(it):
            for session in "1234":
                await it.show_new(session)
            await it.until_ended("1")
            asked = dict(it.prepared)
            it.prepared.clear()
            it.show("2")
            await it.until_reason(Reason.OK)
            assert (it.prepared, it.statuses[-1].agent_pid) == ({}, it.pids["2"])
            it.prepared.update(asked)
            await it.show_new("5")
            await it.until_ended("1", "3")
            assert it.statuses[-1].displays.keys() == {"2", "4", "5"}


@in_loop
async def test_who_has_no_agent_takes_nobodys_place() -> None:
    async with around(replace(SETTINGS, keep_warm=1)) as it:
        with watching_host(it):
            await it.show_new("1")
            it.show("2")
            it.supervisor.on_no_display("2", "none")
            await it.until_reason(Reason.NO_DISPLAY_FOUND)
            await it.show_new("3")
            await turns(3)
            assert not it.ends
            await it.show_new("4")
            await it.until_ended("1")


@in_loop
async def test_who_is_closing_takes_nobodys_place() -> None:
    closing = {**SESSIONS, "2": replace(SESSIONS["2"], state="closing")}
    async with around(replace(SETTINGS, keep_warm=1)) as it:
        with watching_host(it):
            await it.show_new("1")
            await it.show_new("2")
            it.supervisor.on_decision(Decision("3"), closing, is_gap=False)
            stays = it.supervisor._agents.get("1")
            assert stays
            assert not stays.is_stopping
            await it.until_ended("2")


@in_loop
async def test_who_is_kept_may_change_at_any_time() -> None:
    async with around(replace(SETTINGS, keep_warm=2)) as it:
        with watching_host(it):
            for session in "123":
                await it.show_new(session)
            it.supervisor.configure(replace(SETTINGS, keep_warm=1))
            await it.until_ended("1")
            it.supervisor.configure(replace(SETTINGS, keep_warm=0))
            await it.until_ended("1", "2")
            assert it.statuses[-1].agent_pid == it.pids["3"]


@in_loop
async def test_with_none_to_be_kept_who_was_shown_stays_for_the_grace() -> None:
    async with around(replace(SETTINGS, grace=0.05, keep_warm=0)) as it:
        with watching_host(it):
            await it.show_new("1")
            nobody = Decision("", Reason.NO_ACTIVE_SESSION, "No session is active.")
            it.supervisor.on_decision(nobody, SESSIONS, is_gap=True)
            agent = it.supervisor._agents.get("1")
            assert agent
            assert not agent.is_stopping
            it.show("1")
            it.supervisor.on_decision(nobody, SESSIONS, is_gap=True)
            await it.until_ended("1")


@in_loop
async def test_the_journal_says_what_a_kept_agent_holds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with around() as it:
        with watching_host(it):
            await it.show_new("1")
            await it.show_new("2")
    [told] = [record for record in caplog.records if "is kept" in record.msg]
    fields = vars(told)
    assert (fields["SESSION"], fields["AGENT_PID"]) == ("1", it.pids["1"])
    assert float(told.getMessage().split()[-5]) > 1


@in_loop
async def test_a_picture_that_was_dropped_is_sent_again_by_who_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two sessions in a row have the same trouble, and the host has not read of the first yet."""
    monkeypatch.setattr(supervisor, "READY_TIMEOUT", 0.01)
    async with around(replace(SETTINGS, when_idle="placeholder")) as it:
        it.sentences = []
        with watching_host(it) as host:
            it.show("3")  # which hangs from now on, and is told of later
            monkeypatch.setattr(supervisor, "READY_TIMEOUT", 20.0)
            await it.until_reason(Reason.AGENT_TIMEOUT)
            await it.show_new("big")
            os.kill(it.pids["big"], signal.SIGUSR1)
            await it.until_reason(Reason.HOST_STALLED)
            monkeypatch.setattr(supervisor, "READY_TIMEOUT", 0.01)
            it.show("4")
            await it.signal.until(lambda: len(it.sentences or ()) == 2)
            outbox = it.supervisor._port._outbox
            await it.signal.until(lambda: Type.FORMAT in outbox._waiting)
            it.show("3")
            os.kill(it.pids[PLACEHOLDER], signal.SIGUSR1)
            assert len(it.sentences) == 2
            messages = await it.read_messages(host, 2)
            assert it.frames[:2] == [BIG, SMALL]
            kinds = [type(it) for it in messages]
            first = kinds.index(Data)
            assert Format in kinds[first : kinds.index(Data, first + 1)]
