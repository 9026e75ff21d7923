"""The user's agent first, then one that is given the graphics card; and back."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import pytest

from sessiond.model import Decision, Reason, Session, console
from sessiond.stream import launch, port, supervisor, trouble, ways
from sessiond.stream.parts import Settings
from sessiond.stream.port import HostPort
from sessiond.stream.reconcile import PLACEHOLDER
from sessiond.wire.device import Data, Format, StartStop, Type
from sessiond.wire.kms import Failed, Grant, pack_control
from tests.fixtures.loop import in_loop
from tests.sessiond.stream.stage import (
    BIG,
    SESSIONS,
    SETTINGS,
    SMALL,
    Around,
    HelpersEnd,
    around,
    failing,
    kms_helper,
    start_of,
    watching_host,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.parts

OWN: Final = ("x11",)
CARD: Final = ("kms",)
BOTH: Final = (*OWN, *CARD)
SWAY: Final = frozenset({"compositor 5"})
NONE: Final = Reason.NO_DISPLAY_FOUND
NOBODY: Final = Decision("", Reason.PAUSED_BY_ADMIN, "paused")
NOT_NOW: Final = Decision("", Reason.NO_ACTIVE_SESSION, "No session is active.")
UNREAD: Final = "The picture is not read from the graphics card"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "KILL_AFTER", 0.2)
    monkeypatch.setattr(port, "STALLED", 0.05)
    monkeypatch.setattr(trouble, "SOONEST", 0.0)


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    """Let a test fail that leaves a descriptor open."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before


@contextmanager
def given_card(it: Around, session: str) -> Iterator[HelpersEnd]:
    """Answer with the start of an agent that has a helper; give the helper's end."""
    helper, end = kms_helper()
    it.prepared[session](start_of(session, helper))
    try:
        yield end
    finally:
        end.close()


async def show_card(it: Around, session: str = "1") -> None:
    """Let a session be read from the card next: its user's agent has found nothing."""
    it.show(session, BOTH)
    assert it.asked[-1] == (session, OWN)
    it.prepared[session](failing(session, NONE, "no socket"))
    await it.until_asked(session, CARD)


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


CONSOLES: Final = {vt: console("seat0", vt) for vt in (3, 4)}


def show_console(it: Around, vt: int, sessions: dict[str, Session]) -> None:
    shown = CONSOLES[vt]
    decision = Decision(shown.id, route=CARD)
    it.supervisor.on_decision(decision, {**sessions, shown.id: shown}, is_gap=True)


@in_loop
async def test_a_console_is_shown_and_is_no_session() -> None:
    async with around(replace(SETTINGS, grace=60.0)) as it:
        with watching_host(it):
            show_console(it, 3, {})
            assert it.asked == [("tty3", CARD)]
            with given_card(it, "tty3"):
                await it.until_reason(Reason.OK)
                assert (it.statuses[-1].session, it.statuses[-1].text) == ("", "VT 3 is shown.")
                show_console(it, 4, {})
                assert it.asked[-1] == ("tty4", CARD), "at once: nobody is logging in"
                await it.until_ended("tty3")


@in_loop
async def test_the_gap_of_a_login_is_no_console_before_the_grace_is_over() -> None:
    async with around(replace(SETTINGS, grace=0.05, keep_warm=0)) as it:
        with watching_host(it):
            it.show("1", OWN)
            it.launch("1")
            await it.until_reason(Reason.OK)
            show_console(it, 3, dict(SESSIONS))
            show_console(it, 3, dict(SESSIONS))
            assert [key for key, _ in it.asked] == ["1"]
            agent = it.supervisor._agents.get("1")
            assert agent
            assert not agent.is_stopping
            await it.until_asked("tty3", CARD)
            await it.until_ended("1")


@in_loop
async def test_when_a_console_is_left_nothing_is_told_before_the_grace_is_over() -> None:
    """The kernel tells of the VT before logind does of the session on it."""
    between = Decision("", Reason.TEXT_CONSOLE, "VT 2 is in front, and no session is active on it.")
    async with around(Settings(grace=60.0, when_idle="placeholder")) as it:
        it.sentences = []
        with watching_host(it):
            show_console(it, 3, {})
            with given_card(it, "tty3") as helper:
                await it.until_reason(Reason.OK)
                it.supervisor.on_decision(between, SESSIONS, is_gap=True)
                assert helper.hear() == [Grant(True), Grant(False)]
                assert it.sentences == []
                await it.show_new("1")
                assert it.sentences == []


@in_loop
async def test_why_a_console_is_not_shown_any_more_is_told_at_once() -> None:
    async with around(Settings(grace=60.0, when_idle="placeholder")) as it:
        it.sentences = []
        with watching_host(it):
            show_console(it, 3, {})
            with given_card(it, "tty3"):
                await it.until_reason(Reason.OK)
                it.supervisor.on_decision(NOBODY, {"tty3": CONSOLES[3]}, is_gap=True)
                await it.until_ended("tty3")
                assert it.sentences == ["paused"]


@in_loop
async def test_where_somebody_was_who_is_not_shown_is_no_console_yet() -> None:
    """What they have left there may still be on the screen."""
    denied = Decision("", Reason.SESSION_DENIED, "denied")
    async with around(replace(SETTINGS, grace=0.05)) as it:
        with watching_host(it):
            it.supervisor.on_decision(denied, SESSIONS, is_gap=False)
            show_console(it, 3, {})
            show_console(it, 3, {})
            assert not it.asked
            await it.until_asked("tty3", CARD)


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
