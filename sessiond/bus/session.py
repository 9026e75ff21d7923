"""``org.spice_space.Sessiond1.Session``: one of logind's sessions, as the stream sees it."""

from collections.abc import Mapping
from typing import Any

from sessiond.bus.access import PAUSE, SWITCH, Access
from sessiond.bus.control import Control
from sessiond.model import Display, Session, State
from sessiond.transport.objects import Caller

_NOTHING = Display("", "", "")


class SessionObject:
    """An adapter for one session, as long as there is one."""

    interface = "org.spice_space.Sessiond1.Session"

    def __init__(self, session: Session, control: Control, access: Access) -> None:
        self._session = session
        self._control = control
        self._access = access

    def properties(self) -> Mapping[str, Any]:
        """Return all of them, as they are now."""
        control = self._control
        # For the short while in which it is gone already, its last words.
        session = self._session = control.facts.sessions.get(self._session.id, self._session)
        display = control.status.displays.get(session.id, _NOTHING)
        is_shown = control.status.session == session.id and control.status.state is State.STREAMING
        return {
            "Id": session.id,
            "User": [session.uid, session.user],
            "VTNr": session.vt,
            "Type": session.type,
            "Class": session.cls,
            "Display": display.name or session.display,
            "TTY": session.tty,
            "Desktop": session.desktop,
            "Remote": session.remote,
            "Active": session.active,
            "Locked": session.locked,
            "Shown": is_shown,
            "Reason": str(control.reason_of(session.id)),
            "Backend": display.backend,
            "EnvSource": display.rule,
            "LogindPath": session.path,
        }

    async def Activate(self, caller: Caller) -> None:  # noqa: N802
        """Bring it to the front."""
        await self._access.check(caller, SWITCH)
        await self._control.activate(self._session.id)

    async def SetStreaming(self, caller: Caller, enabled: bool) -> None:  # noqa: N802
        """Pause or resume it; its own user may, but for what an administrator has paused."""
        session = self._session
        is_admins = self._control.is_paused_by_admin(session.id)
        uid = await self._access.check(caller, PAUSE, owner=None if is_admins else session.uid)
        if not is_admins and self._control.is_paused_by_admin(session.id):
            # An administrator was quicker, while the bus was asked who the caller is.
            uid = await self._access.check(caller, PAUSE)
        is_owners = uid == session.uid
        self._control.set_streaming(session.id, enabled=enabled, by_owner=is_owners)
