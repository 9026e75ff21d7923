"""What a signal of the daemon says: as a line for a person, and as a value for a script."""

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sessiond.ctl.client import MANAGER, SESSION, USER_AGENT, Properties
from sessiond.ctl.status import describe
from sessiond.ctl.view import safe, yes
from sessiond.transport.bus_match import Signal


@dataclass(frozen=True, slots=True)
class Told:
    """One event; ``fields`` come after Time and Event in the JSON."""

    event: str
    line: str
    fields: Mapping[str, Any]


def tell(arrived: Signal, names: dict[str, str]) -> Told | None:
    """Return what a signal says, None for one that says nothing here.

    ``names`` are the sessions' ids and the names of users with an agent, by the paths of their
    objects, and are kept up to date.
    """
    teller = _TELLERS.get(arrived.member)
    return teller(arrived, names) if teller else None


def tell_state(manager: Properties) -> Told:
    """Return what holds when a monitor begins."""
    fields = {name: manager.get(name, "") for name in ("Seat", "State", "Reason", "ReasonText")}
    seat, state, reason, text = map(safe, fields.values())
    return Told("Now", f"{seat} is {state} ({reason}): {text}", fields)


def _properties_changed(arrived: Signal, names: dict[str, str]) -> Told | None:
    interface, changed, _invalidated = arrived.body
    if interface not in {MANAGER, SESSION} or not changed:
        return None
    session = names.get(arrived.path, "")
    of = f"session {safe(session)}" if interface == SESSION else "seat"
    values = ", ".join(f"{safe(name)}={_value(value)}" for name, value in changed.items())
    fields = {"Session": session, "Changed": changed}
    return Told("PropertiesChanged", f"{of}: {values}", fields)


def _session_switched(arrived: Signal, _names: dict[str, str]) -> Told:
    before, after = (str(reference[0]) for reference in arrived.body)
    line = f"switched from {_session(before)} to {_session(after)}"
    return Told("SessionSwitched", line, {"From": before, "To": after})


def _agent_started(arrived: Signal, _names: dict[str, str]) -> Told:
    session, pid = arrived.body
    line = f"agent of session {safe(session)} started, pid {pid}"
    return Told("AgentStarted", line, {"Session": session, "PID": pid})


def _agent_exited(arrived: Signal, _names: dict[str, str]) -> Told:
    session, pid, status, reason = arrived.body
    line = f"agent of session {safe(session)}, pid {pid}, ended by {_end(status)} ({safe(reason)})"
    fields = {"Session": session, "PID": pid, "Status": status, "Reason": reason}
    return Told("AgentExited", line, fields)


def _interfaces_added(arrived: Signal, names: dict[str, str]) -> Told | None:
    path, interfaces = arrived.body
    agent = interfaces.get(USER_AGENT)
    if agent is not None:
        names[path] = name = str(agent.get("Name", ""))
        line = f"new: agent of user {safe(name)}, pid {safe(agent.get('PID', 0))}"
        return Told("UserAgentNew", line, {"UserAgent": agent})
    session = interfaces.get(SESSION)
    if session is None:
        return None
    names[path] = str(session.get("Id", ""))
    return Told("SessionNew", f"new: {describe(session)}", {"Session": session})


def _interfaces_removed(arrived: Signal, names: dict[str, str]) -> Told | None:
    path, interfaces = arrived.body
    name = names.pop(path, None)
    if name is None:
        return None
    if USER_AGENT in interfaces:
        return Told("UserAgentRemoved", f"gone: agent of user {safe(name)}", {"User": name})
    return Told("SessionRemoved", f"gone: session {safe(name)}", {"Session": name})


_TELLERS: Final[Mapping[str, Callable[[Signal, dict[str, str]], Told | None]]] = {
    "PropertiesChanged": _properties_changed,
    "SessionSwitched": _session_switched,
    "AgentStarted": _agent_started,
    "AgentExited": _agent_exited,
    "InterfacesAdded": _interfaces_added,
    "InterfacesRemoved": _interfaces_removed,
}


def _session(session_id: str) -> str:
    return f"session {safe(session_id)}" if session_id else "no session"


def _end(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    known = {number.value: number.name for number in signal.Signals}
    return known.get(-status, f"signal {-status}")


def _value(value: object) -> str:
    if isinstance(value, bool):
        return yes(value)
    if isinstance(value, list):
        return f"({', '.join(map(safe, value))})"
    text = safe(value)
    return f'"{text}"' if not text or " " in text else text
