"""Text consoles: read from the card, with no session, and not in the gap of a login."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest

from sessiond.model import Decision, Reason, Session, console
from sessiond.stream.parts import Settings
from sessiond.wire.kms import Grant
from tests.fixtures.loop import in_loop
from tests.sessiond.stream.stage import (
    CARD,
    NOBODY,
    OWN,
    SESSIONS,
    SETTINGS,
    Around,
    around,
    given_card,
    watching_host,
)

pytestmark = [pytest.mark.parts, pytest.mark.usefixtures("quick", "no_descriptor_left")]

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
