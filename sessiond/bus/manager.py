"""``org.spice_space.Sessiond1.Manager``: the status, readable by everybody.

A first part of the interface: what is shown and why. The methods come with the whole contract.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sessiond import __version__
from sessiond.model import Status
from sessiond.transport.dbus import PropertyAccess, ServiceInterface, dbus_property

if TYPE_CHECKING:
    Boolean = bool
    SessionRef = list[str]
    Text = str
    Unsigned = int
else:
    Boolean = "b"
    SessionRef = "(so)"
    Text = "s"
    Unsigned = "u"

INTERFACE: Final = "org.spice_space.Sessiond1.Manager"
PATH: Final = "/org/spice_space/Sessiond1"
_READ: Final = PropertyAccess.READ


@dataclass(frozen=True, slots=True)
class View:
    """The status, and the object path of the session that it is about ("/" for none)."""

    status: Status
    session_path: str
    seat: str


class Manager(ServiceInterface):
    """An adapter: ``view()`` gives what is so now."""

    def __init__(self, view: Callable[[], View]) -> None:
        super().__init__(INTERFACE)
        self._view = view
        self._told: dict[str, Any] = {}

    def changed(self) -> None:
        """Emit PropertiesChanged for what differs from the last time."""
        view = self._view()
        now = {
            "ActiveSession": [view.status.session, view.session_path],
            "State": str(view.status.state),
            "Reason": str(view.status.reason),
            "ReasonText": view.status.text,
            "AgentPID": view.status.agent_pid,
            "AgentRestarts": view.status.agent_restarts,
            "HostAsking": view.status.host_asking,
        }
        news = {name: value for name, value in now.items() if self._told.get(name) != value}
        self._told = now
        if news:
            self.emit_properties_changed(news)

    @dbus_property(access=_READ)
    def Version(self) -> Text:  # noqa: N802 (D-Bus writes it so)
        """The daemon's version."""
        return __version__

    @dbus_property(access=_READ)
    def Seat(self) -> Text:  # noqa: N802
        """The seat that is followed."""
        return self._view().seat

    @dbus_property(access=_READ)
    def ActiveSession(self) -> SessionRef:  # noqa: N802
        """The session that is to be shown: its id and path, ("", "/") for none."""
        view = self._view()
        return [view.status.session, view.session_path]

    @dbus_property(access=_READ)
    def State(self) -> Text:  # noqa: N802
        """What the stream is doing."""
        return str(self._view().status.state)

    @dbus_property(access=_READ)
    def Reason(self) -> Text:  # noqa: N802
        """Why, as a code."""
        return str(self._view().status.reason)

    @dbus_property(access=_READ)
    def ReasonText(self) -> Text:  # noqa: N802
        """Why, in a sentence."""
        return self._view().status.text

    @dbus_property(access=_READ)
    def AgentPID(self) -> Unsigned:  # noqa: N802
        """The shown session's agent, 0 for none."""
        return self._view().status.agent_pid

    @dbus_property(access=_READ)
    def AgentRestarts(self) -> Unsigned:  # noqa: N802
        """How often an agent ended without being told to."""
        return self._view().status.agent_restarts

    @dbus_property(access=_READ)
    def HostAsking(self) -> Boolean:  # noqa: N802
        """Whether a client watches."""
        return self._view().status.host_asking
