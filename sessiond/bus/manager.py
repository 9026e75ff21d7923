"""``org.spice_space.Sessiond1.Manager``: what is shown, why, and what can be changed.

An adapter without a state of its own: it asks polkit, calls ``Control`` and ``Users`` and puts
their answers into the words of the contract.
"""

from collections.abc import Coroutine, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

from sessiond import __version__
from sessiond.bus.access import (
    CONNECT_DISPLAY,
    PAUSE,
    QUERY_DISPLAYS,
    RELOAD,
    RESTART,
    RUN_COMMAND,
    SETTINGS,
    SWITCH,
    Access,
)
from sessiond.bus.command import Commands
from sessiond.bus.control import NO_SUCH_SESSION, Control, Users
from sessiond.bus.order import read_order
from sessiond.bus.paths import session_path, user_path
from sessiond.errors import RequestError
from sessiond.model import Session
from sessiond.transport.objects import Caller
from sessiond.transport.passing import Passed
from sessiond.wire.device import codec_name

_INVALID: Final = "org.freedesktop.DBus.Error.InvalidArgs"
LAST_VT: Final = 63  # linux/vt.h, MAX_NR_CONSOLES
AUTO_SWITCH: Final = ("off", "on-session-end")


class Manager:
    """The root object."""

    interface = "org.spice_space.Sessiond1.Manager"

    def __init__(self, control: Control, users: Users, access: Access, commands: Commands) -> None:
        self._control = control
        self._users = users
        self._access = access
        self._commands = commands

    def properties(self) -> Mapping[str, Any]:
        """Return all of them, as they are now."""
        control = self._control
        status, counters, active = control.status, control.counters(), control.facts.active
        return {
            "Version": __version__,
            "Seat": control.facts.seat,
            "ActiveSession": [active, session_path(active)],
            "State": str(status.state),
            "Reason": str(status.reason),
            "ReasonText": status.text,
            "HostAsking": bool(status.host_codecs),
            "HostCodecs": [codec_name(codec) for codec in status.host_codecs],
            "Backend": status.backend,
            "Codec": codec_name(status.codec),
            "Encoder": status.encoder,
            "CodecReason": status.why,
            "Width": status.width,
            "Height": status.height,
            "AgentPID": status.agent_pid,
            "AgentRestarts": status.agent_restarts,
            "NextRetryUSec": int(status.next_retry * 1e6),
            "StreamingEnabled": control.is_enabled,
            "AutoSwitch": control.auto_switch,
            "FramesSent": counters.frames,
            "BytesSent": counters.bytes,
            "FrameRate": counters.rate,
        }

    async def set_StreamingEnabled(self, caller: Caller, value: bool) -> None:  # noqa: N802
        """Pause or resume everything."""
        await self._access.check(caller, PAUSE)
        self._control.set_enabled(enabled=value)

    async def set_AutoSwitch(self, caller: Caller, value: str) -> None:  # noqa: N802
        """Choose what follows the end of the shown session."""
        if value not in AUTO_SWITCH:
            raise RequestError(_INVALID, f"AutoSwitch is {' or '.join(AUTO_SWITCH)}")
        await self._access.check(caller, SETTINGS)
        self._control.set_auto_switch(value)

    def ListSessions(self, _caller: Caller) -> list[list[Any]]:  # noqa: N802
        """Return id, uid, user, class, type, VT and path of each."""
        return [
            [s.id, s.uid, s.user, s.cls, s.type, s.vt, session_path(s.id)]
            for s in self._control.facts.sessions.values()
        ]

    def GetSession(self, _caller: Caller, session_id: str) -> str:  # noqa: N802
        """Return its path."""
        return session_path(self._session(session_id).id)

    def GetSessionByVT(self, _caller: Caller, vt: int) -> str:  # noqa: N802
        """Return the path of the active one there, else of the newest."""
        found = [s for s in self._control.facts.sessions.values() if vt and s.vt == vt]
        if not found:
            raise RequestError(NO_SUCH_SESSION, f"there is no session on VT {vt}")
        return session_path(max(found, key=lambda s: (s.active, s.since)).id)

    async def ActivateSession(self, caller: Caller, session_id: str) -> None:  # noqa: N802
        """Bring it to the front."""
        session = self._session(session_id)
        await self._access.check(caller, SWITCH)
        await self._control.activate(session.id)

    async def SwitchToVT(self, caller: Caller, vt: int) -> None:  # noqa: N802
        """Bring a VT to the front."""
        if not 1 <= vt <= LAST_VT:
            raise RequestError(_INVALID, f"a VT is from 1 to {LAST_VT}, not {vt}")
        await self._access.check(caller, SWITCH)
        await self._control.switch_to(vt)

    async def RestartAgent(self, caller: Caller) -> None:  # noqa: N802
        """Start the shown session's agent anew."""
        owner = self._owner_of_shown()
        await self._access.check(caller, RESTART, owner=owner)
        if self._owner_of_shown() != owner:
            await self._access.check(caller, RESTART)  # it is another's by now
        self._control.restart_agent()

    def GetHistory(self, _caller: Caller, limit: int) -> list[list[Any]]:  # noqa: N802
        """Return time, session, state, reason and text of the newest changes."""
        return [
            [int(event.at * 1e6), s.session, str(s.state), str(s.reason), s.text]
            for event in self._control.history(limit)
            for s in (event.status,)
        ]

    async def Reload(self, caller: Caller) -> None:  # noqa: N802
        """Read the configuration again."""
        await self._access.check(caller, RELOAD)
        self._control.reload()

    def ListUserAgents(self, _caller: Caller) -> list[list[Any]]:  # noqa: N802
        """Return uid, name and path of each."""
        agents = self._users.agents.values()
        return [[agent.uid, agent.name, user_path(agent.uid)] for agent in agents]

    async def QueryDisplays(self, caller: Caller, user: str) -> list[list[Any]]:  # noqa: N802
        """Return name, session, type and whether that is active, of each display."""
        await self._check_user(caller, QUERY_DISPLAYS, user)
        displays = await self._users.displays(user)
        return [[it.name, it.session, it.type, it.is_active] for it in displays]

    async def QueryScreens(  # noqa: N802
        self, caller: Caller, user: str, display: str
    ) -> list[list[Any]]:
        """Return output, place, size and whether it is the primary one, of each screen."""
        await self._check_user(caller, QUERY_DISPLAYS, user)
        screens = await self._users.screens(user, display)
        return [[it.output, it.x, it.y, it.width, it.height, it.is_primary] for it in screens]

    async def ConnectDisplay(  # noqa: N802
        self, caller: Caller, user: str, display: str, show: bool
    ) -> str:
        """Let the user's agent connect to a display; return the path of its session."""
        if show:
            await self._access.check(caller, SWITCH)
        await self._check_user(caller, CONNECT_DISPLAY, user)
        return session_path(await self._users.connect(user, display, show=show))

    def RunCommand(self, caller: Caller, *arguments: Any) -> Coroutine[Any, Any, str]:  # noqa: ANN401, N802
        """Have a command run in a user's session; return its path."""
        *what, stdin, stdout, stderr = arguments
        passed = Passed((stdin, stdout, stderr))  # first: also who is refused gets them closed
        return self._run(caller, what, passed)

    async def _run(self, caller: Caller, what: Sequence[Any], passed: Passed) -> str:
        async def ask() -> None:
            await self._access.check(caller, RUN_COMMAND)

        with closing(passed):
            order = read_order(await self._access.uid_of(caller), what)
            run = await self._users.run(order, passed, ask)
        return self._commands.serve(run, caller)

    async def _check_user(self, caller: Caller, action: str, user: str) -> None:
        """Ask whether the caller may do that to a user, who may it without being asked."""
        uid = self._users.find(user).uid
        await self._access.check(caller, action, owner=uid)
        if self._users.find(user).uid != uid:
            await self._access.check(caller, action)  # the name is another user's by now

    def _owner_of_shown(self) -> int | None:
        shown = self._control.facts.sessions.get(self._control.status.session)
        return shown.uid if shown else None

    def _session(self, session_id: str) -> Session:
        session = self._control.facts.sessions.get(session_id)
        if session is None:
            raise RequestError(NO_SUCH_SESSION, f"there is no session {session_id!r}")
        return session
