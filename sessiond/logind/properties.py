"""login1's properties of a session, as they came over the bus, made into a ``Session``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sessiond.model import Session

T = TypeVar("T", int, str)


@dataclass(slots=True)
class Tracked:
    """What has been learned of one session so far; without ``gid`` it is not complete yet."""

    id: str
    path: str
    properties: dict[str, Any] = field(default_factory=dict)
    gid: int | None = None

    def session(self, active: tuple[str, str]) -> Session | None:
        """Return the session, or None while something is missing.

        ``active`` is the seat and the id of its active session: the seat's word counts for its
        own sessions, since Active is not signalled for a session that is born in front.
        """
        if self.gid is None:
            return None
        seat, active_id = active
        values = self.properties
        own_seat = _first(values, "Seat", "")
        is_active = self.id == active_id if own_seat == seat else bool(values.get("Active"))
        return Session(
            id=self.id,
            path=self.path,
            uid=_first(values, "User", 0),
            gid=self.gid,
            user=_text(values, "Name"),
            seat=own_seat,
            vt=_number(values, "VTNr"),
            type=_text(values, "Type"),
            cls=_text(values, "Class"),
            state=_text(values, "State"),
            display=_text(values, "Display"),
            tty=_text(values, "TTY"),
            desktop=_text(values, "Desktop"),
            scope=_text(values, "Scope"),
            leader=_number(values, "Leader"),
            since=_number(values, "Timestamp"),
            remote=bool(values.get("Remote")),
            active=is_active,
            locked=bool(values.get("LockedHint")),
        )


def user_path(properties: Mapping[str, Any]) -> str:
    """Return the path of the session's user object, "" without one."""
    match properties.get("User"):
        case [int(), str(path)]:
            return path
    return ""


def reference(value: object) -> tuple[str, str]:
    """Return id and path of a session, from a value of type ``(so)``; "" and "" for none."""
    match value:
        case [str(id_), str(path)] if id_:
            return id_, path
    return "", ""


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""


def _number(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name)
    return value if isinstance(value, int) else 0


def _first(values: Mapping[str, Any], name: str, default: T) -> T:
    match values.get(name):
        case [first, _] if isinstance(first, type(default)):
            return first
    return default
