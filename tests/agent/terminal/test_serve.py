"""Who offers a terminal, as far as it needs no terminal."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from agent.terminal.handover import HandoverError
from agent.terminal.serve import Offer
from agent.terminal.stderr import Stderr

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_without_a_descriptor_for_who_wants_it() -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind("")  # at a name of the kernel's choice
        listener.listen()
        client.connect(listener.getsockname())
        offer = Offer(None, Stderr("serve"))
        refused = pytest.raises(HandoverError, match="who wants it: Too many open files")
        with refused, no_descriptors_left():
            offer.hand_over([listener])
