"""``doctor``: what the findings mean, check by check. No I/O: ``sessiond.ctl.examine`` looks.

Each check is ``ok``, or ``fail`` with what to do, or ``skip``: not known while another one fails.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from sessiond.ctl.client import Properties
from sessiond.ctl.outcome import START_IT, Exit
from sessiond.ctl.status import because, codec, describe
from sessiond.ctl.view import Cell, Page, Style, Table, safe

OK: Final = "ok"
FAIL: Final = "fail"
SKIP: Final = "skip"
_STYLES: Final = {OK: Style.GOOD, FAIL: Style.BAD, SKIP: Style.WARN}

# What to do, where the daemon's own sentence does not say it.
_GIVE_PORT: Final = 'Give the VM a channel of type spiceport, named "org.spice-space.stream.0".'
_GIVE_CHANNEL: Final = 'For it, give the VM a channel named "org.spice-space.sessiond.0".'
_START_AGENT: Final = "Start it there: systemctl --user start spice-session-agent."
_LOOK: Final = "Look into its log: journalctl -u spice-sessiond."
_REMEDIES: Final = {
    "port-missing": _GIVE_PORT,
    "port-busy": "End that program, which may be spice-streaming-agent.",
    "no-display-found": "Is the session's X server running? " + _LOOK,
    "display-refused": "The session's X server does not let its own user in: look at its xauth.",
    "agent-crashed": _LOOK,
    "agent-timeout": _LOOK,
    "host-refused": _LOOK,
    "encoder-failed": "Install an encoder for what the host decodes. " + _LOOK,
    "host-stalled": "Look at the viewer, and at the line to it.",
}
_MJPEG: Final = "mjpeg"
_NEEDS_PYAV: Final = frozenset({"vp8", "vp9", "h264", "h265"})
_GET_PYAV: Final = "Install python3-av, or spice-sessiond[video] with pip."
_GET_DECODERS: Final = (
    "Where the client runs, install GStreamer's plug-ins base, good and, for H.264, bad and libav."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found; "" or 0 or None for what is not there.

    ``bus_error`` and ``config_error`` say why the bus or the configuration cannot be read: what
    follows from them is not known then. ``pid`` is the daemon's; ``daemon_error`` says that it does
    not answer. ``port``, ``agent`` and ``channel`` (of the host) are those of the configuration,
    ``agent_path`` is where the agent was found, ``channel_holder`` the pid of who has the channel
    open, as far as who asks may see it. ``caller`` is who asks, "" for root; ``agents`` are the
    pids of the users' agents by their users. ``codecs`` is stream.codec of the configuration,
    ``has_pyav`` says that the encoders of video codecs can be loaded.
    """

    name: str
    bus_error: str = ""
    pid: int = 0
    daemon_error: str = ""
    manager: Properties | None = None
    front: Properties | None = None
    has_logind: bool = False
    has_polkit: bool = False
    config_error: str = ""
    port: str = ""
    has_port: bool = False
    agent: str = ""
    agent_path: str = ""
    channel: str = ""
    has_channel: bool = False
    channel_holder: int = 0
    caller: str = ""
    agents: Mapping[str, int] = field(default_factory=dict)
    codecs: tuple[str, ...] = ("auto",)
    has_pyav: bool = False

    def told(self, name: str) -> str:
        """Return a text property of the Manager."""
        return safe((self.manager or {}).get(name, ""))

    @property
    def why(self) -> str:
        """The daemon's sentence, with a remedy where it has none."""
        return f"{self.told('ReasonText')} {_REMEDIES.get(self.told('Reason'), '')}".strip()


Answer = tuple[str, str]
_NO_DAEMON: Final[Answer] = (SKIP, "not known while the daemon does not answer")
_NO_BUS: Final[Answer] = (SKIP, "not known without the message bus")


