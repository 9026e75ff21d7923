"""What the tests of whole agents of commands share, among them those of its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.agent.qrexec.conftest import forker, forker_of_module, gate, services
from tests.agent.user.daemon import Daemon, environment, start
from tests.commands.ordering import Orders, null

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fixtures.child import Child

__all__ = ["forker", "forker_of_module", "gate", "services"]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path)


@pytest.fixture
def agent(daemon: Daemon, env: dict[str, str]) -> Iterator[Child]:
    with start(daemon, env) as agent:
        yield agent


@pytest.fixture
def orders(daemon: Daemon, agent: Child) -> Iterator[Orders]:
    del agent  # which is to have been started
    with daemon.accept() as connection:
        yield Orders(connection)


@pytest.fixture
def nothing() -> Iterator[int]:
    with null() as fd:
        yield fd
