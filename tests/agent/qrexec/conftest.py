"""What the tests of commands share: services, and who forks their processes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.agent.qrexec.peer import Forker
from tests.agent.qrexec.services import Gate, Services
from tests.fixtures.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    # Not in pytest's own folder: another user may look for a service, too.
    with tempfile.TemporaryDirectory() as root:
        yield Services(Path(root))


@pytest.fixture(scope="module")
def forker_of_module(services: Services) -> Iterator[Forker]:
    with Forker(services.environment) as forker:
        yield forker


@pytest.fixture
def forker(forker_of_module: Forker) -> Iterator[Forker]:
    yield forker_of_module
    forker_of_module.hang_up()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """Return what a command can be made to wait at."""
    with Gate(tmp_path / "gate") as gate:
        yield gate


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    """Return who a command can tell something."""
    with Witness(tmp_path / "witness") as witness:
        yield witness
