"""Every row of the design's table that speaks of sessions, and their rank."""

import re
from dataclasses import replace
from types import MappingProxyType

import pytest

from sessiond.logind.decide import Policy, decide, with_console
from sessiond.logind.routes import Capture
from sessiond.model import Decision, Reason, SeatFacts, Session, State, console

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
    active=True,
)
ANYBODY = Policy()
NOT_ALICE = Policy(deny_users=frozenset({"alice"}))


def seat(
    *sessions: Session,
    active: str | None = None,
    vt: int = 8,
    proven: frozenset[str] = frozenset(),
    has_card: bool = False,
) -> SeatFacts:
    front = sessions[0].id if active is None and sessions else active or ""
    by_id = MappingProxyType({session.id: session for session in sessions})
    return SeatFacts(
        seat="seat0", has_logind=True, sessions=by_id, active=front, vt=vt, proven=proven,
        has_card=has_card,
    )  # fmt: skip


SHOWN = {
    "an X session": ALICE,
    "its lock screen": replace(ALICE, locked=True),
    "a state not read since": replace(ALICE, state="online"),
    "a session that is opening": replace(ALICE, state="opening"),
    "a greeter": replace(ALICE, id="c1", cls="greeter", user="lightdm", uid=100),
    "a greeter without a passwd entry": replace(ALICE, cls="greeter", user="", uid=60578),
    "a lock screen of its own": replace(ALICE, cls="lock-screen"),
    "root, as systemd 257 has it": replace(ALICE, cls="user-early", uid=0, user="root"),
    "a light session": replace(ALICE, cls="user-light"),
    "an incomplete user": replace(ALICE, cls="user-incomplete"),
    "without a display yet": replace(ALICE, display=""),
}


@pytest.mark.parametrize("session", SHOWN.values(), ids=SHOWN.keys())
def test_shown(session: Session) -> None:
    assert decide(seat(session), ANYBODY) == Decision(session.id, route=("x11",))


_TTY = ("x11", "wlroots", "mutter")


def test_startx_is_shown_when_its_display_is_proven() -> None:
    text = replace(ALICE, type="tty")
    decision = decide(seat(text, proven=frozenset({"3"})), ANYBODY)
    assert decision == Decision("3", route=_TTY)


def test_a_console_is_looked_at_if_nothing_else_is_against_it() -> None:
    text = replace(ALICE, type="tty")
    decision = decide(seat(text), ANYBODY)
    assert (decision.probe, decision.route) == ("3", _TTY)
    assert not decide(seat(replace(text, vt=0)), ANYBODY).probe, "nothing could prove it"
    assert not decide(seat(replace(text, remote=True)), ANYBODY).probe
    assert not decide(seat(text), Policy(deny_users=frozenset({"alice"}))).probe
    assert not decide(seat(replace(ALICE, type="wayland")), ANYBODY).probe


REFUSED = {
    "a text session": (replace(ALICE, type="tty"), Reason.TEXT_CONSOLE, "VT 8"),
    "one without a VT": (replace(ALICE, type="tty", vt=0), Reason.TEXT_CONSOLE, "startx"),
    "closing": (replace(ALICE, state="closing"), Reason.SESSION_CLOSING, "still running"),
    "remote": (replace(ALICE, remote=True), Reason.SESSION_REMOTE, "seat0"),
    "another seat": (replace(ALICE, seat="seat1"), Reason.SESSION_REMOTE, "seat1"),
    "no seat": (replace(ALICE, seat=""), Reason.SESSION_REMOTE, "no seat"),
    "a manager": (replace(ALICE, cls="manager"), Reason.SESSION_CLASS, "manager"),
    "root's manager": (replace(ALICE, cls="manager-early"), Reason.SESSION_CLASS, "manager-early"),
    "background": (replace(ALICE, cls="background"), Reason.SESSION_CLASS, "background"),
    "no class": (replace(ALICE, cls=""), Reason.SESSION_CLASS, "unknown"),
    "mir": (replace(ALICE, type="mir"), Reason.TYPE_UNSUPPORTED, "mir"),
    "unspecified": (replace(ALICE, type="unspecified"), Reason.TYPE_UNSUPPORTED, "unspecified"),
}


