"""The user's agent first, then one that is given the graphics card; and back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import pytest

from sessiond.model import Decision, Reason
from sessiond.stream import trouble, ways
from sessiond.stream.port import HostPort
from sessiond.wire.device import StartStop
from sessiond.wire.kms import Failed, Grant, pack_control
from tests.fixtures.loop import in_loop
from tests.sessiond.stream.stage import (
    BOTH,
    CARD,
    NOBODY,
    OWN,
    SESSIONS,
    SETTINGS,
    Around,
    around,
    failing,
    given_card,
    kms_helper,
    start_of,
    watching_host,
)

pytestmark = [pytest.mark.parts, pytest.mark.usefixtures("quick", "no_descriptor_left")]

SWAY: Final = frozenset({"compositor 5"})
NONE: Final = Reason.NO_DISPLAY_FOUND
NOT_NOW: Final = Decision("", Reason.NO_ACTIVE_SESSION, "No session is active.")
UNREAD: Final = "The picture is not read from the graphics card"


async def show_card(it: Around, session: str = "1") -> None:
    """Let a session be read from the card next: its user's agent has found nothing."""
    it.show(session, BOTH)
    assert it.asked[-1] == (session, OWN)
    it.prepared[session](failing(session, NONE, "no socket"))
    await it.until_asked(session, CARD)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "SOONEST", 0.0)


@in_loop
async def test_the_cards_agent_follows_at_once_and_it_is_told_why() -> None:
    async with around() as it:
        with watching_host(it):
            await show_card(it)
            assert it.ends == {"1": NONE}
            with given_card(it, "1") as helper:
                await it.until_reason(Reason.OK)
                text = "Session 1 is read from the graphics card: no socket."
                assert it.statuses[-1].text == text
                assert helper.hear() == [Grant(True)]
                assert it.statuses[-1].next_retry == 0, "nothing waits"


@in_loop
async def test_where_there_is_nothing_for_the_users_agent_none_is_started() -> None:
    async with around() as it:
        with watching_host(it):
            it.show("1", BOTH)
            it.supervisor.on_no_display("1", "No X server runs in the session.")
            assert it.asked == [("1", OWN), ("1", CARD)]
            assert not it.pids
            with given_card(it, "1"):
                await it.until_reason(Reason.OK)


@in_loop
async def test_where_the_card_is_all_that_is_allowed_it_is_the_first() -> None:
    async with around() as it:
        with watching_host(it):
            it.show("1", CARD)
            assert it.asked == [("1", CARD)]
            with given_card(it, "1"):
                await it.until_reason(Reason.OK)
                assert it.statuses[-1].text == "Session 1 is shown."


@in_loop
async def test_leave_is_withdrawn_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[object] = []
    drop = HostPort.drop_waiting

    def drop_and_tell(self: HostPort) -> None:
        heard.append(helper.hear())
        drop(self)

    async with around() as it:
        with watching_host(it):
            await show_card(it)
            with given_card(it, "1") as helper:
                await it.until_reason(Reason.OK)
                assert helper.hear() == [Grant(True)]
                monkeypatch.setattr(HostPort, "drop_waiting", drop_and_tell)
                it.show("2", OWN)
                assert heard[0] == [Grant(False)]
                await it.until_ended("1")
                assert helper.hear() == [None]


@pytest.mark.parametrize("decision", [NOBODY, Decision("2", route=OWN)])
@in_loop
async def test_who_is_not_shown_any_more_is_not_kept(decision: Decision) -> None:
    """What it has mapped may be somebody else's screen next."""
    async with around(replace(SETTINGS, keep_warm=2)) as it:
        with watching_host(it):
            await show_card(it)
            with given_card(it, "1") as helper:
                await it.until_reason(Reason.OK)
                it.supervisor.on_decision(decision, SESSIONS, is_gap=False)
                assert helper.hear() == [Grant(True), Grant(False)]
                await it.until_ended("1")
                assert helper.hear() == [None]


@in_loop
async def test_it_may_look_only_while_the_host_asks() -> None:
    async with around() as it:
        with watching_host(it) as host:
            await show_card(it)
            with given_card(it, "1") as helper:
                await it.until_reason(Reason.OK)
                assert helper.hear() == [Grant(True)]
                host.send(it.device.send(StartStop(())))
                await it.until_reason(Reason.HOST_NOT_ASKING)
                assert helper.hear() == [Grant(False)]
                host.send(it.device.send(StartStop((1,))))
                await it.until_reason(Reason.OK)
                assert helper.hear() == [Grant(True)]
                assert it.ends == {}


