"""A host that does not read: the agent hears, ends and goes on all the same."""

from __future__ import annotations

import random
import signal
from typing import TYPE_CHECKING, Final

import pytest
from PIL import Image

from sessiond.wire.device import Type
from tests.fixtures.agent import Agent, start_stream
from tests.fixtures.drawing import SAMPLE, Canvas, bits_of, number_of, numbered
from tests.fixtures.relay import STREAM_DATA, Relay
from tests.fixtures.spice import SpiceHost, SpiceProbe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.xserver import Xvfb

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.parametrize("port", ["socket", "pty"], indirect=True),
]

STOP: Final = bytes.fromhex("010004000100000000")


@pytest.fixture
def agent(port: Path, xserver: Xvfb) -> Iterator[Agent]:
    """Return an agent that tells of every message, and whose frames overfill every buffer."""
    options = ("-d", "-c", "quality=100", "-c", "framerate=100")
    with start_stream(port, xserver.display, *options) as running:
        yield running


@pytest.fixture
def probe(agent: Agent, canvas: Canvas, host: SpiceHost, relay: Relay) -> Iterator[SpiceProbe]:
    """Return a client that has drawn picture 1, of which nothing is on its way for a second."""
    canvas.show(with_noise(1))
    with SpiceProbe(relay.uri, sample=SAMPLE) as client:
        client.wait_for("invalidate", bits=bits_of(1))
        for _ in ("at once", "sharp"):
            host.wait_for("from-guest", type=Type.DATA)
        assert agent.process.poll() is None
        yield client


def with_noise(number: int) -> Image.Image:
    """Return a numbered picture that makes a JPEG larger than a socket's buffer of 208 KiB."""
    picture = numbered(number, 640, 480)
    noise = Image.frombytes("RGB", (640, 400), random.Random(number).randbytes(640 * 400 * 3))
    picture.paste(noise, (0, 80))
    return picture


def stall(agent: Agent, canvas: Canvas, host: SpiceHost) -> None:
    """Freeze the host and let the agent begin a frame that it cannot finish."""
    host.freeze()
    mark = agent.now()
    canvas.show(with_noise(2))
    agent.wait_line("to the host: DATA", after=mark)


def test_the_newest_picture_comes_when_it_thaws(
    agent: Agent, canvas: Canvas, host: SpiceHost, relay: Relay, probe: SpiceProbe
) -> None:
    stall(agent, canvas, host)
    said = agent.now()
    for number in range(3, 23):
        canvas.show(with_noise(number))
    mark, thawed = relay.now(), host.now()
    # Frozen as it was, the agent has encoded nothing: what it holds is the frame that it began.
    assert not [line for line in agent.lines[said + 1 :] if "DATA" in line]
    host.thaw()
    # On its surface, though it may drop this or that frame: the last one is sent again.
    probe.wait_for("invalidate", bits=bits_of(22))

    numbers = [number_of(frame.picture()) for frame in relay.passed(STREAM_DATA, after=mark)]
    assert numbers[0] == 2, "the frame that was begun is finished"
    assert numbers[-1] == 22
    assert len(set(numbers)) <= 4, "the old ones are not sent late"
    sent = [event for event in host.events[thawed + 1 :] if event["event"] == "from-guest"]
    assert {event["type"] for event in sent} <= set(Type), "whole messages only"
    assert not [event for event in host.events if event["event"] == "guest-closed"]


def test_stop_is_heard_while_a_write_is_blocked(
    agent: Agent, canvas: Canvas, host: SpiceHost, probe: SpiceProbe
) -> None:
    stall(agent, canvas, host)
    mark = agent.now()
    assert host.inject(STOP) == len(STOP)
    agent.wait_line("stopped", after=mark)
    assert probe.process.poll() is None
    thawed = host.now()
    host.thaw()
    host.wait_for("from-guest", after=thawed, type=Type.DATA)  # the begun frame, whole


def test_sigterm_ends_it_while_a_write_is_blocked(
    agent: Agent, canvas: Canvas, host: SpiceHost, probe: SpiceProbe
) -> None:
    stall(agent, canvas, host)
    assert probe.process.poll() is None
    agent.signal(signal.SIGTERM)
    assert agent.wait_exit(1.0) == 0


def test_a_client_that_hangs_ends_nothing(
    agent: Agent, canvas: Canvas, host: SpiceHost, probe: SpiceProbe
) -> None:
    assert probe.process.poll() is None
    with SpiceProbe(host.uri, sample=SAMPLE) as client:  # past the relay: it has no buffers
        client.wait_for("invalidate")
        client.freeze()
        for number in range(2, 32):
            canvas.show(with_noise(number))
        client.thaw()
        # Of the frames that it finds waiting most are late, and dropped by it; not so the last.
        client.wait_for("invalidate", bits=bits_of(31))
    assert agent.process.poll() is None
