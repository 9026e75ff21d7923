"""Two users' screens, a real host and client, and the daemon between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.daemon.scene import Scene

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Scene() as made:
        yield made
