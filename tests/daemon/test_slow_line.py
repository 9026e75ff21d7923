"""A client behind 10 Mbit/s sees a new picture, not one that has stood in a queue."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import pytest

from tests.daemon.scene import ALICE, Scene
from tests.fixtures.drawing import number_of
from tests.fixtures.newest import CountingScreen, arrivals, freshness
from tests.fixtures.relay import STREAM_DATA, Relay
from tests.fixtures.spice import SpiceProbe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL import Image

pytestmark = pytest.mark.e2e

RATE: Final = 1.25e6  # bytes/s
NOISE: Final = 12  # of 100: frames of some 80 kB, so the line takes 16 of 23 a second
LEARNED: Final = 75  # the number that ends the first 3 s, in which the rate becomes known
MEASURED: Final = 200
# What the guest can see and so has to answer for: the age when the host has taken a picture.
# 0.13 s on a quiet machine.
TAKEN: Final = 0.5  # seconds
# With what the server holds, one frame queued and one under way: 0.25 s.
ARRIVED: Final = 1.0
SEND_BUFFER: Final = 64 << 10  # bytes; the host kernel's own choice may be 0.8 s (see ``newest``)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Scene(send_buffer=SEND_BUFFER) as made:
        yield made


@pytest.fixture
def slow(scene: Scene) -> Iterator[tuple[Relay, CountingScreen]]:
    """Show a screen that counts to a client behind the line."""
    with contextlib.ExitStack() as stack:
        relay = stack.enter_context(Relay(scene.host.port, rate=RATE))
        screen = stack.enter_context(CountingScreen(scene.screens[ALICE], noise=NOISE))
        scene.add_alice()
        stack.enter_context(SpiceProbe(relay.uri))
        yield relay, screen


def test_behind_a_slow_line_the_newest_picture_is_new(
    scene: Scene, slow: tuple[Relay, CountingScreen]
) -> None:
    relay, screen = slow

    def has_come(number: int) -> Callable[[Image.Image], bool]:
        return lambda picture: number_of(picture) >= number

    mark = relay.wait_frame(has_come(LEARNED), 30).index
    relay.wait_frame(has_come(MEASURED), 30, after=mark)
    seen = arrivals(relay.passed(STREAM_DATA), scene.host.events, screen)
    found = freshness([one for one in seen if LEARNED <= one.number <= MEASURED])
    assert found.rate > 0.8 * RATE, "the line is full, or nothing was measured"
    assert found.taken < TAKEN, found
    assert found.median < ARRIVED, found
    assert found.longest < 1.0, found
    assert scene.daemon.property("State") == "streaming"
