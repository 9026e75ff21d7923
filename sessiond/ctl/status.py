"""``status``: the seat on one screen."""

import time
from collections.abc import Mapping
from typing import Any, Final

from sessiond.ctl.client import Client, Properties
from sessiond.ctl.view import Cell, Page, Style, facts, moment, safe, size

_STYLES: Final = {"streaming": Style.GOOD, "idle": Style.WARN, "starting": Style.WARN,
                  "paused": Style.WARN}  # fmt: skip


async def status(client: Client) -> Page:
    """Ask, and return the page."""
    return status_page(await client.manager(), await client.sessions(), time.time())


def status_page(manager: Properties, sessions: Mapping[str, Properties], now: float) -> Page:
    """Return the page for what the daemon told; ``now`` is in seconds since 1970.

    The JSON is the Manager's properties by their names, with those of the session in front (null
    without one) as Session.
    """
    front_id, front_path = _reference(manager.get("ActiveSession"))
    front = sessions.get(front_path) if front_id else None
    rows = facts(
        ("Seat", Cell(safe(manager.get("Seat", "")))),
        ("State", state_cell(manager)),
        ("Why", Cell(safe(manager.get("ReasonText", "")))),
        ("In front", Cell(describe(front) if front else safe(front_id or "no session"))),
        ("Shown", Cell(_shown(manager, sessions))),
        ("Host", Cell(_host(manager))),
        ("Stream", Cell(_stream(manager))),
        ("Sent", Cell(_sent(manager))),
        ("Agent", Cell(_agent(manager))),
        ("Next retry", Cell(_retry(int(manager.get("NextRetryUSec", 0)), now))),
        ("Auto switch", Cell(safe(manager.get("AutoSwitch", "")))),
        ("Version", Cell(safe(manager.get("Version", "")))),
    )
    return Page({**manager, "Session": front}, rows)


def state_cell(properties: Mapping[str, Any]) -> Cell:
    """Return State and Reason."""
    state, reason = (safe(properties.get(name, "")) for name in ("State", "Reason"))
    style = _STYLES.get(state, Style.BAD)
    if style is Style.GOOD and reason != "ok":
        style = Style.WARN
    return Cell(f"{state} ({reason})", style)


def describe(session: Properties) -> str:
    """Return who a session is, in a line."""
    uid, user = (*session.get("User", ()), "", "")[:2]
    parts = [
        f"session {safe(session.get('Id', ''))}",
        safe(user or f"uid {uid}"),
        f"{safe(session.get('Type', ''))} {safe(session.get('Class', ''))}",
    ]
    if session.get("VTNr"):
        parts.append(f"VT {safe(session['VTNr'])}")
    return ", ".join(parts)


def _reference(value: Any) -> tuple[str, str]:  # noqa: ANN401 (as the wire has it)
    return (str(value[0]), str(value[1])) if value else ("", "/")


def _shown(manager: Properties, sessions: Mapping[str, Properties]) -> str:
    for session in sessions.values():
        if session.get("Shown"):
            found = f" (found by {safe(session['EnvSource'])})" if session.get("EnvSource") else ""
            kind = "display " if session.get("Display") else ""
            return f"session {safe(session['Id'])}, {kind}{display(session)}{found}"
    front_id, _ = _reference(manager.get("ActiveSession"))
    if manager.get("State") == "streaming" and manager.get("Backend") and not front_id:
        return f"a text console, by {safe(manager['Backend'])}"
    return "no session"


def display(session: Properties) -> str:
    """Return a session's display, if it has a name, and what captures it."""
    name, backend = safe(session.get("Display", "")), safe(session.get("Backend", ""))
    return f"{name} by {backend}".lstrip() if backend else name


def _host(manager: Properties) -> str:
    if not manager.get("HostAsking"):
        return "not asking"
    return f"asking; decodes {', '.join(map(safe, manager.get('HostCodecs', ())))}"


def _stream(manager: Properties) -> str:
    if not manager.get("Codec"):
        return "none"
    width, height, rate = (manager.get(name, 0) for name in ("Width", "Height", "FrameRate"))
    return f"{codec(manager)}, {safe(width)}x{safe(height)}, {rate:.1f} frames/s{because(manager)}"


def because(manager: Properties) -> str:
    """Return why it is this codec, as what follows it; "" where the configuration says so."""
    reason = manager.get("CodecReason")
    return f", because {safe(reason)}" if reason else ""


def codec(manager: Properties) -> str:
    """Return what the stream is encoded as, and by what."""
    encoder = manager.get("Encoder")
    return safe(manager["Codec"]) + (f" ({safe(encoder)})" if encoder else "")


def _sent(manager: Properties) -> str:
    frames = manager.get("FramesSent", 0)
    return f"{frames} frame{'' if frames == 1 else 's'}, {size(int(manager.get('BytesSent', 0)))}"


def _agent(manager: Properties) -> str:
    pid, restarts = manager.get("AgentPID", 0), manager.get("AgentRestarts", 0)
    times = "once" if restarts == 1 else f"{restarts} times"
    return f"{f'pid {pid}' if pid else 'none'}; ended unexpectedly {times}"


def _retry(usec: int, now: float) -> str:
    if not usec:
        return "none"
    return f"in {max(0.0, usec / 1e6 - now):.0f} s, at {moment(usec)}"
