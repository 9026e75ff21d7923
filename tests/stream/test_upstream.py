"""The command line of the upstream agent is understood."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.fixtures.agent import READY, Agent
from tests.fixtures.drawing import number_of
from tests.fixtures.spice import SpiceProbe

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.drawing import Canvas
    from tests.fixtures.relay import Relay
    from tests.fixtures.xserver import Xvfb

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "text"])
def test_its_options(
    port: Path, xserver: Xvfb, canvas: Canvas, relay: Relay, tmp_path: Path, *, is_binary: bool
) -> None:
    film = tmp_path / "film"
    args = ["stream", "--display", xserver.display, "-p", str(port), "-l", str(film)]
    args += ["--log-binary"] if is_binary else []
    args += ["--log-categories=frames", "-d", "-c", "framerate=20", "-c", "mjpeg.quality=70"]
    args += ["--plugins-dir", str(tmp_path)]
    canvas.show_number(1)
    with Agent(args) as agent:
        agent.wait_line(READY)
        with SpiceProbe(relay.uri):
            relay.wait_frame(lambda picture: number_of(picture) == 1)
            canvas.show_number(2)
            relay.wait_frame(lambda picture: number_of(picture) == 2)
    written = film.read_bytes()
    if is_binary:
        with Image.open(io.BytesIO(written)) as first:
            assert first.format == "JPEG"
            assert number_of(first.convert("RGB")) == 1
    else:
        head, dump, *_ = written.decode().splitlines()
        assert head.endswith(", 640x480")
        assert ": Frame of " in head
        assert dump.startswith("ff d8 ff")
