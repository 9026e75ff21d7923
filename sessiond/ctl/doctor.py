"""``doctor``: what the findings mean, check by check. No I/O: ``sessiond.ctl.examine`` looks.

Each check is ``ok``, or ``fail`` with what to do, or ``skip``: not known while another one fails.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from sessiond.ctl.client import Properties
from sessiond.ctl.findings import FAIL, OK, SKIP, Answer, Findings
from sessiond.ctl.means import graphics_card, pipewire
from sessiond.ctl.outcome import START_IT, Exit
from sessiond.ctl.status import because, codec, describe, display
from sessiond.ctl.view import Cell, Page, Style, Table, safe
from sessiond.stream.kms import NOT_READ

_STYLES: Final = {OK: Style.GOOD, FAIL: Style.BAD, SKIP: Style.WARN}

# What to do, where the daemon's own sentence does not say it.
_GIVE_PORT: Final = 'Give the VM a channel of type spiceport, named "org.spice-space.stream.0".'
_GIVE_CHANNEL: Final = 'For it, give the VM a channel named "org.spice-space.sessiond.0".'
_START_AGENT: Final = "Start it there: systemctl --user start spice-session-agent."
_LOOK: Final = "Look into its log: journalctl -u spice-sessiond."
_REMEDIES: Final = {
    "port-missing": _GIVE_PORT,
    "port-busy": "End that program, which may be spice-streaming-agent.",
    "text-console": "To show it as it is takes the graphics card: see that check.",
    "no-display-found": "Is the session's X server running, or its compositor? " + _LOOK,
    "display-refused": "If an X server does not let its own user in, look at its xauth.",
    "type-unsupported": "What may capture it: capture.order and others, in spice-sessiond(8).",
    "agent-crashed": _LOOK,
    "agent-timeout": _LOOK,
    "host-refused": _LOOK,
    "encoder-failed": "Install an encoder for what the host decodes. " + _LOOK,
    "host-stalled": "Look at the viewer, and at the line to it.",
}
_WAYLAND_REMEDIES: Final = {
    "no-display-found": "Does its compositor run? " + _LOOK,
    "display-refused": "The compositor does not let its own user's programs see the screen.",
}
_MJPEG: Final = "mjpeg"
_NEEDS_PYAV: Final = frozenset({"vp8", "vp9", "h264", "h265"})
_GET_PYAV: Final = "Install python3-av, or spice-sessiond[video] with pip."
_GET_DECODERS: Final = (
    "Where the client runs, install GStreamer's plug-ins base, good and, for H.264, bad and libav."
)


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
        return FAIL, _why(found)
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
        return FAIL, _why(found)
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
        return FAIL, _why(found)
    return OK, "nobody has paused the stream"


def _host(found: Findings) -> Answer:
    if found.manager is None:
        return _NO_DAEMON
    reason = found.told("Reason")
    if reason in {"host-refused", "host-stalled"}:
        return FAIL, _why(found)
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
        rule = safe(front["EnvSource"])
        return OK, f"{describe(front)}: {display(front)}, found by {rule}"
    state, reason = found.told("State"), found.told("Reason")
    if front is None and found.manager.get("Backend"):
        return OK, f"a text console, by {found.told('Backend')}"
    if state in {"no-session", "back-off"} and reason not in {"host-refused", "encoder-failed"}:
        return FAIL, _why(found)
    return SKIP, f"not looked for: {state} ({reason})"


def _encoder(found: Findings) -> Answer:
    manager = found.manager or {}
    if found.told("Reason") == "encoder-failed":
        return FAIL, _why(found)
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


def _why(found: Findings) -> str:
    """Return the daemon's sentence, with a remedy where it has none."""
    reason, text = found.told("Reason"), found.told("ReasonText")
    if NOT_READ in text:  # what is wrong is with the card or its helper, and the sentence says what
        return text
    is_wayland = (found.front or {}).get("Type") == "wayland"
    remedies = _REMEDIES | (_WAYLAND_REMEDIES if is_wayland else {})
    return f"{text} {remedies.get(reason, '')}".strip()


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
    "graphics card": graphics_card,
    "pipewire": pipewire,
    "encoder": _encoder,
    "video codecs": _video,
    "host channel": _channel,
    "user agent": _user_agent,
}
"""In the order in which one depends on another."""
