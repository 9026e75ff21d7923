"""Who is brought to the front after the shown session's end, and when it has ended at all."""

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

import pytest

from sessiond.logind.autoswitch import choose, has_ended
from sessiond.model import SeatFacts, Session

ALICE = Session(
    id="3",
    path="/org/freedesktop/login1/session/_33",
    uid=1000,
    gid=1000,
    user="alice",
    seat="seat0",
    vt=8,
    type="x11",
    cls="user",
    state="active",
    since=300,
)
BOB = replace(ALICE, id="4", uid=1001, gid=1001, user="bob", vt=9, state="online", since=400)
CAROL = replace(BOB, id="5", uid=1002, gid=1002, user="carol", vt=10, since=500)
GREETER = replace(BOB, id="c1", uid=100, gid=100, user="gdm", cls="greeter", vt=7, since=100)
OTHER_GREETER = replace(GREETER, id="c2", vt=11, since=600)
CONSOLE = replace(BOB, id="6", type="tty", vt=3)


def seat(*sessions: Session, active: str = "", proven: Sequence[str] = ()) -> SeatFacts:
    return SeatFacts(
        seat="seat0",
        has_logind=True,
        sessions=MappingProxyType({session.id: session for session in sessions}),
        active=active,
        proven=frozenset(proven),
    )


CHOICES: dict[str, tuple[SeatFacts, tuple[str, ...], str]] = {
    "nobody is there": (seat(), (), ""),
    "the only one": (seat(BOB), (), "4"),
    "the greeter before everybody": (seat(BOB, GREETER, CAROL), ("4", "5"), "c1"),
    "the greeter that was in front last": (seat(GREETER, OTHER_GREETER), ("c1", "c2"), "c1"),
    "else the newest greeter": (seat(GREETER, OTHER_GREETER), (), "c2"),
    "a greeter on Wayland": (seat(BOB, replace(GREETER, type="wayland")), (), "c1"),
    "the one that was in front last": (seat(BOB, CAROL), ("3", "4", "5"), "4"),
    "one that was in front, before a newer one that was not": (seat(BOB, CAROL), ("4",), "4"),
    "the newest, when none was in front": (seat(CAROL, BOB), (), "5"),
    "who is gone is not chosen": (seat(BOB), ("3", "4"), "4"),
    "on Wayland": (seat(replace(BOB, type="wayland")), (), "4"),
    "on Mir": (seat(replace(BOB, type="mir")), (), "4"),
    "startx, with its display proven": (seat(CONSOLE, proven=["6"]), (), "6"),
    "a user's other classes": (seat(replace(BOB, cls="user-early")), (), "4"),
    "never one that is closing": (seat(replace(BOB, state="closing")), ("4",), ""),
    "never a greeter that is closing": (seat(replace(GREETER, state="closing"), BOB), (), "4"),
    "never a remote one": (seat(replace(BOB, remote=True)), ("4",), ""),
    "never a remote greeter": (seat(replace(GREETER, remote=True), BOB), (), "4"),
    "never one of another seat": (seat(replace(BOB, seat="seat1")), ("4",), ""),
    "never one of no seat": (seat(replace(BOB, seat="")), ("4",), ""),
    "never another seat's greeter": (seat(replace(GREETER, seat="seat1"), BOB), (), "4"),
    "never a text console": (seat(CONSOLE), ("6",), ""),
    "never one without a VT": (seat(replace(BOB, vt=0)), ("4",), ""),
    "never a class that is nobody's screen": (
        *(seat(replace(BOB, cls="background"), replace(CAROL, cls="manager")), ("4", "5"), ""),
    ),
}


@pytest.mark.parametrize(("facts", "recent", "chosen"), CHOICES.values(), ids=CHOICES.keys())
def test_who_is_chosen(facts: SeatFacts, recent: tuple[str, ...], chosen: str) -> None:
    assert choose(facts, recent) == chosen


SHOWN = seat(ALICE, BOB, active="3")
CLOSING = seat(replace(ALICE, state="closing"), BOB, active="3")
ON_TEXT = seat(replace(ALICE, type="tty"), BOB, active="3")
PROVEN = replace(ON_TEXT, proven=frozenset({"3"}))
ENDS: dict[str, tuple[SeatFacts, SeatFacts, bool]] = {
    "it is removed, the seat is told later": (SHOWN, seat(BOB, active="3"), True),
    "it is removed, and the seat is empty": (SHOWN, seat(BOB), True),
    "it begins to close": (SHOWN, CLOSING, True),
    "it closes and leaves the front": (SHOWN, replace(CLOSING, active=""), True),
    "it is removed after it was closing": (CLOSING, seat(BOB), True),
    "the greeter ends, as in a login that keeps the X server": (
        *(seat(GREETER, active="c1"), seat(active="c1"), True),
    ),
    "it was a Wayland one": (
        *(seat(replace(ALICE, type="wayland"), BOB, active="3"), seat(BOB), True),
    ),
    "startx ends, whose display was proven": (PROVEN, seat(BOB), True),
    "nothing changes": (SHOWN, SHOWN, False),
    "another has been brought to the front": (SHOWN, seat(BOB, active="4"), False),
    "another's end": (SHOWN, seat(ALICE, active="3"), False),
    "somebody goes to an empty VT on purpose": (SHOWN, seat(ALICE, BOB), False),
    "somebody goes to a text console on purpose": (
        *(seat(ALICE, CONSOLE, active="3"), seat(ALICE, CONSOLE, active="6"), False),
    ),
    "it ends behind a text console": (
        *(seat(ALICE, CONSOLE, active="6"), seat(CONSOLE, active="6"), False),
    ),
    "it ends behind an empty VT": (seat(ALICE, BOB), seat(BOB), False),
    "somebody switches to it while it closes": (*(replace(CLOSING, active="4"), CLOSING, False),),
    "it goes on closing": (CLOSING, CLOSING, False),  # or each news of another would switch
    "a text console ends": (seat(CONSOLE, BOB, active="6"), seat(BOB), False),
    "startx ends that was never proven": (ON_TEXT, seat(BOB), False),
    "a remote one ends": (
        *(seat(replace(ALICE, remote=True), active="3"), seat(active="3"), False),
    ),
    "another seat's ends": (
        *(seat(replace(ALICE, seat="seat1"), active="3"), seat(active="3"), False),
    ),
    "logind leaves the bus, and knows no session": (
        *(SHOWN, replace(seat(), has_logind=False), False),
    ),
    "nobody was in front": (seat(BOB), seat(BOB), False),
}


@pytest.mark.parametrize(("before", "now", "ended"), ENDS.values(), ids=ENDS.keys())
def test_whether_the_shown_session_has_ended(
    before: SeatFacts, now: SeatFacts, *, ended: bool
) -> None:
    assert has_ended(before, now) is ended
