"""What the tests of commands share: services, and who forks their processes."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.agent.qrexec.peer import Forker
from tests.agent.qrexec.services import Services

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
def fifo(tmp_path: Path) -> Path:
    """Return a FIFO: who reads it waits until somebody writes."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path