def doctor_page(found: Findings) -> Page:
    """Return all checks; the exit status is 0 only if all are ok."""
    lines = [(name, *check(found)) for name, check in CHECKS.items()]
    keys = ("Check", "Result", "Text")
    rows = tuple(
        (Cell(result, _STYLES[result]), Cell(name), Cell(text)) for name, result, text in lines
    )
    document = [dict(zip(keys, line, strict=True)) for line in lines]
    is_well = all(result == OK for _, result, _ in lines)
    return Page(document, Table(rows), status=Exit.OK if is_well else Exit.FAILED)


def _bus_name(found: Findings) -> Answer:
    name = safe(found.name)
    if found.bus_error:
        return FAIL, f"{safe(found.bus_error)}. Start it: systemctl start dbus."
    if not found.pid:
        return FAIL, f"nobody owns {name}: spice-sessiond is not running; {START_IT}"
    if found.daemon_error:
        return FAIL, f"pid {found.pid} owns {name}, but: {safe(found.daemon_error)}. {_LOOK}"
    return OK, f"pid {found.pid} owns {name}, version {found.told('Version')}"


def _configuration(found: Findings) -> Answer:
    if found.config_error:
        return FAIL, f"{safe(found.config_error)}. Correct it: spice-sessiond(8)."
    return OK, "can be read"


def _logind(found: Findings) -> Answer:
    if found.bus_error:
        return _NO_BUS
    if not found.has_logind:
        return FAIL, "nobody owns org.freedesktop.login1. Start it: systemctl start systemd-logind."
    if found.told("Reason") == "logind-missing":
        return FAIL, found.why
    return OK, "is on the bus"


def _polkit(found: Findings) -> Answer:
    if found.bus_error:
        return _NO_BUS
    if not found.has_polkit:
        text = "is not there, so that only root may change anything. Install polkitd."
        return FAIL, text
    return OK, "is on the bus, or is started when it is asked"


def _port(found: Findings) -> Answer:
    state = found.told("State")
    if state == "no-port":
        return FAIL, found.why
    # A pause hides what is wrong with the port; but only through an open one a host can ask.
    if (found.manager or {}).get("HostAsking") or state not in {"", "paused"}:
        return OK, "the daemon has no complaint about it"
    if found.config_error:
        return SKIP, "not known without the configuration"
    if not found.has_port:
        return FAIL, f"there is no {safe(found.port)}. {_GIVE_PORT}"
    return OK, f"{safe(found.port)} is there"


def _pause(found: Findings) -> Answer:
    if found.manager is None:
        return _NO_DAEMON
    if found.told("State") == "paused":
        return FAIL, found.why
    return OK, "nobody has paused the stream"


def _host(found: Findings) -> Answer:
    if found.manager is None:
        return _NO_DAEMON
    reason = found.told("Reason")
    if reason in {"host-refused", "host-stalled"}:
        return FAIL, found.why
    if found.manager.get("HostAsking"):
        return OK, f"a client asks for a stream, and decodes {_codecs(found.manager)}"
    if found.told("State") == "no-port":
        return SKIP, "not known while the port is closed"
    return FAIL, "no client asks for a stream. Connect a viewer, such as remote-viewer."


def _display(found: Findings) -> Answer:
    if found.manager is None:
        return _NO_DAEMON
    front = found.front
    if front and front.get("EnvSource"):
        rule, display = safe(front["EnvSource"]), safe(front.get("Display", ""))
        return OK, f"{describe(front)}: {display}, found by {rule}"
    state, reason = found.told("State"), found.told("Reason")
    if state in {"no-session", "back-off"} and reason not in {"host-refused", "encoder-failed"}:
        return FAIL, found.why
    return SKIP, f"not looked for: {state} ({reason})"


