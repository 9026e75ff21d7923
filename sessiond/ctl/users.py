"""``users``, ``displays``, ``screens``, ``connect-display``: agents of users, what they reach."""

import os
import pwd
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sessiond.ctl.client import Client, Properties
from sessiond.ctl.view import Cell, Page, Table, moment, safe, yes

_DISPLAY: Final = ("Display", "Session", "Type", "Active")
_SCREEN: Final = ("Output", "X", "Y", "Width", "Height", "Primary")


def own_name() -> str:
    """Return the caller's user name, as the daemon would say it."""
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


async def users(client: Client) -> Page:
    """Ask, and return the page."""
    return users_page(await client.user_agents())


def users_page(agents: Mapping[str, Properties]) -> Page:
    """Return all agents in the order of their uids; the JSON has each one's properties."""
    ordered = sorted(agents.values(), key=lambda it: int(it.get("UID", 0)))
    rows = tuple(
        (
            Cell(safe(it.get("UID"))),
            Cell(safe(it.get("Name"))),
            Cell(safe(it.get("PID"))),
            Cell(moment(int(it.get("ConnectedUSec", 0)))),
        )
        for it in ordered
    )
    table = Table(rows, ("UID", "USER", "PID", "SINCE"), frozenset({0, 2}))
    return Page(ordered, table, note=_count(len(rows), "user agent"))


async def displays(client: Client, user: str) -> Page:
    """Ask, and return the page; an empty ``user`` is the caller."""
    return displays_page(await client.displays(user or own_name()))


def displays_page(found: Sequence[Sequence[Any]]) -> Page:
    """Return a user's displays; the JSON names their parts."""
    document = [dict(zip(_DISPLAY, row, strict=True)) for row in found]
    rows = tuple(
        (
            Cell(safe(it["Display"])),
            Cell(safe(it["Session"] or "-")),
            Cell(safe(it["Type"] or "-")),
            Cell(yes(it["Active"])),
        )
        for it in document
    )
    table = Table(rows, ("DISPLAY", "SESSION", "TYPE", "FRONT"), frozenset({1}))
    return Page(document, table, note=_count(len(rows), "display"))


async def screens(client: Client, user: str, display: str) -> Page:
    """Ask, and return the page; an empty ``user`` is the caller."""
    return screens_page(await client.screens(user or own_name(), display))


def screens_page(found: Sequence[Sequence[Any]]) -> Page:
    """Return a display's screens; the JSON names their parts."""
    document = [dict(zip(_SCREEN, row, strict=True)) for row in found]
    rows = tuple(
        (*(Cell(safe(it[name])) for name in _SCREEN[:-1]), Cell(yes(it["Primary"])))
        for it in document
    )
    header = tuple(name.upper() for name in _SCREEN)
    table = Table(rows, header, frozenset({1, 2, 3, 4}))
    return Page(document, table, note=_count(len(rows), "screen"))


async def connect_display(client: Client, user: str, display: str, *, show: bool) -> Page:
    """Let the user's agent connect; return the page. An empty ``user`` is the caller."""
    path = await client.connect_display(user or own_name(), display, show=show)
    session = (await client.sessions()).get(path, {})
    return connected_page(display, str(session.get("Id", "")))


def connected_page(display: str, session: str) -> Page:
    """Return which session the display belongs to, "" for none."""
    owner = f"session {safe(session)}" if session else "no session"
    note = f"Connected to {safe(display)}, which belongs to {owner}."
    return Page({"Display": display, "Session": session}, note=note)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}."
