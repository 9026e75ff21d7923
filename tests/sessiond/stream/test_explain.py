"""The first row of the design's table that applies, and its sentence."""

from dataclasses import replace
from typing import Final

import pytest

from sessiond.model import Decision, Reason
from sessiond.stream.explain import Situation, explain

GOOD: Final = Situation(
    decision=Decision("3"),
    port=(None, ""),
    trouble=(None, ""),
    name="session 3",
    refused="",
    unavailable="",
    is_asking=True,
    is_ready=True,
    is_stalled=False,
)
PAUSED: Final = Decision("", Reason.PAUSED_BY_USER, "paused")
NOBODY: Final = Decision("", Reason.NO_ACTIVE_SESSION, "nobody")
NO_PORT: Final = (Reason.PORT_MISSING, "no port")
TROUBLE: Final = (Reason.AGENT_CRASHED, "it crashed")


def test_all_is_well() -> None:
    assert explain(GOOD) == (Reason.OK, "Session 3 is shown.")


def test_why_the_card_is_read_is_told() -> None:
    told = explain(replace(GOOD, refused="its compositor lets nobody in."))
    assert told == (
        Reason.OK, "Session 3 is read from the graphics card: its compositor lets nobody in."
    )  # fmt: skip


def test_why_nothing_can_be_captured_is_told() -> None:
    now = replace(GOOD, unavailable="all outputs are off")
    away = "Nothing can be captured now: all outputs are off."
    assert explain(now) == (Reason.OK, f"Session 3 is shown. {away}")
    now = replace(now, refused="it lets nobody in.")
    told = f"Session 3 is read from the graphics card: it lets nobody in. {away}"
    assert explain(now) == (Reason.OK, told)


def test_a_name_in_the_middle_of_a_sentence() -> None:
    said = explain(replace(GOOD, is_ready=False))
    assert said[1] == "The agent of session 3 is looking for its display."
    said = explain(replace(GOOD, is_ready=False, name="VT 3"))
    assert said[1] == "The agent of VT 3 is looking for its display."


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"decision": PAUSED, "port": NO_PORT}, Reason.PAUSED_BY_USER),
        ({"decision": NOBODY, "port": NO_PORT}, Reason.PORT_MISSING),
        ({"decision": NOBODY, "trouble": TROUBLE}, Reason.NO_ACTIVE_SESSION),
        ({"trouble": TROUBLE, "is_asking": False}, Reason.AGENT_CRASHED),
        ({"is_asking": False, "is_ready": False}, Reason.HOST_NOT_ASKING),
        ({"is_ready": False, "is_stalled": True}, Reason.AGENT_STARTING),
        ({"is_stalled": True, "refused": "locked."}, Reason.HOST_STALLED),
    ],
)
def test_the_first_row_that_applies_holds(change: dict[str, object], reason: Reason) -> None:
    assert explain(replace(GOOD, **change))[0] is reason  # type: ignore[arg-type]