def _encoder(found: Findings) -> Answer:
    manager = found.manager or {}
    if found.told("Reason") == "encoder-failed":
        return FAIL, found.why
    if manager.get("Codec"):
        size = f"{manager.get('Width', 0)}x{manager.get('Height', 0)}"
        return OK, f"sends {codec(manager)}, {size}{because(manager)}"
    result, text = (OK, "the agent runs") if manager.get("AgentPID") else _agent(found)
    codecs: Sequence[str] = manager.get("HostCodecs", ())
    own = {_MJPEG, *(_NEEDS_PYAV if found.has_pyav else ())}
    if result == OK and codecs and own.isdisjoint(codecs):
        text = f"the host decodes {_codecs(manager)}; the agent's own encoders make "
        text += f"{', '.join(sorted(own))}."
        return FAIL, f"{text} Install a plug-in that encodes one of them."
    return result, f"{text}; nothing is being encoded" if result == OK else text


def _video(found: Findings) -> Answer:
    """Judge what a slow line needs; MJPEG alone is no failure, unless something else is wanted."""
    wanted = ", ".join(map(safe, found.codecs))
    if not found.has_pyav:
        if not found.config_error and _NEEDS_PYAV.issuperset(found.codecs):
            return FAIL, f"stream.codec is {wanted}, but PyAV is not there. {_GET_PYAV}"
        return OK, f"PyAV is not there, so a slow line gets MJPEG, too. {_GET_PYAV}"
    decoded: Sequence[str] = (found.manager or {}).get("HostCodecs", ())
    if decoded and _NEEDS_PYAV.isdisjoint(decoded):
        return OK, f"PyAV is there, but the client decodes nothing but MJPEG. {_GET_DECODERS}"
    return OK, f"PyAV is there{f', and stream.codec is {wanted}' if wanted else ''}"


def _agent(found: Findings) -> Answer:
    if found.config_error:
        return SKIP, "not known without the configuration"
    if not found.agent_path:
        text = f"the agent {safe(found.agent)}, which the configuration names, is not there."
        return FAIL, f"{text} Install it, or correct stream.agent."
    return OK, f"{safe(found.agent_path)} is there"


def _channel(found: Findings) -> Answer:
    if found.config_error:
        return SKIP, "not known without the configuration"
    channel, holder = safe(found.channel), found.channel_holder
    if found.channel == "off":
        return OK, "is off in the configuration"
    if not found.has_channel:  # few VMs have one
        return OK, f"there is no {channel}, by which the host could send commands. {_GIVE_CHANNEL}"
    if holder and holder != found.pid:
        return FAIL, f"{channel} is held by pid {holder}, not by the daemon. End that program."
    return OK, f"{channel} is there{', held by the daemon' if holder else ''}"


def _user_agent(found: Findings) -> Answer:
    if found.manager is None:
        return _NO_DAEMON
    front = found.front or {}
    is_person = str(front.get("Class", "")).startswith("user")
    users = {str(front["User"][1])} if is_person and "User" in front else set()
    users |= {found.caller} if found.caller else set()
    missing = ", ".join(safe(user) for user in sorted(users - found.agents.keys()))
    if not missing:
        there = ", ".join(f"{safe(user)} (pid {found.agents[user]})" for user in sorted(users))
        return OK, f"is connected: {there}" if there else "no user is in front"
    text = f"no agent is connected of {missing}"
    if not found.has_channel:
        return OK, f"{text}; nor is there a host channel that needs one"
    return FAIL, f"{text}. {_START_AGENT}"


def _codecs(manager: Properties) -> str:
    return ", ".join(map(safe, manager.get("HostCodecs", ())))


CHECKS: Final[Mapping[str, Callable[[Findings], Answer]]] = {
    "configuration": _configuration,
    "bus name": _bus_name,
    "logind": _logind,
    "polkit": _polkit,
    "port": _port,
    "pause": _pause,
    "host": _host,
    "display": _display,
    "encoder": _encoder,
    "video codecs": _video,
    "host channel": _channel,
    "user agent": _user_agent,
}
"""In the order in which one depends on another."""
