"""Follows the daemon on the system bus: the seat's status, and the own session's.

Nothing is asked twice: everything is read when the daemon comes, and then its signals are applied.
Answers and signals are handed on in the order of their arrival, so what was read is never newer
than a signal that comes after it.
"""

import logging
from collections.abc import Callable
from typing import Any, Final, TypeGuard

from sessiond.errors import BusCallError
from sessiond.indicator.view import Facts
from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_match import Match, Signal
from sessiond.transport.bus_signals import Answer

log = logging.getLogger(__name__)

NAME: Final = "org.spice_space.Sessiond1"
ROOT: Final = "/org/spice_space/Sessiond1"
MANAGER: Final = f"{NAME}.Manager"
SESSION: Final = f"{NAME}.Session"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
PASSWORD_LIMIT: Final = 150.0  # seconds; the daemon gives a person 120

Properties = dict[str, Any]


class Watch:
    """Calls ``on_change`` after each change of ``facts``, as soon as the daemon is known.

    ``session_id`` is logind's id of the own session; "" means the one of the user ``uid`` that is
    seen to be active first.
    """

    def __init__(
        self, bus: Bus, session_id: str, uid: int, on_change: Callable[[Facts], None]
    ) -> None:
        self._bus = bus
        self._id = session_id
        self._uid = uid
        self._on_change = on_change
        self._owner = ""
        self._path = ""
        self._manager: Properties | None = None
        self._sessions: dict[str, Properties] | None = None
        for interface, member, path, arg0, handler in (
            (PROPERTIES, "PropertiesChanged", ROOT, MANAGER, self._on_properties),
            (PROPERTIES, "PropertiesChanged", "", SESSION, self._on_properties),
            (OBJECT_MANAGER, "InterfacesAdded", ROOT, "", self._on_added),
            (OBJECT_MANAGER, "InterfacesRemoved", ROOT, "", self._on_removed),
        ):
            match = Match(sender=NAME, interface=interface, member=member, path=path, arg0=arg0)
            bus.subscribe(match, handler)
        bus.watch_owner(NAME, self._on_owner)

    def set_streaming(self, *, enabled: bool, on_failure: Callable[[BusCallError], None]) -> None:
        """Pause or resume the own session; a person may be asked for a password meanwhile."""
        if not self._path:
            return  # it has ended since it was asked for

        def on_answer(answer: Answer) -> None:
            if isinstance(answer, BusCallError):
                on_failure(answer)

        call = Call(self._owner, self._path, SESSION, "SetStreaming", "b", [enabled])
        self._bus.call_nowait(call, on_answer, limit=PASSWORD_LIMIT, interactive=True)

    def _on_owner(self, owner: str) -> None:
        log.debug("the daemon is %s", owner or "not there")
        self._owner, self._path = owner, ""
        self._manager = self._sessions = None
        if not owner:
            self._on_change(Facts())
            return

        def on_manager(answer: Answer) -> None:
            if self._is_answer(answer, owner):
                self._manager = answer[0]
                self._tell()

        def on_sessions(answer: Answer) -> None:
            if self._is_answer(answer, owner):
                known = {path: found.get(SESSION) for path, found in answer[0].items()}
                self._sessions = {path: found for path, found in known.items() if found is not None}
                self._tell()

        self._bus.call_nowait(Call(owner, ROOT, PROPERTIES, "GetAll", "s", [MANAGER]), on_manager)
        call = Call(owner, ROOT, OBJECT_MANAGER, "GetManagedObjects")
        self._bus.call_nowait(call, on_sessions)

    def _is_answer(self, answer: Answer, owner: str) -> TypeGuard[list[Any]]:
        """Whether that is an answer, of the daemon that is there now."""
        if isinstance(answer, Exception):
            log.debug("the daemon did not answer: %s", answer)
            return False
        return owner == self._owner

    def _on_properties(self, signal: Signal) -> None:
        news = signal.body[1]
        known = self._manager if signal.path == ROOT else (self._sessions or {}).get(signal.path)
        if known is None:
            return  # what will be read is newer
        known.update(news)
        self._tell()

    def _on_added(self, signal: Signal) -> None:
        path, interfaces = signal.body
        if self._sessions is not None and SESSION in interfaces:
            self._sessions[path] = interfaces[SESSION]
            self._tell()

    def _on_removed(self, signal: Signal) -> None:
        if self._sessions is not None and self._sessions.pop(signal.body[0], None) is not None:
            self._tell()

    def _tell(self) -> None:
        if self._manager is None or self._sessions is None:
            return
        if self._path not in self._sessions:
            self._path = next((p for p, it in self._sessions.items() if self._is_ours(it)), "")
        manager, ours = self._manager, self._sessions.get(self._path, {})
        self._on_change(
            Facts(
                is_there=True,
                state=str(manager.get("State", "")),
                text=str(manager.get("ReasonText", "")),
                is_enabled=bool(manager.get("StreamingEnabled", True)),
                path=self._path,
                is_active=bool(ours.get("Active")),
                is_shown=bool(ours.get("Shown")),
                reason=str(ours.get("Reason", "")),
                backend=str(ours.get("Backend", "")),
            )
        )

    def _is_ours(self, session: Properties) -> bool:
        if self._id:
            return session.get("Id") == self._id
        uid, _name = session.get("User", (None, ""))
        return uid == self._uid and bool(session.get("Active"))
