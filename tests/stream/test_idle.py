"""A stream that nobody watches costs nothing, and one that somebody does not too much.

That something does not happen is waited for: by a wait for the event, which has to time out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from sessiond.wire.device import Type
from tests.fixtures.drawing import SAMPLE, bits_of, number_of
from tests.fixtures.processes import EventTimeoutError
from tests.fixtures.spice import SpiceHost, SpiceProbe

if TYPE_CHECKING:
    from tests.fixtures.agent import Agent
    from tests.fixtures.drawing import Canvas
    from tests.fixtures.relay import Relay

pytestmark = pytest.mark.e2e

SETTLED: Final = 0.5  # seconds without a word after which a stream has come to rest


def assert_silent(host: SpiceHost, seconds: float) -> None:
    """Check that the host reads no message of the guest for so long."""
    mark = host.now()
    with pytest.raises(EventTimeoutError):
        host.wait_for("from-guest", seconds, after=mark)


def test_after_stop_not_one_frame_more(
    agent: Agent, canvas: Canvas, host: SpiceHost, relay: Relay
) -> None:
    canvas.show_number(1)
    with SpiceProbe(relay.uri) as probe:
        relay.wait_frame(lambda picture: number_of(picture) == 1)
        probe.close()
    agent.wait_line("stopped")
    host.wait_for("client-disconnected", clients=0)
    host.wait_silence("from-guest", SETTLED)

    cost = agent.context_switches()
    mark = host.now()
    for number in range(2, 32):
        canvas.show_number(number)
    canvas.move_pointer(3, 3)
    assert_silent(host, SETTLED)
    assert not [event for event in host.events[mark + 1 :] if event["event"] == "from-guest"]
    assert agent.context_switches() == cost, "it still watches the screen"

    with SpiceProbe(relay.uri, sample=SAMPLE) as probe:
        probe.wait_for("invalidate", bits=bits_of(31))


def test_nothing_is_said_before_somebody_watches(
    agent: Agent, canvas: Canvas, host: SpiceHost
) -> None:
    host.wait_for("from-guest", type=Type.CAPABILITIES)
    canvas.show_number(1)
    assert_silent(host, SETTLED)
    assert agent.process.poll() is None


def test_a_changing_screen_keeps_to_the_frame_rate(
    agent: Agent, canvas: Canvas, host: SpiceHost, relay: Relay
) -> None:
    with SpiceProbe(relay.uri):
        relay.wait_frame()
        mark = host.now()
        began = canvas.show_number(1)
        ended = began
        for number in range(2, 62):
            ended = canvas.show_number(number)
        relay.wait_frame(lambda picture: number_of(picture) == 61)
        frames = [e for e in host.events[mark + 1 :] if e.get("type") == Type.DATA]
        assert 1 <= len(frames) <= 30 * (ended - began) + 3
        assert agent.process.poll() is None
