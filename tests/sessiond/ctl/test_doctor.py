"""The doctor's judgement: each finding, and what is said to do."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sessiond.ctl.commands import run
from sessiond.ctl.doctor import CHECKS, doctor_page
from sessiond.ctl.findings import FAIL, OK, SKIP, Findings, Means
from sessiond.ctl.outcome import Exit
from sessiond.ctl.parser import parse
from sessiond.ctl.screen import Screen
from sessiond.ctl.view import Page
from sessiond.model import Reason
from sessiond.stream.kms import NOT_READ, SOCKET_UNIT
from tests.fixtures.bus import PrivateBus
from tests.fixtures.loop import in_loop
from tests.sessiond.ctl.told import BOB, ESCAPE, MANAGER

MEANS = Means(
    cards="/dev/dri", has_card=True, kms_socket="/run/kms.sock", has_kms_socket=True,
    has_libpipewire=True, pipewire="/run/user/1001/pipewire-0",
)  # fmt: skip
WELL = Findings(
    name="org.spice_space.Sessiond1", pid=4711, manager=MANAGER, front=BOB, has_logind=True,
    has_polkit=True, port="/dev/port", has_port=True, agent="spice-session-agent",
    agent_path="/usr/bin/spice-session-agent", channel="/dev/channel", has_channel=True,
    channel_holder=4711, caller="alice", agents={"alice": 5, "bob": 6}, has_pyav=True,
    means=MEANS,
)  # fmt: skip
DEAD = replace(WELL, pid=0, manager=None, front=None, channel_holder=0, agents={})
LONELY = replace(WELL, agents={})
GREETING = replace(WELL, front=BOB | {"Class": "greeter"}, agents={})

ALL_WELL = """\
ok configuration can be read
ok bus name      pid 4711 owns org.spice_space.Sessiond1, version 0.1.0
ok logind        is on the bus
ok polkit        is on the bus, or is started when it is asked
ok port          the daemon has no complaint about it
ok pause         nobody has paused the stream
ok host          a client asks for a stream, and decodes mjpeg, vp8
ok display       session c2, bob, x11 user, VT 8: :1 by x11, found by logind
ok graphics card is there, and a helper that reads it
ok pipewire      is there
ok encoder       sends mjpeg (libjpeg-turbo), 1920x1080
ok video codecs  PyAV is there, and stream.codec is auto
ok host channel  /dev/channel is there, held by the daemon
ok user agent    is connected: alice (pid 5), bob (pid 6)
"""
NOT_RUNNING = """\
ok   configuration can be read
fail bus name      nobody owns org.spice_space.Sessiond1: spice-sessiond is not running; \
start it with: systemctl start spice-sessiond
ok   logind        is on the bus
ok   polkit        is on the bus, or is started when it is asked
ok   port          /dev/port is there
skip pause         not known while the daemon does not answer
skip host          not known while the daemon does not answer
skip display       not known while the daemon does not answer
ok   graphics card is there, and a helper that reads it
ok   pipewire      is there
ok   encoder       /usr/bin/spice-session-agent is there; nothing is being encoded
ok   video codecs  PyAV is there, and stream.codec is auto
ok   host channel  /dev/channel is there
skip user agent    not known while the daemon does not answer
"""


def told(reason: str, **properties: Any) -> Findings:  # noqa: ANN401
    """Return findings of a daemon that gives this reason, and whose stream does not flow."""
    values = {
        "State": str(Reason(reason).state), "Reason": reason, "ReasonText": "So it is.",
        "Codec": "", "HostAsking": True,
    }  # fmt: skip
    return replace(WELL, manager=MANAGER | values | properties, front=BOB | {"EnvSource": ""})


def means(**changes: Any) -> Findings:  # noqa: ANN401
    return replace(told("agent-starting"), means=replace(MEANS, **changes))


def on_wayland(reason: str, **changes: Any) -> Findings:  # noqa: ANN401
    """Return findings where a GNOME session on Wayland is in front, and nothing captures it."""
    front = BOB | {"EnvSource": "", "Type": "wayland", "Backend": "", "Desktop": "GNOME"}
    return replace(told(reason), front=front, means=replace(MEANS, **changes))


def captured_by(backend: str, **changes: Any) -> Findings:  # noqa: ANN401
    found = on_wayland("ok", **changes)
    return replace(found, front=(found.front or {}) | {"EnvSource": "r", "Backend": backend})


STARTING = told("agent-starting", HostCodecs=["h264"])


def test_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    page = doctor_page(WELL)
    Screen().show(page)
    assert capsys.readouterr().out == ALL_WELL
    assert page.status == Exit.OK


def test_the_daemon_does_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    page = doctor_page(DEAD)
    Screen().show(page)
    assert capsys.readouterr().out == NOT_RUNNING
    assert page.status == Exit.FAILED


@pytest.mark.parametrize(
    ("found", "check", "result", "words"),
    [
        (replace(DEAD, bus_error="no bus"), "bus name", FAIL, "systemctl start dbus"),
        (replace(DEAD, bus_error="no bus"), "logind", SKIP, "message bus"),
        (replace(DEAD, bus_error="no bus"), "polkit", SKIP, "message bus"),
        (replace(WELL, daemon_error="mute"), "bus name", FAIL, "mute. Look into its log"),
        (replace(DEAD, config_error="a.toml:1: x"), "configuration", FAIL, "a.toml:1: x"),
        (replace(DEAD, config_error="a.toml:1: x"), "port", SKIP, "configuration"),
        (replace(DEAD, config_error="a.toml:1: x"), "encoder", SKIP, "configuration"),
        (replace(DEAD, has_port=False), "port", FAIL, "spiceport"),
        (replace(DEAD, agent_path=""), "encoder", FAIL, "stream.agent"),
        (replace(WELL, has_logind=False), "logind", FAIL, "systemctl start systemd-logind"),
        (replace(WELL, has_polkit=False), "polkit", FAIL, "polkitd"),
        (told("logind-missing"), "logind", FAIL, "So it is."),
        (told("port-missing", HostAsking=False), "port", FAIL, "So it is. Give the VM"),
        (told("port-missing", HostAsking=False), "host", SKIP, "port is closed"),
        (told("port-busy"), "port", FAIL, "spice-streaming-agent"),
        (told("paused-by-admin"), "pause", FAIL, "So it is."),
        (told("paused-by-admin"), "port", OK, "no complaint"),
        (told("paused-by-admin", HostAsking=False), "port", OK, "/dev/port"),
        (told("paused-by-user"), "pause", FAIL, "So it is."),
        (told("paused-by-user"), "display", SKIP, "not looked for: paused (paused-by-user)"),
        (told("host-not-asking", HostAsking=False), "host", FAIL, "Connect a viewer"),
        (told("host-refused"), "host", FAIL, "So it is."),
        (told("host-stalled"), "host", FAIL, "line to it"),
        (told("text-console"), "display", FAIL, "So it is."),
        (told("display-refused"), "display", FAIL, "let its own user in"),
        (told("no-display-found"), "display", FAIL, "X server running"),
        (told("agent-starting"), "display", SKIP, "starting"),
        (on_wayland("no-display-found"), "display", FAIL, "Does its compositor run?"),
        (on_wayland("display-refused"), "display", FAIL, "compositor does not let"),
        (told("type-unsupported"), "display", FAIL, "So it is. What may capture it: capture.order"),
        (captured_by("mutter"), "display", OK, "wayland user, VT 8: :1 by mutter, found by r"),
        (replace(told("ok", Backend="kms"), front=None), "display", OK, "console, by kms"),
        (replace(told("text-console", Backend=""), front=None), "display", FAIL, "So it is."),
        (told("ok", Backend="kms"), "graphics card", OK, "is being read"),
        (means(kms="off"), "graphics card", OK, 'capture.kms is "off": text consoles'),
        (means(has_card=False), "graphics card", OK, "none in /dev/dri: text consoles"),
        (means(has_kms_socket=False), "graphics card", FAIL, "start spice-sessiond-kms.socket"),
        (means(has_kms_socket=False, may_help_itself=True), "graphics card", OK, "is there"),
        (replace(DEAD, config_error="a.toml:1: x"), "graphics card", SKIP, "configuration"),
        (means(has_libpipewire=False), "pipewire", OK, "libpipewire-0.3-0. Sessions of GNOME"),
        (on_wayland("no-display-found", has_libpipewire=False), "pipewire", FAIL, "Install libp"),
        (on_wayland("ok", has_pipewire=False), "pipewire", FAIL, "no /run/user/1001/pipewire-0."),
        (on_wayland("ok", has_wireplumber=False), "pipewire", FAIL, "Install wireplumber, and"),
        (captured_by("mutter", has_wireplumber=False), "pipewire", FAIL, "Install wireplumber"),
        (captured_by("wlroots", has_libpipewire=False), "pipewire", OK, "Sessions of GNOME on"),
        (captured_by("kms", has_libpipewire=False), "pipewire", OK, "Sessions of GNOME"),
        (told("encoder-failed"), "encoder", FAIL, "So it is. Install an encoder"),
        (told("encoder-failed"), "display", SKIP, "back-off"),
        (replace(STARTING, has_pyav=False), "encoder", FAIL, "decodes h264"),
        (STARTING, "encoder", OK, "the agent runs"),
        (told("ok", Codec="mjpeg", CodecReason="there is no codec 'vpx'"), "encoder", OK,
         "because there is no codec 'vpx'"),
        (told("agent-starting", HostCodecs=["codec-9"]), "encoder", FAIL, "make h264, h265, mjpeg"),
        (replace(WELL, has_pyav=False), "video codecs", OK, "MJPEG, too. Install python3-av"),
        (replace(DEAD, codecs=("mjpeg",), has_pyav=False), "video codecs", OK, "PyAV is not"),
        (replace(DEAD, codecs=("vp8",), has_pyav=False), "video codecs", FAIL, "is vp8, but PyAV"),
        (replace(DEAD, codecs=("vp8", "mjpeg"), has_pyav=False), "video codecs", OK, "not there"),
        (replace(DEAD, codecs=("h264", "vp8")), "video codecs", OK, "stream.codec is h264, vp8"),
        (told("ok", HostCodecs=["mjpeg"]), "video codecs", OK, "but MJPEG. Where the client runs"),
        (told("agent-starting"), "encoder", OK, "the agent runs"),
        (replace(WELL, channel="off", has_channel=False), "host channel", OK, "is off"),
        (replace(WELL, has_channel=False), "host channel", OK, "no /dev/channel, by which"),
        (replace(WELL, channel_holder=9), "host channel", FAIL, "held by pid 9, not by"),
        (replace(DEAD, channel_holder=9), "host channel", FAIL, "held by pid 9, not by"),
        (replace(WELL, channel_holder=0), "host channel", OK, "/dev/channel is there"),
        (replace(DEAD, config_error="a.toml:1: x"), "host channel", SKIP, "configuration"),
        (LONELY, "user agent", FAIL, "of alice, bob. Start it there: systemctl --user start"),
        (replace(LONELY, has_channel=False), "user agent", OK, "of alice, bob; nor is there"),
        (replace(LONELY, caller=""), "user agent", FAIL, "of bob."),
        (GREETING, "user agent", FAIL, "of alice."),
        (replace(GREETING, caller=""), "user agent", OK, "no user is in front"),
        (replace(LONELY, front=None, caller=""), "user agent", OK, "no user is in front"),
        (told("text-console", AgentPID=0), "encoder", OK, "/usr/bin/spice-session-agent"),
    ],
)  # fmt: skip
def test_check(found: Findings, check: str, result: str, words: str) -> None:
    answer, text = CHECKS[check](found)
    assert (answer, words in text) == (result, True), text


@pytest.mark.parametrize("first", ["", "There is no socket. "])
@pytest.mark.parametrize("kind", ["x11", "wayland", "tty"])
def test_a_card_that_cannot_be_read_needs_nothing_of_the_display(kind: str, first: str) -> None:
    text = f"{first}{NOT_READ}: no helper listens (systemctl start {SOCKET_UNIT})."
    found = told("display-refused", ReasonText=text, Backend="")
    found = replace(found, front=BOB | {"EnvSource": "", "Type": kind})
    assert CHECKS["display"](found) == (FAIL, text)
    assert CHECKS["display"](replace(found, front=None)) == (FAIL, text)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_but_ok_is_somebodys_failure_or_a_beginning(reason: Reason) -> None:
    failed = [name for name, check in CHECKS.items() if check(told(reason))[0] == FAIL]
    begins = reason in {Reason.OK, Reason.AGENT_STARTING, Reason.HOST_NOT_ASKING}
    assert bool(failed) != begins


def test_nothing_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    manager = {n: ESCAPE if isinstance(v, str) else v for n, v in MANAGER.items()}
    found = replace(WELL, manager=manager, name=ESCAPE, agent=ESCAPE, port=ESCAPE, channel=ESCAPE,
                    caller=ESCAPE, means=Means(cards=ESCAPE, kms_socket=ESCAPE))  # fmt: skip
    hidden = Means(has_libpipewire=True, pipewire=ESCAPE, has_pipewire=False, has_card=True,
                   kms_socket=ESCAPE)  # fmt: skip
    for one in (
        found,
        replace(found, means=hidden),
        replace(DEAD, bus_error=ESCAPE, config_error=ESCAPE, name=ESCAPE),
    ):
        Screen().show(doctor_page(one))
    assert "\x1b" not in capsys.readouterr().out


async def examine(*argv: str) -> dict[str, tuple[str, str]]:
    page = await run(parse(["doctor", *argv]), _unused)
    assert page
    assert isinstance(page.document, list)
    return {line["Check"]: (line["Result"], line["Text"]) for line in page.document}


def _unused(_page: Page) -> None:
    raise AssertionError("a doctor speaks once")


@in_loop
async def test_no_bus_at_all(tmp_path: Path) -> None:
    found = await examine(f"--bus=unix:path={tmp_path}/bus")
    assert found["bus name"][0] == FAIL
    assert "No such file" in found["bus name"][1]


@pytest.mark.parts
@in_loop
async def test_a_bus_without_anybody(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    text = f'host_channel = "{config}"\n[stream]\nport = "{config}"\nagent = ["/bin/true"]\n'
    config.write_text(f'{text}[capture]\ncards = "{tmp_path}"\n')
    with PrivateBus() as bus, config.open() as file:
        holder = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, pass_fds=[file.fileno()]
        )
        found = await examine(f"--bus={bus.address}", f"--config={config}")
        await holder.communicate(b"")
    assert found["bus name"][0] == found["logind"][0] == found["polkit"][0] == FAIL
    assert found["port"] == (OK, f"{config} is there")
    told = f"{config} is held by pid {holder.pid}, not by the daemon. End that program."
    assert found["host channel"] == (FAIL, told)
    assert found["encoder"] == (OK, "/bin/true is there; nothing is being encoded")
    assert found["graphics card"][0] == OK
    assert f"none in {tmp_path}: " in found["graphics card"][1]


@in_loop
async def test_a_wrong_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("stream.prot = 1\n")
    found = await examine(f"--bus=unix:path={tmp_path}/bus", f"--config={config}")
    assert found["configuration"][0] == FAIL
    assert f"{config}:1: stream.prot" in found["configuration"][1]
