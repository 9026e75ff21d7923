"""A screen at rest: when it has settled no frame is sent, and nobody of ours wakes up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.stream.pacing import LONGEST_REST
from tests.fixtures.drawing import bits_of
from tests.screens.stage import Kind, show, wait_like

if TYPE_CHECKING:
    from tests.fixtures.spice import SpiceHost

SETTLED: Final = LONGEST_REST + 1  # seconds without a message: no picture is sent again
REST: Final = 5.0  # seconds that are then looked at


def test_a_screen_at_rest_costs_nothing(kind: Kind, host: SpiceHost) -> None:
    with show(kind, host) as shown:
        shown.painter.show_number(1)
        wait_like(shown.probe, shown.painter.picture)
        host.wait_silence("from-guest", SETTLED)
        mark, woken = host.now(), shown.agent.context_switches()
        host.wait_silence("from-guest", REST)
        assert host.now() == mark
        assert shown.agent.context_switches() == woken
        # And it is awake for what comes then.
        shown.painter.show_number(2)
        shown.probe.wait_for("invalidate", bits=bits_of(2))


def test_nobody_watches_and_nothing_is_captured(kind: Kind, host: SpiceHost) -> None:
    with show(kind, host) as shown:
        shown.painter.show_number(1)
        shown.probe.wait_for("invalidate", bits=bits_of(1))
        shown.probe.close()
        shown.agent.wait_line("stopped")
        host.wait_for("client-disconnected", clients=0)
        host.wait_silence("from-guest", 0.5)
        mark, woken = host.now(), shown.agent.context_switches()
        for number in range(2, 12):
            shown.painter.show_number(number)
        host.wait_silence("from-guest", 0.5)
        assert not [e for e in host.events[mark + 1 :] if e["event"] == "from-guest"]
        assert shown.agent.context_switches() == woken, "it still watches the screen"
