"""Facts about a seat and its sessions, and what was decided from them.

Every part may read these; all are frozen. Who finds the facts out (logind, the helpers, the VT
file) and who acts on the decision stand elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One session, in logind's own words; what is not known is "" or 0.

    ``path`` is the object path that logind gave, to be used as it is. ``cls`` is logind's Class.
    ``active`` says that the session is the one in front on its seat. ``state`` can be out of
    date: closing is not signalled. ``since`` is its beginning in microseconds since 1970.
    """

    id: str
    path: str
    uid: int
    gid: int
    user: str = ""
    seat: str = ""
    vt: int = 0
    type: str = ""
    cls: str = ""
    state: str = ""
    display: str = ""
    tty: str = ""
    desktop: str = ""
    scope: str = ""
    leader: int = 0
    since: int = 0
    remote: bool = False
    active: bool = False
    locked: bool = False

    @property
    def is_console(self) -> bool:
        """Whether it is no session of logind's, but what a VT without one shows."""
        return self.cls == CONSOLE


CONSOLE: Final = "console"  # logind has no class of that name
NOBODY: Final = 65534  # the account of what needs no rights
KMS: Final = "kms"
"""The back-end that reads what the graphics card shows, in an agent of nobody's."""


def console(seat: str, vt: int) -> Session:
    """Return what stands for a VT in front that no session is active on, as if it were one.

    So it can be shown like one. It is in no list of sessions, and nobody's: ``path`` is "". The
    id is like none of logind's, nor of a helper's without logind.
    """
    return Session(
        id=f"tty{vt}", path="", uid=NOBODY, gid=NOBODY, seat=seat, vt=vt, type="tty",
        cls=CONSOLE, state="active", tty=f"tty{vt}", active=True,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatFacts:
    """What is known of a seat at one moment.

    ``sessions`` holds every session by id, those of other seats and of no seat too. ``active`` is
    the id of the session in front, "" for none. ``vt`` is the VT in front, 0 when unknown.
    ``proven`` holds the ids of the sessions of type tty that have a display on their own VT.
    ``has_card``: there is a graphics card whose picture could be read. ``is_whole`` is false where
    logind is there and does not answer: there may be sessions of which nothing is known.
    """

    seat: str
    has_logind: bool = False
    sessions: Mapping[str, Session] = field(
        default_factory=lambda: MappingProxyType({}), hash=False
    )
    active: str = ""
    vt: int = 0
    proven: frozenset[str] = frozenset()
    has_card: bool = False
    is_whole: bool = True


class State(StrEnum):
    """What the stream is doing; a script may test for these."""

    PAUSED = "paused"
    NO_PORT = "no-port"
    NO_SESSION = "no-session"
    BACK_OFF = "back-off"
    IDLE = "idle"
    STARTING = "starting"
    STREAMING = "streaming"


class Reason(StrEnum):
    """Why it does that. The order is the rank: the first that applies holds."""

    PAUSED_BY_ADMIN = "paused-by-admin"
    PAUSED_BY_USER = "paused-by-user"
    PORT_MISSING = "port-missing"
    PORT_BUSY = "port-busy"
    NO_ACTIVE_SESSION = "no-active-session"
    TEXT_CONSOLE = "text-console"
    SESSION_CLOSING = "session-closing"
    SESSION_REMOTE = "session-remote"
    SESSION_CLASS = "session-class"
    SESSION_DENIED = "session-denied"
    TYPE_UNSUPPORTED = "type-unsupported"
    LOGIND_MISSING = "logind-missing"
    NO_DISPLAY_FOUND = "no-display-found"
    DISPLAY_REFUSED = "display-refused"
    AGENT_CRASHED = "agent-crashed"
    AGENT_TIMEOUT = "agent-timeout"
    ENCODER_FAILED = "encoder-failed"
    HOST_REFUSED = "host-refused"
    HOST_NOT_ASKING = "host-not-asking"
    AGENT_STARTING = "agent-starting"
    OK = "ok"
    HOST_STALLED = "host-stalled"

    @property
    def state(self) -> State:
        """The one state that this reason belongs to."""
        return _STATES[self]


_ROWS: Final = {
    State.PAUSED: (Reason.PAUSED_BY_ADMIN, Reason.PAUSED_BY_USER),
    State.NO_PORT: (Reason.PORT_MISSING, Reason.PORT_BUSY),
    State.NO_SESSION: (
        Reason.NO_ACTIVE_SESSION,
        Reason.TEXT_CONSOLE,
        Reason.SESSION_CLOSING,
        Reason.SESSION_REMOTE,
        Reason.SESSION_CLASS,
        Reason.SESSION_DENIED,
        Reason.TYPE_UNSUPPORTED,
        Reason.LOGIND_MISSING,
    ),
    State.BACK_OFF: (
        Reason.NO_DISPLAY_FOUND,
        Reason.DISPLAY_REFUSED,
        Reason.AGENT_CRASHED,
        Reason.AGENT_TIMEOUT,
        Reason.ENCODER_FAILED,
        Reason.HOST_REFUSED,
    ),
    State.IDLE: (Reason.HOST_NOT_ASKING,),
    State.STARTING: (Reason.AGENT_STARTING,),
    State.STREAMING: (Reason.OK, Reason.HOST_STALLED),
}
_STATES: Final = {reason: state for state, reasons in _ROWS.items() for reason in reasons}


@dataclass(frozen=True, slots=True)
class Decision:
    """Which session is to be shown.

    Either ``session`` is its id, ``reason`` None and ``text`` "", or ``session`` is "", and
    ``reason`` and ``text`` (a sentence for a person, with the remedy where there is one) say why.
    ``probe`` is the id of a session that would be shown if a display were proven on its VT.
    ``route`` names the back-ends that may capture either, the first to be tried first; "kms", which
    an agent of its own kind does, is always the last. The session can be a ``console``.
    ``remedy`` is the sentence to end with where each of them has failed, "" for none.
    """

    session: str
    reason: Reason | None = None
    text: str = ""
    probe: str = ""
    route: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Display:
    """What an agent has open, such as ``:0`` or ``wayland-1``, and the rule that found it.

    ``backend`` is what captures it, such as "x11".
    """

    name: str
    rule: str
    backend: str = "x11"


@dataclass(frozen=True, slots=True)
class Counters:
    """What was sent to the host since the daemon's start; ``rate`` in frames/s of just now."""

    frames: int = 0
    bytes: int = 0
    rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the stream does and why: what D-Bus, the journal and the history tell.

    ``session`` is the id of the session that is to be shown, "" for none and for a console.
    ``backend`` is what captures it, or that, such as "x11"; "" while nothing does. ``codec`` to
    ``height`` are those of the stream that is being sent; ``encoder`` is what makes it, such as
    "libvpx", and ``why`` a clause that says why it is this codec, "" where the configuration
    does; both are "" while its agent does not say. ``next_retry`` is the seconds since 1970
    when what has failed is tried again, 0 when nothing waits. ``displays`` are those that the
    sessions' agents have open, by session.
    """

    session: str
    reason: Reason
    text: str
    agent_pid: int = 0
    agent_restarts: int = 0
    host_codecs: tuple[int, ...] = ()
    backend: str = ""
    codec: int = 0
    width: int = 0
    height: int = 0
    encoder: str = ""
    why: str = ""
    next_retry: float = 0.0
    displays: Mapping[str, Display] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def state(self) -> State:
        """The state that goes with the reason."""
        return self.reason.state


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the history; ``at`` is in seconds since 1970.

    The status is another session's or has another reason than the one before, or another codec;
    then its text is about that.
    """

    at: float
    status: Status


@dataclass(frozen=True, slots=True)
class UserAgent:
    """A user's agent that is connected; ``since`` is in seconds since 1970.

    ``uid`` and ``pid`` are the kernel's words. ``name`` is that of the user database, ``#UID``
    where it has none.
    """

    uid: int
    name: str
    pid: int
    since: float


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command has ended: the exit code, or -1 and the signal that killed it.

    -1 and no signal where nobody knows: the user's agent is gone.
    """

    code: int
    signal: int = 0


@dataclass(frozen=True, slots=True)
class TerminalSize:
    """The size of a terminal's window, in characters: 1 to 65535 each way."""

    columns: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a local caller wants run. What is not named is "".

    ``user`` is whose command it is to be, by default the caller's, or that of the ``session``.
    ``argv`` is the command, or what goes to the ``service``. ``env`` is added to the environment.
    ``terminal`` is the size of the one that is to be made for it, None for none. Only with one,
    and without ``argv`` and ``service``, ``is_login_shell``: the user's own, as a login shell.
    """

    uid: int  # of the caller
    user: str = ""
    session: str = ""
    service: str = ""
    argv: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    cwd: str = ""
    terminal: TerminalSize | None = None
    is_login_shell: bool = False


@dataclass(frozen=True, slots=True)
class UserDisplay:
    """A display of a user's, such as ``:0``.

    ``session`` is the id of the session that it belongs to, ``type`` and ``is_active`` are that
    session's; "" and false for a display of no session. ``is_connected``: the user's agent has it
    open.
    """

    name: str
    session: str = ""
    type: str = ""
    is_active: bool = False
    is_connected: bool = False


@dataclass(frozen=True, slots=True)
class Screen:
    """One output of a display: its place in the picture, in pixels."""

    output: str
    x: int
    y: int
    width: int
    height: int
    is_primary: bool
