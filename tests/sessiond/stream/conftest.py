"""What tests of the supervisor and its parts share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from sessiond.stream import launch, port

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let who does not listen be ended, and who does not read be called stalled, soon."""
    monkeypatch.setattr(launch, "KILL_AFTER", 0.2)
    monkeypatch.setattr(port, "STALLED", 0.05)


@pytest.fixture
def no_descriptor_left() -> Iterator[None]:
    """Let a test fail that leaves a descriptor open."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    assert set(os.listdir("/proc/self/fd")) <= before
