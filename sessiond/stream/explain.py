"""What the stream does and why, in a code and a sentence: the first row of a table that applies."""

from dataclasses import dataclass

from sessiond.model import Decision, Reason, State

Row = tuple[Reason | None, str]
"""A reason with its sentence; None for one that does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a supervisor knows.

    ``port`` and ``trouble`` are what is wrong with the port and with the agent. ``name`` is the
    shown session's, such as "session 3"; ``refused`` is why it is read from the graphics card, ""
    where its user's agent captures it. ``unavailable`` is why there is nothing to capture.
    """

    decision: Decision
    port: Row
    trouble: Row
    name: str
    refused: str
    unavailable: str
    is_asking: bool
    is_ready: bool
    is_stalled: bool


def explain(now: Situation) -> tuple[Reason, str]:
    """Return the first row of the design's table that applies."""
    decided = (now.decision.reason, now.decision.text)
    name = f"{now.name[:1].upper()}{now.name[1:]}"
    is_paused = decided[0] is not None and decided[0].state is State.PAUSED
    rows: tuple[Row, ...] = (
        decided if is_paused else (None, ""),
        now.port,
        decided,
        now.trouble,
        (None if now.is_asking else Reason.HOST_NOT_ASKING, "No client is connected."),
        (
            None if now.is_ready else Reason.AGENT_STARTING,
            f"The agent of {now.name} is looking for its display.",
        ),
        (
            Reason.HOST_STALLED if now.is_stalled else None,
            "The host takes no data: its clients are slow, or frozen.",
        ),
    )
    for reason, text in rows:
        if reason is not None:
            return reason, text
    return Reason.OK, _shown(name, now)


def _shown(name: str, now: Situation) -> str:
    text = f"{name} is shown."
    if now.refused:
        text = f"{name} is read from the graphics card: {now.refused}"
    return f"{text} Nothing can be captured now: {now.unavailable}." if now.unavailable else text
