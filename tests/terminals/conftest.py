"""What the tests of terminals share."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.terminals.tmux import Tmux

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def tmux() -> Iterator[Tmux]:
    """Give a tmux without a pane of its own; what is in one has our PATH, and finds the tree."""
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HOME": "/",
        "SHELL": "/bin/sh",
        "PS1": "$ ",
    }
    # A socket's path is short, where that of pytest's directory may not be.
    with (
        tempfile.TemporaryDirectory(prefix="tmux") as directory,
        Tmux(Path(directory), environ) as server,
    ):
        yield server