@in_loop
async def test_in_a_gap_it_stays_without_leave() -> None:
    """A session that is away for a moment, as while logind is restarted, comes back soon."""
    async with around(replace(SETTINGS, grace=60.0)) as it:
        with watching_host(it):
            await show_card(it)
            with given_card(it, "1") as helper:
                await it.until_reason(Reason.OK)
                it.supervisor.on_decision(NOT_NOW, SESSIONS, is_gap=True)
                assert helper.hear() == [Grant(True), Grant(False)]
                it.show("1", BOTH)
                await it.until_reason(Reason.OK)
                assert helper.hear() == [Grant(True)]
                assert it.ends == {}


@in_loop
async def test_what_the_helper_says_is_why_the_agent_has_failed() -> None:
    async with around() as it:
        with watching_host(it):
            await show_card(it)
            with given_card(it, "1") as helper:
                await it.until_reason(Reason.OK)
                helper.say(pack_control(Failed("the card was unplugged")))
            await it.until_reason(Reason.DISPLAY_REFUSED)
            text = f"no socket. {UNREAD}: the card was unplugged."
            assert it.statuses[-1].text == text
            await it.until_asked("1", OWN)
            it.supervisor.on_no_display("1", "still none")
            await it.until_asked("1", CARD)


@in_loop
async def test_without_words_of_the_helpers_the_agents_hold() -> None:
    async with around() as it:
        with watching_host(it):
            await show_card(it)
            helper, end = kms_helper()
            it.prepared["1"](failing("1", Reason.DISPLAY_REFUSED, "unknown layout", helper))
            await it.until_reason(Reason.DISPLAY_REFUSED)
            assert it.statuses[-1].text == f"no socket. {UNREAD}: unknown layout."
            assert end.hear() == [None]
            end.close()


@in_loop
async def test_the_helpers_words_count_also_where_the_agents_come_first() -> None:
    async with around() as it:
        with watching_host(it):
            it.show("1", CARD)
            helper, end = kms_helper()
            helper.read_rest()
            asyncio.get_running_loop().remove_reader(helper._control)
            end.say(pack_control(Failed("the card was unplugged")))
            it.prepared["1"](failing("1", Reason.DISPLAY_REFUSED, "it is gone", helper))
            await it.until_reason(Reason.DISPLAY_REFUSED)
            assert it.statuses[-1].text == f"{UNREAD}: the card was unplugged."
            end.close()


@in_loop
async def test_a_helper_that_dies_ends_its_agent() -> None:
    async with around() as it:
        with watching_host(it):
            it.show("1", CARD)
            with given_card(it, "1"):
                await it.until_reason(Reason.OK)
            await it.until_reason(Reason.DISPLAY_REFUSED)
            assert it.statuses[-1].text == f"{UNREAD}: the helper has ended."


@in_loop
async def test_where_there_is_no_helper_both_reasons_are_told() -> None:
    async with around() as it:
        with watching_host(it):
            await show_card(it)
            it.supervisor.on_no_helper("1", "nobody listens")
            await it.until_reason(Reason.DISPLAY_REFUSED)
            assert it.statuses[-1].text == f"no socket. {UNREAD}: nobody listens."
            assert it.statuses[-1].next_retry
            await it.until_asked("1", OWN)


@in_loop
async def test_without_a_card_it_is_told_why_it_is_not_read() -> None:
    async with around() as it:
        with watching_host(it):
            decision = Decision("1", route=OWN, remedy="Nor is the card read: capture.kms.")
            it.supervisor.on_decision(decision, SESSIONS, is_gap=False)
            it.prepared["1"](failing("1", NONE, "no socket"))
            await it.until_reason(NONE)
            assert it.statuses[-1].text == "no socket. Nor is the card read: capture.kms."


@in_loop
async def test_when_the_users_agent_has_something_again_it_takes_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ways, "FIRST_LOOK", 0.01)
    async with around() as it:
        with watching_host(it):
            await show_card(it)
            with given_card(it, "1") as helper:
                await it.until_reason(Reason.OK)
                await it.signal.until(lambda: bool(it.looks))
                assert not it.ends, "what is shown goes on meanwhile"
                it.looks.pop()(frozenset())
                await it.signal.until(lambda: bool(it.looks))
                helper.hear()
                it.looks.pop()(SWAY)
                assert helper.hear() == [Grant(False)]
                await it.until_asked("1", OWN)
            it.launch("1")
            await it.until_reason(Reason.OK)
            assert it.statuses[-1].text == "Session 1 is shown."
            assert it.ends == {}


