"""Compositors without a screen, and a client's view of what is streamed from them.

What the machine lacks for it skips the tests, with the reason; but they fail where the environment
variable CI is set: there a skip would hide it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

# Loaded here, by root: what a test imports as a compositor's user may not be that user's to read.
import agent.capture.mutter.backend
import agent.capture.wlroots.backend
import agent.stream.find_wayland
import agent.stream.find_x11  # noqa: F401 (so are these all)
from tests.fixtures.spice import SpiceHost
from tests.screens.stage import KINDS, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE: Final = Path(__file__).resolve().parent
PROGRAMS: Final = ("sway", "mutter", "pipewire", "wireplumber", "setpriv")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session", autouse=True)
def compositors() -> None:
    """Skip without them."""
    if lacks := [program for program in PROGRAMS if shutil.which(program) is None]:
        reason = f"screens need {', '.join(lacks)}: make packages-screens"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.backend)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Return each kind of compositor."""
    found: Kind = request.param
    return found


@pytest.fixture
def host() -> Iterator[SpiceHost]:
    with SpiceHost(multi=True) as running:
        yield running