@pytest.mark.parametrize(("session", "reason", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(session: Session, reason: Reason, words: str) -> None:
    decision = decide(seat(session), ANYBODY)
    assert (decision.session, decision.reason) == ("", reason)
    assert words in decision.text


@pytest.mark.parametrize("denied", ["alice", "1000"])
def test_denied_by_name_or_uid(denied: str) -> None:
    decision = decide(seat(ALICE), Policy(deny_users=frozenset({"bob", denied})))
    assert decision.reason is Reason.SESSION_DENIED
    assert "stream.deny_users" in decision.text


def test_user_without_a_name_is_named_by_uid() -> None:
    unnamed = replace(ALICE, user="", uid=60578, state="closing")
    assert "uid 60578" in decide(seat(unnamed), ANYBODY).text


NOBODY = {
    "nothing known": (seat(vt=0), Reason.NO_ACTIVE_SESSION, "seat0"),
    "a bare VT": (seat(vt=2), Reason.TEXT_CONSOLE, "VT 2"),
    "others are not in front": (seat(ALICE, active="", vt=0), Reason.NO_ACTIVE_SESSION, "seat0"),
    "in front, but gone": (seat(ALICE, active="9", vt=0), Reason.NO_ACTIVE_SESSION, "seat0"),
    "no logind": (SeatFacts(seat="seat0"), Reason.LOGIND_MISSING, "systemd-logind"),
    "no logind, a VT": (SeatFacts(seat="seat0", vt=7), Reason.LOGIND_MISSING, "helper"),
    "no logind, helpers": (
        replace(seat(ALICE, active="", vt=1), has_logind=False),
        Reason.TEXT_CONSOLE,
        "VT 1",
    ),
}


@pytest.mark.parametrize(("facts", "reason", "words"), NOBODY.values(), ids=NOBODY.keys())
def test_nobody_in_front(facts: SeatFacts, reason: Reason, words: str) -> None:
    decision = decide(facts, ANYBODY)
    assert (decision.session, decision.reason) == ("", reason)
    assert words in decision.text


def test_helpers_session_is_shown_without_logind() -> None:
    assert decide(replace(seat(ALICE), has_logind=False), ANYBODY).session == "3"


WAYLAND = replace(ALICE, type="wayland", desktop="sway")
GNOME = replace(WAYLAND, desktop="GNOME")
TEXT = replace(ALICE, type="tty")
NO_KMS = Policy(capture=Capture(kms="off"))


def test_a_wayland_session_is_shown_and_what_else_would_show_it_is_told() -> None:
    assert decide(seat(WAYLAND, has_card=True), ANYBODY).route[-1] == "kms"
    decision = decide(seat(GNOME, has_card=True), ANYBODY)
    assert (decision.session, decision.route) == ("3", ("wlroots", "mutter"))
    assert 'capture.kms = "all"' in decision.remedy
    assert "no graphics card" in decide(seat(WAYLAND), ANYBODY).remedy
    assert not decide(seat(WAYLAND, has_card=True), ANYBODY).remedy
    assert not decide(seat(ALICE), ANYBODY).remedy, "an X server has more to say"


def test_a_text_session_is_shown_where_the_card_can_be_read() -> None:
    assert decide(seat(TEXT, has_card=True), ANYBODY) == Decision("3", route=(*_TTY, "kms"))
    without = decide(seat(TEXT), ANYBODY)
    assert without.text.endswith("not read from the graphics card: there is no graphics card.")
    off = decide(seat(TEXT, has_card=True), NO_KMS)
    assert off.text.endswith('not read from the graphics card: capture.kms is "off".')
    assert (off.reason, off.probe) == (Reason.TEXT_CONSOLE, "3")
    assert (without.reason, without.probe) == (Reason.TEXT_CONSOLE, "3")
    assert decide(seat(TEXT, has_card=True), NOT_ALICE).reason is Reason.SESSION_DENIED


def test_the_prompt_after_a_text_session_is_shown_where_the_card_can_be_read() -> None:
    """What its user has left running keeps it in front, and there is a login prompt."""
    left = seat(replace(TEXT, state="closing"), has_card=True)
    assert decide(left, ANYBODY) == Decision("3", route=("kms",))
    assert decide(replace(left, has_card=False), ANYBODY).reason is Reason.TEXT_CONSOLE
    started = replace(left, proven=frozenset({"3"}))
    assert decide(started, NO_KMS).reason is Reason.SESSION_CLOSING
    assert decide(left, NOT_ALICE).reason is Reason.SESSION_DENIED


def test_a_vt_without_a_session_is_shown_where_the_card_can_be_read() -> None:
    facts = with_console(seat(vt=2, has_card=True))
    assert facts.sessions == {"tty2": console("seat0", 2)}
    elsewhere = (ALICE, replace(ALICE, id="4", seat="seat1", vt=2), replace(ALICE, id="5", seat=""))
    assert "tty2" in with_console(seat(*elsewhere, active="", vt=2, has_card=True)).sessions
    assert decide(facts, ANYBODY) == Decision("tty2", route=("kms",))
    assert decide(facts, NO_KMS).reason is Reason.TEXT_CONSOLE
    assert 'capture.kms is "off"' in decide(facts, NO_KMS).text
    assert "there is no graphics card" in decide(seat(vt=2), ANYBODY).text
    assert decide(facts, Policy(is_enabled=False)).reason is Reason.PAUSED_BY_ADMIN
    greeters_only = Policy(capture=Capture(console_order=("x11", "wlroots")))
    assert decide(facts, greeters_only).reason is Reason.TEXT_CONSOLE
    assert 'capture.console_order leaves "kms" out' in decide(facts, greeters_only).text


NO_CONSOLE = {
    "no card": seat(vt=2),
    "no VT": seat(vt=0, has_card=True),
    "a session": seat(ALICE, has_card=True),
    "a session that is not known yet": seat(ALICE, active="9", vt=2, has_card=True),
    "a session that comes to the front": seat(ALICE, active="", has_card=True),
    "no logind to say that there is no session": replace(
        seat(vt=2, has_card=True), has_logind=False
    ),
    "a logind that does not answer": replace(seat(vt=2, has_card=True), is_whole=False),
    "a seat without VTs": replace(seat(vt=2, has_card=True), seat="seat1"),
}


@pytest.mark.parametrize("facts", NO_CONSOLE.values(), ids=NO_CONSOLE.keys())
def test_no_console_is_made_up(facts: SeatFacts) -> None:
    assert with_console(facts) is facts


def test_console_is_nobodys() -> None:
    made = console("seat0", 63)
    assert made.is_console
    assert not ALICE.is_console
    assert (made.uid, made.gid, made.path, made.user, made.vt) == (65534, 65534, "", "", 63)


ORDERED = {
    "nothing fits": (WAYLAND, Capture(order=("x11",)), "capture.order names nothing .*: x11[.]"),
    "and no kms": (
        GNOME,
        Capture(order=("x11", "kms")),
        r'capture.order names nothing .* x11, kms \(that needs capture.kms = "all"\)[.]',
    ),
    "X11": (ALICE, Capture(order=("wlroots",)), "capture.order names nothing .*: wlroots[.]"),
    "a greeter": (
        replace(ALICE, cls="greeter"),
        Capture(greeter_order=("kms",), kms="off"),
        r'capture.greeter_order .*: kms \(capture.kms is "off"\)[.]',
    ),
    "mir": (replace(ALICE, type="mir"), Capture(kms="off"), r'card: capture.kms is "off"[.]$'),
}


@pytest.mark.parametrize(("session", "capture", "words"), ORDERED.values(), ids=ORDERED.keys())
def test_what_leaves_no_way_is_named(session: Session, capture: Capture, words: str) -> None:
    decision = decide(seat(session, has_card=True), Policy(capture=capture))
    assert (decision.session, decision.reason) == ("", Reason.TYPE_UNSUPPORTED)
    assert re.search(words, decision.text)


def test_the_same_user_twice_is_told_apart_by_id() -> None:
    again = replace(ALICE, id="4", vt=9, state="closing")
    assert decide(seat(ALICE, again), ANYBODY).session == "3"
    assert decide(seat(ALICE, again, active="4"), ANYBODY).reason is Reason.SESSION_CLOSING


def test_first_row_that_applies_holds() -> None:
    """With everything wrong, putting right what is told brings the next row."""
    wrong = replace(
        ALICE, type="tty", state="closing", remote=True, cls="manager", desktop="everything"
    )
    told = []
    for right in (
        {"type": "mir"},
        {"state": "active"},
        {"remote": False},
        {"cls": "user"},
    ):
        told.append(decide(seat(wrong), NOT_ALICE).reason)
        wrong = replace(wrong, **right)
    told += [decide(seat(wrong), NOT_ALICE).reason, decide(seat(wrong), ANYBODY).reason]
    ranks = list(Reason)
    first = ranks.index(Reason.TEXT_CONSOLE)
    assert told == ranks[first : first + 6]


def test_every_reason_has_one_state_and_ranks_follow_the_states() -> None:
    states = [reason.state for reason in Reason]
    assert list(dict.fromkeys(states)) == list(State)
    assert states == sorted(states, key=list(State).index)
