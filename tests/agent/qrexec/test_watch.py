"""Signals as what poll(2) tells, however many there are."""

from __future__ import annotations

import os
import signal

import pytest

from agent.qrexec.watch import EndedError, Watch

MANY = 1000  # over what a socket has room for, a byte each


@pytest.fixture
def flooded() -> Watch:
    watch = Watch({signal.SIGUSR1, signal.SIGCHLD, signal.SIGTERM})
    for _ in range(MANY):
        os.kill(os.getpid(), signal.SIGUSR1)
    return watch


def test_many_of_one_signal_leave_room_for_another(flooded: Watch) -> None:
    """A command may signal its process as often as it likes, and is still seen to end."""
    with flooded as watch:
        os.kill(os.getpid(), signal.SIGCHLD)
        assert watch.wait({}, 20) == ({}, {signal.SIGUSR1, signal.SIGCHLD})


def test_many_of_one_signal_keep_nobody_from_ending_us(flooded: Watch) -> None:
    with flooded as watch:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(EndedError):
            watch.wait({}, 20)
