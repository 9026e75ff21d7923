"""The program as the daemon starts it: a child with one end of a socket pair."""

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from PIL import Image

from agent.__main__ import main
from sessiond.wire.buffer import HEADER_SIZE
from sessiond.wire.device import Type
from sessiond.wire.link import Candidate, Config, DeviceMessage, Failed, Pause, Ready
from tests.agent.capture.x11.test_backend import shrink_and_allow_growth, xrandr
from tests.agent.stream.cookies import RIGHT, record, write
from tests.agent.stream.daemon import Daemon
from tests.fixtures.loop import in_loop
from tests.fixtures.processes import DIE_WITH_PARENT, end_process, wait_process
from tests.fixtures.xserver import Xvfb

pytestmark = pytest.mark.parts

ROOT = Path(__file__).parents[2]
CONFIG = Config("c1", os.getuid())
BEGINNING = [Type.FORMAT, Type.CURSOR_SET, Type.CURSOR_MOVE, Type.DATA]


class Child(Daemon):
    """A daemon and the agent that it has started."""

    process: subprocess.Popen[str]

    def end(self) -> tuple[int, list[str]]:
        """Return its exit status, and what it wrote, when it has ended by itself."""
        assert wait_process(self.process, 10)
        assert self.process.stderr
        return self.process.wait(), self.process.stderr.read().splitlines()


def start(argv: Sequence[str], fd: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*DIE_WITH_PARENT, sys.executable, "-m", "agent", *argv, "--link-fd", str(fd)],
        cwd=ROOT, pass_fds=[fd], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, env={"HOME": "/nonexistent"},
    )  # fmt: skip


@asynccontextmanager
async def child(*argv: str) -> AsyncIterator[Child]:
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as stack:
        stack.enter_context(ours)
        with theirs:
            process = start(argv, theirs.fileno())
        stack.enter_context(process)
        stack.callback(end_process, process)
        ours.setblocking(False)
        daemon = Child(ours)
        daemon.process = process
        stack.callback(process.kill)
        yield daemon


async def picture(daemon: Daemon) -> Image.Image:
    """Return the next frame."""
    message = await daemon.hear_until(
        lambda m: isinstance(m, DeviceMessage) and m.type is Type.DATA
    )
    assert isinstance(message, DeviceMessage)
    return Image.open(io.BytesIO(message.data[HEADER_SIZE:]))


@in_loop
async def test_display_with_a_cookie(tmp_path: Path) -> None:
    with Xvfb(64, 48, args=["-auth", write(tmp_path / "auth", record())]) as xserver:
        wrong = Candidate("wrong", xserver.display, "/dev/zero")
        right = Candidate("right", xserver.display, cookie=RIGHT.hex())
        async with child("stream") as daemon:
            ready = await daemon.configure(Config("c1", os.getuid(), candidates=(wrong, right)))
            assert ready == Ready("right", xserver.display, 64, 48, backend="x11")
            for _ in range(2):
                await daemon.activate(credit=1)
                with await picture(daemon) as frame:
                    assert frame.size == (64, 48)
                await daemon.say(Pause())
            xserver.kill()
            text = f"display {xserver.display} has gone away"
            assert await daemon.hear() == Failed("display-refused", text)
            status, lines = daemon.end()
            assert (status, lines[-1]) == (1, f"spice-session-agent: {text}")


@in_loop
async def test_screen_that_grows_too_large() -> None:
    with Xvfb(8200, 64) as xserver:
        shrink_and_allow_growth(xserver)
        here = Candidate("here", xserver.display)
        async with child("stream") as daemon:
            ready = await daemon.configure(Config("c1", os.getuid(), candidates=(here,)))
            assert ready == Ready("here", xserver.display, 64, 48, backend="x11")
            await daemon.activate(credit=1)
            await picture(daemon)
            xrandr(xserver.display, "--output", "screen", "--mode", "8200x64")
            failed = await daemon.hear_until(lambda message: isinstance(message, Failed))
            assert failed == Failed(
                "display-refused",
                f"display {xserver.display} has a screen of 8200x64 pixels; "
                "at most 8192x8192 can be shown",
            )
            assert daemon.end()[0] == 1


@in_loop
async def test_daemon_goes_away_and_so_does_the_agent() -> None:
    async with child("stream", "--capture", "pattern", "--display", "64x48@50") as daemon:
        assert await daemon.configure(CONFIG) == Ready(
            "option", "64x48@50", 64, 48, backend="pattern"
        )
        await daemon.activate(credit=2)
        await daemon.hear_types()
        daemon.sock.close()
        status, lines = daemon.end()
        assert status == 0
        assert not any("Traceback" in line for line in lines)


@pytest.mark.parametrize(
    ("argv", "capture"),
    [((), ("wlroots",)), (("--capture", "wlroots"), ("x11", "mutter"))],
)
@in_loop
async def test_back_end_of_the_configuration_or_the_command_line(
    argv: tuple[str, ...], capture: tuple[str, ...]
) -> None:
    async with child("stream", *argv) as daemon:
        assert await daemon.failure(Config("c1", 4242, capture=capture)) == Failed(
            "no-display-found", "session c1 has no Wayland compositor in sight"
        )
        assert daemon.end()[0] == 1


@in_loop
async def test_placeholder() -> None:
    async with child("placeholder", "--text", "Nobody is here.", "--size", "320x200") as daemon:
        assert await daemon.configure(CONFIG) == Ready(
            "placeholder", "", 320, 200, backend="placeholder"
        )
        for _ in range(2):
            await daemon.activate(credit=3)
            with await picture(daemon) as frame:
                assert frame.size == (320, 200)
        daemon.process.send_signal(signal.SIGTERM)
        with pytest.raises(EOFError):
            await daemon.hear()  # one frame for each, whatever the credit
        assert daemon.end()[0] == 0


@in_loop
async def test_daemon_that_breaks_the_protocol() -> None:
    async with child("placeholder", "--text", "x") as daemon:
        await daemon.say_bytes(b"nonsense")
        status, lines = daemon.end()
        assert status == 1
        assert lines == [
            "spice-session-agent: the daemon broke the protocol: protocol version 110 instead of 1"
        ]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["stream", "--link-fd", "12345"], "--link-fd 12345 is not a socket"),
        (["stream", "--link-fd", "x"], "argument --link-fd: invalid int value: 'x'"),
        (["stream", "--link-fd", "3", "--port", "/x"], "not allowed with argument"),
        (["placeholder", "--link-fd", "12345", "--text", "x"], "is not a socket"),
        (["placeholder", "--link-fd", "3", "--text", "x", "--size", "0x0"], "is not WxH"),
        (["placeholder", "--text", "x"], "required: --link-fd"),
    ],
)
def test_wrong_command_line(
    argv: list[str], complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(argv) == 2
    assert complaint in caplog.messages[-1]
