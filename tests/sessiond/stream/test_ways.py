"""Which way is tried next: by what has failed, by what has happened since, and by the clock."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import pytest

from sessiond.model import Reason, Session
from sessiond.stream import trouble, ways
from sessiond.stream.ways import Signs, Ways
from sessiond.transport.backoff import LONGEST
from tests.fixtures.loop import Clock, Signal, in_loop, turns

if TYPE_CHECKING:
    from collections.abc import Callable

BOTH: Final = ("x11", "wlroots", "kms")
OWN: Final = ("x11", "wlroots")
CARD: Final = ("kms",)
NONE: Final = Reason.NO_DISPLAY_FOUND
REFUSED: Final = Reason.DISPLAY_REFUSED
NOTHING: Final[Signs] = frozenset()
SWAY: Final = frozenset({"compositor 5"})
XORG: Final = frozenset({"X server 7"})
SESSION: Final = Session(id="3", path="/3", uid=1000, gid=1000, type="wayland")


@dataclass
class Around:
    """What ways ask for, and what they find."""

    looks: list[Callable[[Signs], None]] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    due: Signal = field(default_factory=Signal)

    def __post_init__(self) -> None:
        self.ways = Ways(
            lambda _session, seen: self.looks.append(seen), self.found.append, self.due.happened
        )

    def next(self) -> tuple[str, ...]:
        return self.ways.next_backends("3", BOTH)

    async def wait(self, clock: Clock, seconds: float) -> None:
        clock.advance(seconds)
        await turns(3)

    def see(self, there: Signs, session: Session = SESSION) -> bool:
        """Look, which must be due, and find this; return whether the card is left for it."""
        self.ways.look_again(session)
        self.found.clear()
        self.looks.pop()(there)
        return self.found == ["3"]


@in_loop
async def test_the_card_is_read_where_the_users_agent_finds_nothing() -> None:
    it = Around()
    assert it.next() == OWN
    assert it.ways.refuse("3", BOTH, NONE, "no socket")
    assert it.next() == CARD
    assert it.ways.refusal("3") == "no socket."
    assert "3" not in it.ways, "nothing is wrong with the session"
    assert it.ways.next_try() == 0
    it.ways.recover("3", is_kms=True)
    assert it.ways.refusal("3") == "no socket."
    it.ways.recover("3", is_kms=False)
    assert (it.ways.refusal("3"), it.next()) == ("", OWN)


@pytest.mark.parametrize(
    ("route", "expected"), [(CARD, CARD), (OWN, OWN), ((), ()), (("mutter", "kms"), ("mutter",))]
)
@in_loop
async def test_what_is_tried_first(route: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert Around().ways.next_backends("3", route) == expected


@pytest.mark.parametrize(
    ("route", "reason"),
    [(OWN, NONE), (BOTH, Reason.AGENT_CRASHED), (BOTH, Reason.ENCODER_FAILED)],
)
@in_loop
async def test_there_is_no_other_way(route: tuple[str, ...], reason: Reason) -> None:
    it = Around()
    assert not it.ways.refuse("3", route, reason, "it is so")
    assert it.next() == OWN


@in_loop
async def test_where_the_card_fails_too_both_are_told_and_the_first_is_tried_next() -> None:
    it = Around()
    it.ways.refuse("3", BOTH, NONE, "no socket")
    it.ways.fail("3", REFUSED, "There is no helper.")
    assert it.ways.explain("3") == (REFUSED, "no socket. There is no helper.")
    assert it.ways.is_waiting("3")
    assert it.next() == OWN
    it.ways.close()
    assert it.ways.explain("3") == (None, "")


@in_loop
async def test_a_remedy_ends_what_could_not_be_captured_and_nothing_else() -> None:
    it = Around()
    assert it.ways.explain("3", "Buy a card.") == (None, "")
    it.ways.rest("3", NONE, "no socket")
    assert it.ways.explain("3", "Buy a card.") == (NONE, "no socket. Buy a card.")
    assert it.ways.explain("3") == (NONE, "no socket")
    it.ways.fail("3", Reason.AGENT_CRASHED, "It died.")
    assert it.ways.explain("3", "Buy a card.") == (Reason.AGENT_CRASHED, "It died.")
    it.ways.close()


@in_loop
async def test_what_is_not_there_is_looked_for_some_times_and_disturbs_nobody() -> None:
    """A session begins before its compositor does."""
    it, clock = Around(), Clock()
    it.ways.refuse("3", BOTH, NONE, "no socket")
    it.ways.look_again(SESSION)
    assert not it.looks, "not before it is due"
    for wait in (3, 5, 9, 18):
        await it.wait(clock, wait)
        it.ways.look_again(SESSION)
        it.ways.look_again(SESSION)
        [seen] = it.looks
        it.looks.clear()
        seen(NOTHING)
        assert it.next() == CARD
    await it.wait(clock, 3600)
    it.ways.look_again(SESSION)
    assert not it.looks, "it is given up until something happens"
    assert not it.found


@in_loop
async def test_what_has_come_is_told_and_the_users_agent_is_next() -> None:
    it, clock = Around(), Clock()
    it.ways.refuse("3", BOTH, NONE, "no socket")
    await it.wait(clock, 3)
    it.ways.look_again(SESSION)
    it.looks.pop()(SWAY)
    assert (it.found, it.next()) == (["3"], OWN)


@in_loop
async def test_what_was_refused_waits_for_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "SOONEST", 0.0)
    it, clock = Around(), Clock()
    it.ways.refuse("3", BOTH, REFUSED, "locked")
    await it.wait(clock, 3600)
    it.ways.look_again(SESSION)
    assert not it.looks
    locked = replace(SESSION, locked=True)
    it.ways.follow({"3": SESSION}, {"3": locked})
    it.ways.follow({"3": locked}, {"3": replace(locked, active=True)})
    it.ways.on_new_display({"3": SESSION})
    await it.wait(clock, 1)
    it.ways.look_again(SESSION)
    assert not it.looks, "none of these was such an event"
    it.ways.follow({"3": locked}, {"3": SESSION})
    await it.due.until(lambda: it.next() == OWN)
    it.ways.look_again(SESSION)
    assert len(it.looks) == 1


@in_loop
async def test_what_is_lost_again_and_again_is_given_up_too() -> None:
    it, clock = Around(), Clock()
    for wait in (3, 5, 9, 18):
        it.ways.refuse("3", BOTH, REFUSED, "it is gone", is_lost=True)
        assert it.next() == CARD
        await it.wait(clock, wait)
        assert it.next() == OWN
        it.ways.recover("3", is_kms=False)
    it.ways.refuse("3", BOTH, REFUSED, "it is gone", is_lost=True)
    await it.wait(clock, 3600)
    assert it.next() == CARD


@pytest.mark.parametrize("change", [{"type": "x11"}, {"display": ":1"}])
@in_loop
async def test_a_session_that_changes_may_have_a_display(
    change: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "SOONEST", 0.0)
    it = Around()
    before = replace(SESSION, type="tty")
    it.ways.refuse("3", BOTH, REFUSED, "no socket")
    it.ways.follow({"3": before}, {"3": replace(before, **change)})  # type: ignore[arg-type]
    await it.due.until(lambda: it.next() == OWN)


@pytest.mark.parametrize("kind", ["tty", "x11"])
@in_loop
async def test_an_x_server_that_comes_may_be_the_sessions(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "SOONEST", 0.0)
    it = Around()
    it.ways.refuse("3", BOTH, REFUSED, "no cookie")
    it.ways.on_new_display({"3": replace(SESSION, type=kind)})
    await it.due.until(lambda: it.next() == OWN)


@in_loop
async def test_events_are_heard_at_most_once_a_second() -> None:
    """Every user can cause such events by the thousand."""
    it, clock = Around(), Clock()
    it.ways.refuse("3", BOTH, NONE, "no socket")
    sessions = {"3": replace(SESSION, type="tty")}
    await it.wait(clock, 3)
    assert not it.see(NOTHING)
    it.ways.on_new_display(sessions)
    await turns(3)
    assert it.next() == CARD
    await it.wait(clock, 1.1)
    it.ways.look_again(SESSION)
    it.ways.on_new_display(sessions)
    it.ways.look_again(SESSION)
    assert len(it.looks) == 1


@in_loop
async def test_what_was_there_when_nothing_was_found_is_no_reason_to_leave_the_card() -> None:
    """As where the user has a desktop on another terminal."""
    it, clock = Around(), Clock()
    it.ways.refuse("3", BOTH, NONE, "no socket", there=SWAY)
    await it.wait(clock, 3)
    assert not it.see(SWAY)
    await it.wait(clock, 5)
    assert it.see(SWAY | XORG)
    it.ways.refuse("3", BOTH, NONE, "nobody answers", there=SWAY | XORG)
    await it.wait(clock, 9)
    assert it.see(SWAY | XORG), "it may need a moment"
    it.ways.refuse("3", BOTH, NONE, "nobody answers", there=SWAY | XORG)
    await it.wait(clock, 18)
    assert it.see(SWAY | XORG)
    it.ways.refuse("3", BOTH, NONE, "nobody answers", there=SWAY | XORG)
    await it.wait(clock, 3600)
    it.ways.look_again(SESSION)
    assert not it.looks, "it is given up"
    it.ways.on_new_display({"3": replace(SESSION, type="tty")})
    await it.wait(clock, 1)
    assert not it.see(SWAY | XORG), "there is nothing new since then"


@in_loop
async def test_for_what_is_lost_the_card_is_left_once_for_what_was_there_as_well() -> None:
    """The server of the pictures may have been started again, and not the compositor."""
    it, clock = Around(), Clock()
    it.ways.refuse("3", BOTH, REFUSED, "it is gone", there=SWAY, is_lost=True)
    await it.wait(clock, 3)
    assert not it.see(NOTHING)
    await it.wait(clock, 5)
    assert it.see(SWAY)
    it.ways.refuse("3", BOTH, NONE, "no socket", there=SWAY)
    await it.wait(clock, 9)
    assert not it.see(SWAY)


@in_loop
async def test_a_lock_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """GNOME ends the recording when it is locked, and records again when it is not."""
    monkeypatch.setattr(trouble, "SOONEST", 0.0)
    it, clock = Around(), Clock()
    locked = replace(SESSION, locked=True)
    it.ways.refuse("3", BOTH, REFUSED, "locked", there=SWAY, is_lost=True)
    it.ways.follow({"3": SESSION}, {"3": locked})
    await it.wait(clock, 3600)
    it.ways.look_again(locked)
    assert not it.looks
    it.ways.follow({"3": locked}, {"3": SESSION})
    await it.wait(clock, 1)
    assert it.see(SWAY)


@pytest.mark.parametrize(
    "change", [{"locked": False}, {"type": "x11"}, {"display": ":1"}], ids=lambda it: next(iter(it))
)
@in_loop
async def test_for_a_session_that_changes_the_card_is_left_for_what_was_there_as_well(
    change: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trouble, "SOONEST", 0.0)
    it, clock = Around(), Clock()
    before = replace(SESSION, type="tty", locked=True)
    it.ways.refuse("3", BOTH, REFUSED, "locked", there=SWAY)
    now = replace(before, **{"locked": False, **change})  # type: ignore[arg-type]
    it.ways.follow({"3": before}, {"3": now})
    await it.wait(clock, 1)
    assert it.see(SWAY, now)


@pytest.mark.parametrize("reason", [NONE, REFUSED])
@in_loop
async def test_what_any_user_can_cause_leaves_the_card_ever_more_seldom(reason: Reason) -> None:
    """Also one who makes it look as if there were always something new."""
    it, clock = Around(), Clock()
    sessions = {"3": replace(SESSION, type="tty")}
    it.ways.refuse("3", BOTH, reason, "no socket")
    seconds, left = 0, list[int]()
    while seconds < 300:
        it.ways.on_new_display(sessions)
        await it.wait(clock, 1)
        seconds += 1
        it.ways.look_again(SESSION)
        if it.looks:
            assert it.see(frozenset({f"compositor {seconds}"}))
            left.append(seconds)
            it.ways.refuse("3", BOTH, reason, "no socket")
    waits = [after - before for before, after in pairwise(left)]
    assert waits[:4] == sorted(waits[:4])
    assert min(waits[4:]) >= LONGEST
    assert len(left) < 15
    it.ways.close()


@in_loop
async def test_by_a_helpers_word_the_users_agent_is_next() -> None:
    it = Around()
    it.ways.refuse("3", BOTH, NONE, "no socket")
    it.ways.on_record("3")
    assert it.next() == OWN


@in_loop
async def test_who_is_gone_is_forgotten() -> None:
    it = Around()
    it.ways.refuse("3", BOTH, NONE, "no socket")
    it.ways.fail("4", REFUSED, "no helper")
    it.ways.follow({"3": SESSION}, {})
    assert (it.next(), "4" in it.ways) == (OWN, False)
    late = it.looks
    assert not late


@in_loop
async def test_a_look_that_ends_when_nobody_cares_any_more_changes_nothing() -> None:
    it, clock = Around(), Clock()
    it.ways.refuse("3", BOTH, NONE, "no socket")
    await it.wait(clock, 3)
    it.ways.look_again(SESSION)
    it.ways.forgive(["3"])
    it.looks.pop()(NOTHING)
    assert it.next() == OWN
    assert ways.FIRST_LOOK > trouble.SOONEST
