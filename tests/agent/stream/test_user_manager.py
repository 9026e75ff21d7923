"""What the user's manager says, asked by busctl: a real bus with a stand-in for systemd."""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.stream import user_manager as module
from agent.stream.places import Places
from agent.stream.user_manager import manager_environment
from tests.fixtures import systemd1
from tests.fixtures.bus import PrivateBus
from tests.fixtures.loop import in_loop

pytestmark = pytest.mark.parts

ENVIRONMENT = ["LANG=C", "DISPLAY=:3", "PATH=/x", "XAUTHORITY=/run/a b=c", "WAYLAND_DISPLAY=w"]


@pytest.fixture(scope="module")
def bus() -> Iterator[PrivateBus]:
    with PrivateBus() as running:
        yield running


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(os.getuid(), "", "host", run=tmp_path)
    made.runtime.mkdir(parents=True)
    return made


@pytest.fixture
def on_bus(places: Places, bus: PrivateBus) -> Places:
    path = bus.address.removeprefix("unix:path=").partition(",")[0]
    (places.runtime / "bus").symlink_to(path)
    return places


@in_loop
async def test_environment(bus: PrivateBus, on_bus: Places) -> None:
    async with systemd1.user_manager(bus.address, ENVIRONMENT):
        found = await asyncio.to_thread(manager_environment, on_bus, 5.0)
    assert found == {"DISPLAY": ":3", "XAUTHORITY": "/run/a b=c"}


@in_loop
async def test_too_much(bus: PrivateBus, on_bus: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", 64)
    async with systemd1.user_manager(bus.address, [*ENVIRONMENT, "X=" + (1 << 20) * "x"]):
        assert await asyncio.to_thread(manager_environment, on_bus, 5.0) == {}


def test_bus_without_a_manager(on_bus: Places) -> None:
    assert manager_environment(on_bus, 5.0) == {}


def test_no_bus(places: Places) -> None:
    assert manager_environment(places, 5.0) == {}


def test_bus_that_does_not_answer(places: Places) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(places.runtime / "bus"))
        mute.listen()
        began = time.monotonic()
        assert manager_environment(places, 0.2) == {}
        assert time.monotonic() - began < 2.0
