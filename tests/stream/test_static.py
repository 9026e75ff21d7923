"""A screen that does not change costs nothing, and its next change arrives at once.

The half minute passes while the other tests run: the stream is begun before the first of them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.fixtures.processes import EventTimeoutError

if TYPE_CHECKING:
    from tests.fixtures.static import Static

pytestmark = pytest.mark.e2e

STATIC: Final = 30.0  # seconds
PROMPT: Final = 0.2  # seconds from the drawing to the frame's last byte at the client


def test_one_pixel_after_a_static_half_minute(static: Static) -> None:
    left = static.since + STATIC - time.monotonic()
    with pytest.raises(EventTimeoutError):
        static.host.wait_for("from-guest", left, after=static.mark)
    assert (static.agent.context_switches(), static.agent.cpu()) == static.cost

    mark, drawn = static.relay.now(), static.probe.now()
    at = static.canvas.point(8, 8, 0xFFFFFF)
    passed = static.relay.wait_frame(
        lambda picture: is_bright(picture.getpixel((8, 8))), after=mark
    )
    assert passed.at - at < PROMPT
    static.probe.wait_for("invalidate", after=drawn)
    assert is_bright(static.probe.shot().getpixel((8, 8)))


def is_bright(pixel: object) -> bool:
    assert isinstance(pixel, tuple)
    return sum(pixel) > 300