@in_loop
async def test_what_was_there_at_its_start_does_not_interrupt_the_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ways, "FIRST_LOOK", 0.01)
    async with around() as it:
        with watching_host(it):
            it.show("1", BOTH)
            it.prepared["1"](replace(failing("1", NONE, "no socket"), there=SWAY))
            await it.until_asked("1", CARD)
            with given_card(it, "1") as helper:
                await it.until_reason(Reason.OK)
                for _ in range(2):
                    await it.signal.until(lambda: bool(it.looks))
                    it.looks.pop()(SWAY)
                assert helper.hear() == [Grant(True)]
                await it.signal.until(lambda: bool(it.looks))
                it.looks.pop()(SWAY | {"compositor 6"})
                assert helper.hear() == [Grant(False)]
                await it.until_asked("1", OWN)


@in_loop
async def test_a_helper_of_the_older_protocol_makes_the_users_agent_the_next() -> None:
    async with around() as it:
        with watching_host(it):
            await show_card(it)
            with given_card(it, "1"):
                await it.until_reason(Reason.OK)
                it.supervisor.on_record("1", ":9")
                await it.until_asked("1", OWN)


@in_loop
async def test_what_is_not_allowed_any_more_ends() -> None:
    """As when the configuration is reloaded, or an unlocked screen is another matter."""
    async with around() as it:
        with watching_host(it):
            await show_card(it)
            with given_card(it, "1") as helper:
                await it.until_reason(Reason.OK)
                it.show("1", OWN)
                assert helper.hear() == [Grant(True), Grant(False)]
                await it.until_asked("1", OWN)


@in_loop
async def test_what_is_allowed_anew_is_tried_at_once_where_nothing_has_worked() -> None:
    """As when the configuration is reloaded, while the back-off would have it wait."""
    async with around() as it:
        with watching_host(it):
            it.show("1", OWN)
            it.prepared["1"](failing("1", Reason.DISPLAY_REFUSED, "no cookie"))
            await it.until_reason(Reason.DISPLAY_REFUSED)
            assert it.asked == [("1", OWN)]
            it.show("1", BOTH)
            assert it.asked == [("1", OWN)] * 2
            it.prepared["1"](failing("1", Reason.DISPLAY_REFUSED, "no cookie"))
            await it.until_asked("1", CARD)


@in_loop
async def test_nor_does_a_display_stay_by_what_is_not_allowed_any_more() -> None:
    async with around() as it:
        with watching_host(it):
            it.show("1", OWN)
            it.prepared["1"](start_of("1"))
            await it.until_reason(Reason.OK)
            it.show("1", CARD)
            await it.until_asked("1", CARD)


@pytest.mark.parametrize("is_started", [True, False])
@in_loop
async def test_nor_does_one_that_was_opened_meanwhile(*, is_started: bool) -> None:
    """The configuration is reloaded while the agent looks for a display, or is only prepared."""
    async with around() as it:
        with watching_host(it):
            it.show("1", OWN)
            if is_started:
                it.launch("1")
            it.show("1", CARD)
            if not is_started:
                it.launch("1")
            await it.until_asked("1", CARD)


@in_loop
async def test_a_helper_that_comes_too_late_is_let_go() -> None:
    async with around(replace(SETTINGS, keep_warm=2)) as it:
        with watching_host(it):
            await show_card(it)
            it.show("2", OWN)
            with given_card(it, "1") as helper:
                assert helper.hear() == [None]
            assert it.pids.keys() == {"1"}, "of the user's agent, which had failed"


@in_loop
async def test_an_agent_that_cannot_be_started_leaves_its_helper() -> None:
    async with around() as it:
        with watching_host(it):
            it.show("1", CARD)
            helper, end = kms_helper()
            it.prepared["1"](replace(start_of("1", helper), command=["/none"]))
            assert end.hear() == [None]
            await it.until_reason(Reason.AGENT_CRASHED)
            end.close()


