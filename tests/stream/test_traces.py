"""Nothing stays behind, however the agent ends."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.agent import start_stream
from tests.fixtures.drawing import SAMPLE, Canvas, bits_of
from tests.fixtures.spice import SpiceProbe
from tests.fixtures.xserver import Xvfb

if TYPE_CHECKING:
    from tests.fixtures.agent import Agent
    from tests.fixtures.spice import SpiceHost

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_shared_memory_is_left(host: SpiceHost, number: signal.Signals) -> None:
    with (
        Xvfb(640, 480) as xserver,
        Canvas(xserver.display) as canvas,
        start_stream(host.socket_path, xserver.display) as agent,
        SpiceProbe(host.uri, sample=SAMPLE) as probe,
    ):
        canvas.show_number(1)
        probe.wait_for("invalidate", bits=bits_of(1))
        canvas.show_number(2)  # both slots
        probe.wait_for("invalidate", bits=bits_of(2))
        assert agent.segments()
        agent.signal(number)
        agent.wait_exit()
        # The server lets go of its own end as it sees that the connection is closed: from then
        # on it answers us.
        _ = canvas.size
        assert agent.segments() == []


def test_one_port_is_free_for_the_next_agent(
    agent: Agent, host: SpiceHost, xserver: Xvfb, canvas: Canvas
) -> None:
    agent.signal(signal.SIGKILL)
    agent.wait_exit()
    canvas.show_number(7)
    with (
        start_stream(host.socket_path, xserver.display),
        SpiceProbe(host.uri, sample=SAMPLE) as probe,
    ):
        probe.wait_for("invalidate", bits=bits_of(7))
