"""``list``, ``show`` and ``history``: what the daemon knows of sessions, and what it decided."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sessiond.ctl.client import Client, Properties
from sessiond.ctl.status import state_cell
from sessiond.ctl.view import Cell, Page, Style, Table, facts, moment, safe, yes

_LABELS: Final = {
    "Id": "Session", "User": "User", "Class": "Class", "Type": "Type", "VTNr": "VT", "TTY": "TTY",
    "Display": "Display", "Backend": "Captured by", "EnvSource": "Found by",
    "Desktop": "Desktop", "Remote": "Remote", "Active": "In front", "Locked": "Locked",
    "Shown": "Shown", "Reason": "Reason", "LogindPath": "In logind",
}  # fmt: skip


async def list_sessions(client: Client) -> Page:
    """Ask, and return the page."""
    return list_page(await client.sessions())


def list_page(sessions: Mapping[str, Properties]) -> Page:
    """Return all sessions in the order of their ids; the JSON has each one's properties."""
    ordered = sorted(sessions.values(), key=lambda it: _natural(str(it.get("Id", ""))))
    header = ("SESSION", "USER", "CLASS", "TYPE", "VT", "DISPLAY", "BY", "FRONT", "SHOWN", "REASON")
    rows = tuple(_row(session) for session in ordered)
    count = f"{len(rows)} session{'' if len(rows) == 1 else 's'}."
    return Page(ordered, Table(rows, header, frozenset({0, 4})), note=count)


def _row(session: Properties) -> tuple[Cell, ...]:
    values = (
        session.get("Id"), _user(session), session.get("Class"), session.get("Type"),
        session.get("VTNr") or "-", session.get("Display") or "-", session.get("Backend") or "-",
        yes(session.get("Active")), yes(session.get("Shown")), session.get("Reason"),
    )  # fmt: skip
    style = Style.GOOD if session.get("Shown") else Style.PLAIN
    return tuple(Cell(safe(value), style) for value in values)


async def show(client: Client, session_id: str) -> Page:
    """Ask, and return the page."""
    return show_page(await client.session(session_id))


def show_page(session: Properties) -> Page:
    """Return one session; the JSON has its properties."""
    rows = ((label, Cell(_value(session, name))) for name, label in _LABELS.items()
            if name in session)  # fmt: skip
    return Page(session, facts(*rows))


def _value(session: Properties, name: str) -> str:
    value: Any = session[name]
    if name == "User":
        return safe(f"{_user(session)} (uid {value[0]})")
    if isinstance(value, bool):
        return yes(value)
    return safe(value or "-")


def _user(session: Properties) -> str:
    uid, name = (*session.get("User", ()), "", "")[:2]
    return str(name or uid)


async def history(client: Client, limit: int) -> Page:
    """Ask, and return the page."""
    return history_page(await client.history(limit))


def history_page(events: Sequence[Sequence[Any]]) -> Page:
    """Return the changes, the oldest first; the JSON names their parts as the contract does."""
    names = ("Time", "Session", "State", "Reason", "ReasonText")
    document = [dict(zip(names, event, strict=True)) for event in events]
    rows = tuple(
        (
            Cell(moment(int(event["Time"])), Style.LABEL),
            Cell(safe(event["Session"] or "-")),
            state_cell(event),
            Cell(safe(event["ReasonText"])),
        )
        for event in document
    )
    note = "" if rows else "Nothing has changed yet."
    return Page(document, Table(rows, ("TIME", "SESSION", "STATE (REASON)", "WHY")), note)


def _natural(session_id: str) -> list[tuple[int, int, str]]:
    """Return a key that puts 2 before 10, and both before c1."""
    return [
        (0, len(part), part) if part.isdecimal() else (1, 0, part)
        for part in re.findall(r"\d+|\D+", session_id)
    ]
