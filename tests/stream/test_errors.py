"""What goes wrong: one clear line, the right exit status, and another try where one makes sense."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING, Final

import pytest

from tests.fixtures.agent import LINE_PREFIX, READY, Agent, start_stream
from tests.fixtures.drawing import SAMPLE, Canvas, bits_of
from tests.fixtures.spice import SpiceHost, SpiceProbe
from tests.fixtures.xserver import Xvfb

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.e2e

NOTIFY_ERROR: Final = bytes.fromhex(
    "010005001900000000000000496e76616c6964206d657373616765207479706500"
)
NO_DISPLAY: Final = ":54321"


def assert_one_line(agent: Agent, status: int, words: str, timeout: float = 10.0) -> None:
    """Check that the agent ends with STATUS and a single line that has WORDS in it."""
    assert agent.wait_exit(timeout) == status
    (line,) = agent.lines
    assert line.startswith(LINE_PREFIX)
    assert words in line


@pytest.fixture
def dead_socket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a socket that nobody listens on."""
    path = tmp_path_factory.mktemp("s") / "port"
    with socket.socket(socket.AF_UNIX) as unheard:
        unheard.bind(str(path))
    return path


def test_the_port_is_missing(xserver: Xvfb, tmp_path: Path) -> None:
    path = tmp_path / "port"
    with Agent(["stream", "--port", path, "--display", xserver.display]) as agent:
        assert_one_line(agent, 1, f"port {path} is missing: no such file")


def test_the_port_is_a_regular_file(xserver: Xvfb, tmp_path: Path) -> None:
    path = tmp_path / "port"
    path.touch()
    with Agent(["stream", "--port", path, "--display", xserver.display]) as agent:
        assert_one_line(agent, 1, f"port {path} is neither a character device nor a socket")


def test_nobody_listens_on_the_port(xserver: Xvfb, dead_socket: Path) -> None:
    with Agent(["stream", "--port", dead_socket, "--display", xserver.display]) as agent:
        assert_one_line(agent, 1, f"port {dead_socket} is not served: nobody listens")


def test_the_display_cannot_be_opened(host: SpiceHost) -> None:
    with Agent(["stream", "--port", host.socket_path, "--display", NO_DISPLAY]) as agent:
        assert_one_line(agent, 1, f"display {NO_DISPLAY} cannot be opened: ")


@pytest.mark.parametrize("name", ["first", ":65000"])
def test_the_display_is_not_a_name(host: SpiceHost, name: str) -> None:
    with Agent(["stream", "--port", host.socket_path, "--display", name]) as agent:
        assert_one_line(agent, 1, f"display {name!r} is not a display name, such as :0")


def test_there_is_no_display_at_all(host: SpiceHost) -> None:
    with Agent(["stream", "--port", host.socket_path]) as agent:
        assert_one_line(agent, 1, "no display: neither --display nor $DISPLAY says which")


def test_the_display_has_another_depth(host: SpiceHost) -> None:
    with (
        Xvfb(320, 200, depth=16) as xserver,
        Agent(["stream", "--port", host.socket_path, "--display", xserver.display]) as agent,
    ):
        assert_one_line(agent, 1, "has 16 planes in 16 bits a pixel")


@pytest.mark.parametrize("is_watched", [True, False], ids=["streaming", "idle"])
def test_the_display_dies(host: SpiceHost, *, is_watched: bool) -> None:
    with (
        Xvfb(640, 480) as xserver,
        Canvas(xserver.display) as canvas,
        start_stream(host.socket_path, xserver.display) as agent,
        SpiceProbe(host.uri, sample=SAMPLE) as probe,
    ):
        canvas.show_number(1)
        probe.wait_for("invalidate", bits=bits_of(1))
        if not is_watched:
            probe.close()
            agent.wait_line("stopped")
        xserver.kill()
        assert agent.wait_exit(2.0) == 1
        assert agent.lines[-1] == f"{LINE_PREFIX}display {xserver.display} has gone away"
        assert not [line for line in agent.lines if not line.startswith(LINE_PREFIX)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-c", "speed=1"], "there is no 'speed'"),
        (["-c", "quality"], "not a whole number from 1 to 100"),
        (["-c", "quality=0"], "not a whole number from 1 to 100"),
        (["-c", "mjpeg.quality=101"], "not a whole number from 1 to 100"),
        (["-c", "framerate=fast"], "not a whole number from 1 to 100"),
        (["--turbo"], "unrecognized arguments: --turbo"),
        (["--port"], "argument --port/-p: expected one argument"),
        (["--capture", "camera"], "invalid choice: 'camera'"),
        (["-l", "/nowhere/log"], "log file /nowhere/log cannot be written"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line(options: Sequence[str], words: str) -> None:
    with Agent(["stream", "--display", NO_DISPLAY, *options]) as agent:
        assert_one_line(agent, 2, words)


def test_a_missing_command() -> None:
    with Agent([]) as agent:
        assert_one_line(agent, 2, "COMMAND")


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (b"garbage, and more of it", "the host broke the protocol: protocol version 103"),
        (bytes.fromhex("0100010001000010"), "with 268435457 bytes, over 4096"),
        (bytes.fromhex("01000400020000000501"), "START_STOP without the codecs"),
        (NOTIFY_ERROR, r"the host refused to go on: Invalid message type \(0\)"),
        (None, "the host hung up"),
    ],
    ids=["garbage", "too large", "bad START", "NOTIFY_ERROR", "hang-up"],
)
@pytest.mark.parametrize("port", ["socket", "pty"], indirect=True)
def test_the_port_is_opened_again(
    agent: Agent, host: SpiceHost, canvas: Canvas, trouble: bytes | None, words: str
) -> None:
    canvas.show_number(1)
    with SpiceProbe(host.uri, sample=SAMPLE) as probe:
        probe.wait_for("primary-create")
        mark, opened = agent.now(), host.now()
        canvas.show_number(2)
        if trouble is None:
            host.kick_guest()
        else:
            host.inject(trouble)
        host.wait_for("guest-connected", after=opened)
        probe.wait_for("invalidate", bits=bits_of(2))
        agent.wait_line("streaming as jpeg", after=mark)
        told = [line for line in agent.lines[mark + 1 :] if "opening it again" in line]
        assert len(told) == 1
        agent.wait_line(words, after=mark)
        assert not [line for line in agent.lines if not line.startswith(LINE_PREFIX)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("state", ["idle", "streaming", "waiting"])
def test_a_signal_ends_it(
    agent: Agent, host: SpiceHost, canvas: Canvas, number: signal.Signals, state: str
) -> None:
    canvas.show_number(1)
    if state == "idle":
        agent.wait_line(READY)
    elif state == "waiting":
        host.close()
        agent.wait_line("trying again")
    else:
        with SpiceProbe(host.uri) as probe:
            probe.wait_for("primary-create")
            assert_ends(agent, number)
    assert_ends(agent, number)


def assert_ends(agent: Agent, number: signal.Signals) -> None:
    agent.signal(number)
    assert agent.wait_exit(1.0) == 0
    assert not [line for line in agent.lines if not line.startswith(LINE_PREFIX)]


def test_a_port_that_stays_away_is_complained_of_once(agent: Agent, host: SpiceHost) -> None:
    host.close()
    agent.wait_line("opening it again")
    agent.wait_line("trying again")
    assert len([line for line in agent.lines if "trying again" in line]) == 1
