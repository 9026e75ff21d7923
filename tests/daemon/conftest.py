"""Two users' screens, a real host and client, and the daemon between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.daemon.scene import Scene
from tests.daemon.standin import StandIn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon.world import World


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Scene() as made:
        yield made


@pytest.fixture
def world(scene: Scene) -> World:
    """Give the world of stand-ins; ``tests/system`` has a real one of the same name."""
    return StandIn(scene)
