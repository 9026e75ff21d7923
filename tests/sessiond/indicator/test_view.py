"""What is told of which facts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sessiond.indicator.view import STREAMED, Facts, describe, menu_text, tooltip_text
from sessiond.model import State

OURS = Facts(is_there=True, path="/s", is_active=True, text="Why.")
NOT_STREAMED = "This screen is not streamed"
PAUSED = "The streaming is paused"

CASES: dict[str, tuple[Facts, str, str]] = {
    "no daemon": (Facts(), NOT_STREAMED, "spice-sessiond is not running."),
    "not our session": (
        Facts(is_there=True), NOT_STREAMED, "spice-sessiond does not know this session.",
    ),
    "streamed": (replace(OURS, state="streaming", is_shown=True, reason="ok"), STREAMED, "Why."),
    "streamed, the seat's state still to come": (
        replace(OURS, state="starting", is_shown=True), STREAMED, "Why.",
    ),
    "the seat streams, and we have not heard that it is us": (
        replace(OURS, state="streaming", reason="ok"), NOT_STREAMED, "Why.",
    ),
    "paused": (replace(OURS, state="paused", reason="paused-by-user"), PAUSED, "Why."),
    "idle": (replace(OURS, state="idle"), "Nobody watches this screen", "Why."),
    "a state of a later version": (replace(OURS, state="dreaming"), NOT_STREAMED, "Why."),
    "streamed from the graphics card": (
        replace(OURS, state="streaming", is_shown=True, reason="ok", backend="kms"), STREAMED,
        "Why. Its picture is read from the graphics card: the desktop is not asked.",
    ),
    "not streamed from there": (
        replace(OURS, state="idle", backend="kms"), "Nobody watches this screen", "Why.",
    ),
    "behind another session": (
        replace(OURS, is_active=False, state="idle"),
        NOT_STREAMED, "Another session is in front.",
    ),
    "paused behind another": (
        replace(OURS, is_active=False, state="streaming", reason="paused-by-user"),
        PAUSED, "Another session is in front.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("facts", "headline", "text"), CASES.values(), ids=CASES.keys())
def test_headline_and_explanation(facts: Facts, headline: str, text: str) -> None:
    view = describe(facts)
    assert (view.headline, view.text) == (headline, text)


@pytest.mark.parametrize("state", State)
def test_each_state_of_the_seat_has_words(state: State) -> None:
    assert describe(replace(OURS, state=state, is_shown=state is State.STREAMING)).headline


@pytest.mark.parametrize(
    ("reason", "is_enabled", "is_paused", "can_change"),
    [
        ("ok", True, False, True),
        ("host-not-asking", True, False, True),
        ("paused-by-user", True, True, True),
        ("paused-by-admin", True, True, True),  # asks for a password
        ("paused-by-admin", False, True, False),
    ],
)
def test_what_can_be_done(
    reason: str, *, is_enabled: bool, is_paused: bool, can_change: bool
) -> None:
    view = describe(replace(OURS, reason=reason, is_enabled=is_enabled))
    assert (view.is_paused, view.can_change) == (is_paused, can_change)
    assert view.is_worth_seeing == is_paused


def test_nothing_can_be_done_without_a_session() -> None:
    assert not describe(Facts(is_there=True)).can_change
    assert not describe(Facts()).can_change


def test_texts_of_others_are_no_markup() -> None:
    view = describe(replace(OURS, text="<b>x & y</b>"))
    assert tooltip_text(view) == "&lt;b&gt;x &amp; y&lt;/b&gt;"
    assert menu_text("a_b") == "a__b"
