"""One X server for all, and for each test a host, a relay to it, and an agent that has begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fixtures.agent import start_stream
from tests.fixtures.drawing import Canvas
from tests.fixtures.relay import Relay
from tests.fixtures.spice import SpiceHost
from tests.fixtures.static import static_stream
from tests.fixtures.xserver import Xvfb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.agent import Agent
    from tests.fixtures.static import Static


@pytest.fixture(scope="session")
def static() -> Iterator[Static]:
    """Return a stream that has been at rest since before the first test."""
    with static_stream() as stream:
        yield stream


@pytest.fixture(scope="session", autouse=True)
def begin_early(request: pytest.FixtureRequest) -> None:
    """Begin the static stream at once if it is needed at all."""
    if any("static" in getattr(item, "fixturenames", ()) for item in request.session.items):
        request.getfixturevalue("static")


@pytest.fixture(scope="session")
def shared_xserver() -> Iterator[Xvfb]:
    with Xvfb(640, 480) as server:
        yield server


@pytest.fixture
def xserver(shared_xserver: Xvfb) -> Xvfb:
    """Return an X server of 640x480; a test may draw on it and must leave its size."""
    return shared_xserver


@pytest.fixture
def canvas(xserver: Xvfb) -> Iterator[Canvas]:
    with Canvas(xserver.display) as client:
        yield client


@pytest.fixture
def host() -> Iterator[SpiceHost]:
    with SpiceHost(socket=True, pty=True) as running:
        yield running


@pytest.fixture
def relay(host: SpiceHost) -> Iterator[Relay]:
    with Relay(host.port) as running:
        yield running


@pytest.fixture
def port(request: pytest.FixtureRequest, host: SpiceHost) -> Path:
    """Return the host's socket, or its pty for the parameter "pty"."""
    return host.pty_path if getattr(request, "param", "") == "pty" else host.socket_path


@pytest.fixture
def agent(port: Path, xserver: Xvfb) -> Iterator[Agent]:
    with start_stream(port, xserver.display) as running:
        yield running
