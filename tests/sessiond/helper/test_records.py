"""Which session a helper's record belongs to, and how long; with logind and without."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest

from sessiond.helper.records import RecordRefusedError, Records, Taken, Told
from sessiond.logind.decide import Policy, decide
from sessiond.model import Reason, SeatFacts, Session

ALICE = Session(
    id="3", path="/3", uid=1000, gid=1000, user="alice", seat="seat0", vt=8, type="x11",
    cls="user", since=1,
)  # fmt: skip
BOB = replace(ALICE, id="4", uid=1001, user="bob", vt=9)
TOLD = Told(":1", "/run/user/1000/gdm/Xauthority", 1000, 1000, 8, 500, 77)


def facts(*sessions: Session, active: str = "") -> SeatFacts:
    by_id = MappingProxyType({session.id: session for session in sessions})
    return SeatFacts(seat="seat0", has_logind=True, sessions=by_id, active=active)


NO_LOGIND = SeatFacts(seat="seat0")
OWNERS = {8: 1000, 9: 1001}


def vt_owner(vt: int) -> int:
    if vt not in OWNERS:
        raise FileNotFoundError(2, "No such file or directory")
    return OWNERS[vt]


def records() -> Records:
    return Records("seat0", vt_owner)


def test_it_belongs_to_the_session_on_its_vt_and_goes_with_it() -> None:
    kept = records()
    assert kept.add(TOLD, facts(ALICE, BOB)) == "3"
    assert kept.of("3") is TOLD
    assert kept.of("4") is None
    kept.prune(NO_LOGIND)  # logind restarts: its sessions are not gone
    assert kept.of("3") is TOLD
    kept.prune(facts(BOB))
    assert kept.of("3") is None


@pytest.mark.parametrize(
    ("now", "holds"),
    [
        (ALICE, True),
        (replace(ALICE, type="tty", active=True), True),
        (replace(ALICE, since=2), False),  # logind gives an id again
        (replace(ALICE, uid=1001), False),
        (replace(ALICE, vt=9), False),
        (replace(ALICE, id="4"), False),
    ],
)
def test_what_is_taken_back_holds_for_the_very_session_alone(now: Session, *, holds: bool) -> None:
    before, kept = records(), records()
    before.add(TOLD, facts(ALICE, BOB))
    for taken in before.taken():
        kept.restore(taken)
    kept.prune(NO_LOGIND)  # it may start after us
    kept.prune(facts(now))
    assert kept.taken() == [Taken(TOLD, "3", 1)][: int(holds)]
    assert kept.of(now.id) is (TOLD if holds else None)


def test_without_a_vt_it_is_taken_back_where_the_session_is_on_one() -> None:
    kept = records()
    kept.restore(Taken(replace(TOLD, vt=0), "3", 1))
    kept.prune(facts(ALICE))
    assert kept.of("3") == replace(TOLD, vt=0)


def test_the_newest_record_and_the_newest_session_count() -> None:
    kept = records()
    newer = replace(ALICE, id="7", since=2)
    assert kept.add(TOLD, facts(ALICE, newer)) == "7"
    assert kept.add(TOLD, facts(replace(ALICE, active=True), newer)) == "3"
    again = replace(TOLD, display=":5")
    kept.add(again, facts(ALICE))
    assert kept.of("3") is again


REFUSED = {
    "another's VT": (replace(TOLD, vt=9), facts(ALICE, BOB), "VT 9 belongs to uid 1001"),
    "a bare VT": (replace(TOLD, vt=2), facts(ALICE), "VT 2 has no session"),
    "another seat": (TOLD, facts(replace(ALICE, seat="seat1")), "VT 8 has no session"),
    "no VT, no session": (replace(TOLD, vt=0), facts(BOB), "uid 1000 has no session"),
    "no VT, two sessions": (
        *(replace(TOLD, vt=0), facts(ALICE, replace(ALICE, id="7", vt=9)), "has 2 sessions"),
    ),
    "no VT, no logind": (replace(TOLD, vt=0), NO_LOGIND, "no logind to ask"),
    "another's VT, no logind": (replace(TOLD, vt=9), NO_LOGIND, "VT 9 belongs to uid 1001"),
    "no such VT, no logind": (replace(TOLD, vt=60), NO_LOGIND, "VT 60: No such file"),
}


@pytest.mark.parametrize(("told", "known", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(told: Told, known: SeatFacts, words: str) -> None:
    kept = records()
    with pytest.raises(RecordRefusedError, match=words):
        kept.add(told, known)
    assert kept.join(NO_LOGIND, 8) == NO_LOGIND


def test_without_a_vt_its_own_session_counts() -> None:
    kept = records()
    bare = replace(TOLD, vt=0)
    assert kept.add(bare, facts(ALICE, BOB), "3") == "3"
    assert kept.add(bare, facts(ALICE, BOB)) == "3", "the user's only one"
    with pytest.raises(RecordRefusedError, match="session 4 belongs to uid 1001"):
        kept.add(bare, facts(ALICE, BOB), "4")
    with pytest.raises(RecordRefusedError, match="session 9 has no session"):
        kept.add(bare, facts(ALICE, BOB), "9")


def test_a_console_with_a_record_is_one_with_a_display() -> None:
    kept = records()
    console = facts(replace(ALICE, type="tty"), active="3")
    assert decide(kept.join(console, 8), Policy()).reason is Reason.TEXT_CONSOLE
    kept.add(TOLD, console)
    assert decide(kept.join(console, 8), Policy()).session == "3"


def test_without_logind_the_records_are_the_sessions() -> None:
    kept = records()
    bob = replace(TOLD, uid=1001, gid=1001, vt=9, display=":2")
    assert kept.add(TOLD, NO_LOGIND) == "vt8"
    assert kept.add(bob, NO_LOGIND) == "vt9"
    assert kept.of("vt9") is bob
    for vt, shown in ((8, "vt8"), (9, "vt9")):
        joined = kept.join(NO_LOGIND, vt)
        assert decide(joined, Policy()).session == shown
        assert joined.sessions[shown].display == {8: ":1", 9: ":2"}[vt]
    console = decide(kept.join(NO_LOGIND, 3), Policy())
    assert (console.session, console.reason) == ("", Reason.TEXT_CONSOLE)
    kept.forget(replace(TOLD))  # an older record of that VT, whose leader has ended
    assert kept.of("vt8") is TOLD
    kept.forget(TOLD)
    kept.forget(bob)
    assert decide(kept.join(NO_LOGIND, 8), Policy()).reason is Reason.LOGIND_MISSING


def test_when_logind_comes_the_records_are_those_of_its_sessions() -> None:
    kept = records()
    kept.add(TOLD, NO_LOGIND)
    kept.add(replace(TOLD, uid=1001, vt=9), NO_LOGIND)
    kept.prune(facts(ALICE))  # nobody is on VT 9 by its word
    assert kept.of("3") is TOLD
    assert kept.of("vt8") is kept.of("vt9") is None
    assert kept.join(NO_LOGIND, 8) == NO_LOGIND
