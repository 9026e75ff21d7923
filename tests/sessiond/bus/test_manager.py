"""The Manager on a private bus, read by both libraries and by busctl."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from sessiond import __version__
from sessiond.bus.manager import INTERFACE, PATH, Manager, View
from sessiond.model import Reason, Status
from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_match import Match
from sessiond.transport.bus_match import Signal as BusSignal
from sessiond.transport.dbus import LIBRARY
from tests.fixtures.bus import PrivateBus
from tests.fixtures.loop import Signal, in_loop

ROOT = Path(__file__).parents[3]
NAME = "org.example.Sessiond"
PROPERTIES = "org.freedesktop.DBus.Properties"
OTHER = {"dbus_fast": "dbus_next", "dbus_next": "dbus_fast"}[LIBRARY]
SHOWN = Status(
    session="3",
    reason=Reason.OK,
    text="Session 3 is shown.",
    agent_pid=4711,
    host_asking=True,
    agent_restarts=2,
)
VIEW = View(SHOWN, "/org/freedesktop/login1/session/_33", "seat0")
EXPECTED: dict[str, tuple[str, Any]] = {
    "Version": ("s", __version__),
    "Seat": ("s", "seat0"),
    "ActiveSession": ("(so)", ["3", "/org/freedesktop/login1/session/_33"]),
    "State": ("s", "streaming"),
    "Reason": ("s", "ok"),
    "ReasonText": ("s", "Session 3 is shown."),
    "AgentPID": ("u", 4711),
    "AgentRestarts": ("u", 2),
    "HostAsking": ("b", True),
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with PrivateBus() as bus:
        yield bus.address


@dataclass
class Served:
    """A served manager, a client of it, and what the client heard."""

    client: Bus
    view: View = VIEW
    heard: list[dict[str, Any]] = field(default_factory=list)
    signal: Signal = field(default_factory=Signal)

    def __post_init__(self) -> None:
        self.manager = Manager(lambda: self.view)

    def on_signal(self, signal: BusSignal) -> None:
        interface, changed, invalidated = signal.body
        assert interface == INTERFACE
        assert invalidated == []
        self.heard.append(changed)
        self.signal.happened()

    def change(self, **facts: Any) -> None:  # noqa: ANN401 (fields of Status)
        self.view = replace(self.view, status=replace(self.view.status, **facts))
        self.manager.changed()

    async def get(self, name: str) -> Any:  # noqa: ANN401 (as the wire has it)
        call = Call(NAME, PATH, PROPERTIES, "Get", "ss", [INTERFACE, name])
        [value] = await self.client.call(call)
        return value


@asynccontextmanager
async def serving(address: str) -> AsyncIterator[Served]:
    with await Bus.connect(address) as server, await Bus.connect(address) as client:
        served = Served(client)
        server.export(PATH, served.manager)
        await server.request_name(NAME)
        match = Match(sender=NAME, interface=PROPERTIES, member="PropertiesChanged", path=PATH)
        client.subscribe(match, served.on_signal)
        await served.get("Version")  # from this answer on the subscription holds
        yield served


@in_loop
async def test_get(address: str) -> None:
    async with serving(address) as served:
        for name, (_, value) in EXPECTED.items():
            assert await served.get(name) == value


@in_loop
async def test_get_all(address: str) -> None:
    async with serving(address) as served:
        call = Call(NAME, PATH, PROPERTIES, "GetAll", "s", [INTERFACE])
        [values] = await served.client.call(call)
        assert values == {name: value for name, (_, value) in EXPECTED.items()}


@in_loop
async def test_busctl(address: str) -> None:
    async with serving(address):
        process = await asyncio.create_subprocess_exec(
            "busctl", f"--address={address}", "--json=short", "get-property", NAME, PATH,
            INTERFACE, *EXPECTED, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
    assert process.returncode == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert found == [{"type": kind, "data": value} for kind, value in EXPECTED.values()]


@in_loop
async def test_nothing_is_shown(address: str) -> None:
    async with serving(address) as served:
        status = Status(session="", reason=Reason.LOGIND_MISSING, text="Waiting.")
        served.view = View(status, "/", "seat0")
        assert await served.get("ActiveSession") == ["", "/"]
        assert await served.get("State") == "no-session"
        assert await served.get("HostAsking") is False


@in_loop
async def test_only_what_changed_is_told(address: str) -> None:
    async with serving(address) as served:
        served.manager.changed()
        served.change()
        served.change(reason=Reason.HOST_STALLED, text="The host takes no data.")
        served.change(agent_pid=0)
        served.change(host_codecs=(1,), rule="logind")  # no properties of this interface
        served.change(reason=Reason.HOST_NOT_ASKING, host_asking=False)
        await served.signal.until(lambda: len(served.heard) == 4)
        await served.get("Version")  # nothing else was under way
    constant = {"Version", "Seat"}
    first, *others = served.heard
    assert first == {n: value for n, (_, value) in EXPECTED.items() if n not in constant}
    assert others == [
        {"Reason": "host-stalled", "ReasonText": "The host takes no data."},
        {"AgentPID": 0},
        {"State": "idle", "Reason": "host-not-asking", "HostAsking": False},
    ]


@in_loop
async def test_another_path_of_the_same_session_is_told(address: str) -> None:
    async with serving(address) as served:
        served.manager.changed()
        served.view = replace(served.view, session_path="/other")
        served.manager.changed()
        await served.signal.until(lambda: len(served.heard) == 2)
    assert served.heard[1] == {"ActiveSession": ["3", "/other"]}


@pytest.mark.skipif("SPICE_SESSIOND_DBUS" in os.environ, reason="one library was asked for")
@pytest.mark.skipif(not importlib.util.find_spec(OTHER), reason=f"{OTHER} is not installed")
def test_other_library_does_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        cwd=ROOT, env={**os.environ, "SPICE_SESSIOND_DBUS": OTHER},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
