"""Fixtures of the tests that need a real logind on the kernel's consoles.

Every test below this directory bears the mark ``system``. Where a container cannot run they are
skipped, with the reason; but they fail where the environment variable CI is set: there a skip would
hide it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.spice import SpiceHost
from tests.system import container as containers
from tests.system import root as roots
from tests.system.sessions import Seat
from tests.system.unit import Unit, install
from tests.system.world import Container

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.daemon.world import World

HERE = Path(__file__).resolve().parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "system: needs root and the kernel's virtual consoles")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="session")
def container_root() -> Path:
    """Give the root file system, built if the cache has none."""
    if lacks := dict.fromkeys(containers.missing() + roots.missing()):
        reason = f"a container needs {'; '.join(lacks)}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return roots.cached_or_built()


@pytest.fixture(scope="session")
def container(
    container_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[containers.Container]:
    """Share one booted container among all tests of the run.

    A test leaves it as it found it, best by the fixture ``seat``. There cannot be a second one at
    the same time: the consoles are the machine's.
    """
    directory = tmp_path_factory.mktemp("container")
    with containers.Container(container_root, directory=directory) as booted:
        yield booted


@pytest.fixture
def seat(container: containers.Container) -> Iterator[Seat]:
    """Give the container's seat, with nobody at it, and clear it afterwards."""
    with Seat(container) as empty:
        yield empty


@pytest.fixture
def host(container: containers.Container) -> Iterator[SpiceHost]:
    """Give a SPICE host whose port's socket is in the container too."""
    with SpiceHost(multi=True, directory=container.shared) as made:
        yield made


@pytest.fixture(scope="session")
def installed(container: containers.Container) -> containers.Container:
    """Give the container with the daemon's units in place; nothing of them runs."""
    install(container)
    return container


@pytest.fixture
def unit(installed: containers.Container, host: SpiceHost) -> Iterator[Unit]:
    """Give the daemon's units, the sockets listening, the service not started yet."""
    with Unit(installed, host) as made:
        yield made


@pytest.fixture
def world(seat: Seat, host: SpiceHost, unit: Unit) -> Iterator[World]:
    """Give the world of the tests that also run with stand-ins: the daemon follows the seat."""
    with Container(seat, host, unit) as made:
        yield made
