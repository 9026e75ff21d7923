"""A client that comes while a compositor shows nothing reads why, until there is a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.capture.placeholder import draw_placeholder
from tests.fixtures.drawing import SAMPLE, bits_of
from tests.fixtures.painter import Painter
from tests.fixtures.spice import SpiceProbe
from tests.screens.stage import SIZE, SWAY, start_agent, wait_like
from tests.screens.sway import Sway

if TYPE_CHECKING:
    from tests.fixtures.spice import SpiceHost


class Dark(Sway):
    """One that begins without an output."""

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"WLR_HEADLESS_OUTPUTS": "0"}


def test_a_compositor_whose_first_output_comes_late(host: SpiceHost) -> None:
    with (
        Dark(SIZE) as compositor,
        start_agent(SWAY, compositor, host),
        SpiceProbe(host.uri, sample=SAMPLE) as probe,
    ):
        why = f"the compositor at {compositor.wayland} has no output"
        sentence = f"Nothing can be captured now: {why}."
        wait_like(probe, draw_placeholder((1024, 768), sentence), least=30)
        compositor.command("create_output")
        with Painter(compositor.wayland) as painter:
            painter.show_number(1)
            probe.wait_for("invalidate", bits=bits_of(1))
            probe.wait_for("primary-create", w=SIZE[0], h=SIZE[1])