@in_loop
async def test_a_display_that_the_card_shows_proves_nothing() -> None:
    """That the session has a display of its own on its VT, which another rule takes for granted."""
    proven: list[frozenset[str]] = []
    async with around() as it:
        parts = replace(it.supervisor._parts, on_proven=proven.append)
        it.supervisor._parts = parts
        sessions = MappingProxyType({"1": replace(SESSIONS["1"], vt=7)})
        with watching_host(it):
            it.supervisor.on_decision(Decision("1", route=CARD), sessions, is_gap=False)
            with given_card(it, "1"):
                await it.until_reason(Reason.OK)
    assert not proven


@in_loop
async def test_after_a_gap_it_is_still_looked_for_something_of_the_sessions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ways, "FIRST_LOOK", 0.01)
    async with around(replace(SETTINGS, grace=60.0)) as it:
        with watching_host(it):
            await show_card(it)
            with given_card(it, "1"):
                await it.until_reason(Reason.OK)
                it.supervisor.on_decision(NOT_NOW, SESSIONS, is_gap=True)
                it.show("1", BOTH)
                await it.until_reason(Reason.OK)
                text = "Session 1 is read from the graphics card: no socket."
                assert it.statuses[-1].text == text
                await it.signal.until(lambda: bool(it.looks))
                it.looks.pop()(SWAY)
                await it.until_asked("1", OWN)


@in_loop
async def test_what_is_not_allowed_any_more_is_not_begun() -> None:
    """The helper opens the card while the configuration is reloaded."""
    async with around() as it:
        with watching_host(it):
            await show_card(it)
            it.show("1", OWN)
            with given_card(it, "1") as helper:
                assert helper.hear() == [None]
            assert it.asked[-1] == ("1", OWN)


@pytest.mark.parametrize("is_switch", [True, False])
@in_loop
async def test_who_begins_anew_begins_with_the_users_agent(*, is_switch: bool) -> None:
    """Nobody would look any more whether it has something."""
    async with around() as it:
        with watching_host(it):
            await show_card(it)
            if is_switch:
                it.show("2", OWN)
                it.show("1", BOTH)
            else:
                it.supervisor.restart_agent()
            with given_card(it, "1") as helper:
                assert helper.hear() == [None]
            assert it.asked[-1] == ("1", OWN)


@in_loop
async def test_a_display_that_is_lost_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compositor that crashes is started again, most often."""
    monkeypatch.setattr(ways, "FIRST_LOOK", 0.01)
    async with around() as it:
        with watching_host(it):
            it.show("1", BOTH)
            lost = failing("1", Reason.DISPLAY_REFUSED, "it is gone", was_ready=True)
            it.prepared["1"](lost)
            await it.until_asked("1", CARD)
            with given_card(it, "1"):
                await it.until_reason(Reason.OK)
                await it.signal.until(lambda: bool(it.looks))
                it.looks.pop()(SWAY)
                await it.until_asked("1", OWN)


@in_loop
async def test_what_is_ended_at_the_screen_goes_no_other_way() -> None:
    """Not to the card, nor to another agent; and it is no failure to be told afterwards."""
    async with around() as it:
        with watching_host(it):
            it.show("1", BOTH)
            ended = failing("1", Reason.PAUSED_BY_USER, "ended in the panel", was_ready=True)
            it.prepared["1"](ended)
            await it.until_reason(Reason.PAUSED_BY_USER)
            assert it.paused == ["1"]
            assert it.ends == {"1": Reason.PAUSED_BY_USER}
            assert it.asked == [("1", OWN)]
            assert it.statuses[-1].next_retry == 0
            it.show("1", BOTH)
            assert it.asked == [("1", OWN), ("1", OWN)], "it is resumed"
            assert it.statuses[-1].reason is Reason.AGENT_STARTING


@in_loop
async def test_what_is_ended_at_the_screen_and_is_not_in_front() -> None:
    async with around() as it:
        with watching_host(it):
            it.show("1", OWN)
            it.prepared["1"](failing("1", Reason.PAUSED_BY_USER, "ended in the panel"))
            it.show("2", OWN)
            it.launch("2")
            await it.signal.until(lambda: "1" in it.ends)
            assert it.paused == ["1"]


@in_loop
async def test_the_cards_agent_pauses_nobody() -> None:
    async with around() as it:
        with watching_host(it):
            it.show("1", CARD)
            helper, end = kms_helper()
            it.prepared["1"](failing("1", Reason.PAUSED_BY_USER, "ended", helper))
            await it.signal.until(lambda: "1" in it.ends)
            end.close()
            assert it.ends == {"1": Reason.AGENT_CRASHED}
            assert not it.paused
