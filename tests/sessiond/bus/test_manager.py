"""The objects on a private bus, held against the contract: what it says is what busctl sees."""

from __future__ import annotations

import asyncio
import json
import os
import xml.etree.ElementTree as ET
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import pytest

from sessiond import __version__
from sessiond.bus import access
from sessiond.bus.access import Access
from sessiond.bus.command import Commands
from sessiond.bus.contract import find_contract
from sessiond.bus.manager import Manager
from sessiond.bus.paths import ROOT, session_path, user_path
from sessiond.bus.session import SessionObject
from sessiond.bus.user_agent import UserAgentObject
from sessiond.errors import BusCallError, RequestError
from sessiond.model import (
    Counters,
    Display,
    Ending,
    Event,
    Order,
    Reason,
    Screen,
    SeatFacts,
    Session,
    Status,
    TerminalSize,
    UserAgent,
    UserDisplay,
)
from sessiond.transport.bus import Bus, Call
from sessiond.transport.bus_match import Match
from sessiond.transport.dbus import Variant
from sessiond.transport.objects import FAILED, ObjectServer
from sessiond.wire.device import Codec, codec_name
from tests.fixtures.bus import PrivateBus
from tests.fixtures.loop import Signal, in_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
    from types import TracebackType

    from sessiond.transport.bus_match import Signal as BusSignal
    from sessiond.transport.objects import Caller
    from sessiond.transport.passing import Passed

pytestmark = pytest.mark.parts

XML: Final = Path(__file__).parents[3] / "dbus" / "org.spice_space.Sessiond1.xml"
NAME: Final = "org.spice_space.Sessiond1"
MANAGER: Final = f"{NAME}.Manager"
SESSION: Final = f"{NAME}.Session"
USER_AGENT: Final = f"{NAME}.UserAgent"
STANDARD: Final = "org.freedesktop.DBus.Error"
PROPERTIES: Final = "org.freedesktop.DBus.Properties"
OBJECT_MANAGER: Final = "org.freedesktop.DBus.ObjectManager"
LOGIND: Final = "/org/freedesktop/login1/session"
ALICE: Final = Session(
    id="3",
    path=f"{LOGIND}/_33",
    uid=1000,
    gid=1000,
    user="alice",
    seat="seat0",
    vt=8,
    type="x11",
    cls="user",
    state="active",
    display=":1",
    tty="tty8",
    desktop="XFCE",
    since=300,
    active=True,
    locked=True,
)
BOB: Final = Session(
    id="c2",
    path=f"{LOGIND}/c2",
    uid=1001,
    gid=1001,
    user="bob",
    seat="seat0",
    vt=9,
    type="wayland",
    cls="greeter",
    since=400,
)
SHOWN: Final = Status(
    session="3",
    reason=Reason.OK,
    text="Session 3 is shown.",
    agent_pid=4711,
    agent_restarts=2,
    host_codecs=(Codec.H264, Codec.MJPEG, 99),
    backend="x11",
    codec=Codec.MJPEG,
    encoder="libjpeg-turbo",
    why="the host keeps up",
    width=1920,
    height=1080,
    next_retry=1_700_000_000.25,
    displays=MappingProxyType({"3": Display(":0", "logind")}),
)
ALICE_PATH: Final = f"{ROOT}/session/_33"
BOB_PATH: Final = f"{ROOT}/session/c2"
AGENT: Final = UserAgent(1000, "alice", 4712, 1_700_000_000.5)
AGENT_PATH: Final = f"{ROOT}/user/1000"
OF_MANAGER: Final[dict[str, Any]] = {
    "Version": __version__,
    "Seat": "seat0",
    "ActiveSession": ["3", ALICE_PATH],
    "State": "streaming",
    "Reason": "ok",
    "ReasonText": "Session 3 is shown.",
    "HostAsking": True,
    "HostCodecs": ["h264", "mjpeg", "codec-99"],
    "Backend": "x11",
    "Codec": "mjpeg",
    "Encoder": "libjpeg-turbo",
    "CodecReason": "the host keeps up",
    "Width": 1920,
    "Height": 1080,
    "AgentPID": 4711,
    "AgentRestarts": 2,
    "NextRetryUSec": 1_700_000_000_250_000,
    "StreamingEnabled": True,
    "AutoSwitch": "off",
    "FramesSent": 1 << 40,
    "BytesSent": (1 << 64) - 1,
    "FrameRate": 29.5,
}
OF_ALICE: Final[dict[str, Any]] = {
    "Id": "3",
    "User": [1000, "alice"],
    "VTNr": 8,
    "Type": "x11",
    "Class": "user",
    "Display": ":0",
    "TTY": "tty8",
    "Desktop": "XFCE",
    "Remote": False,
    "Active": True,
    "Locked": True,
    "Shown": True,
    "Reason": "ok",
    "Backend": "x11",
    "EnvSource": "logind",
    "LogindPath": f"{LOGIND}/_33",
}
OF_BOB: Final[dict[str, Any]] = {
    "Id": "c2",
    "User": [1001, "bob"],
    "VTNr": 9,
    "Type": "wayland",
    "Class": "greeter",
    "Display": "",
    "TTY": "",
    "Desktop": "",
    "Remote": False,
    "Active": False,
    "Locked": False,
    "Shown": False,
    "Reason": "type-unsupported",
    "Backend": "",
    "EnvSource": "",
    "LogindPath": f"{LOGIND}/c2",
}
OF_AGENT: Final[dict[str, Any]] = {
    "UID": 1000,
    "Name": "alice",
    "PID": 4712,
    "ConnectedUSec": 1_700_000_000_500_000,
}
OBJECTS: Final = {
    "manager": (ROOT, MANAGER, OF_MANAGER),
    "shown session": (ALICE_PATH, SESSION, OF_ALICE),
    "other session": (BOB_PATH, SESSION, OF_BOB),
    "user's agent": (AGENT_PATH, USER_AGENT, OF_AGENT),
}


class FakeControl:
    """The seat as the bus sees it; ``orders`` is what was ordered of it."""

    def __init__(self) -> None:
        self.facts = SeatFacts(
            seat="seat0",
            has_logind=True,
            sessions=MappingProxyType({"3": ALICE, "c2": BOB}),
            active="3",
        )
        self.status = SHOWN
        self.is_enabled = True
        self.auto_switch = "off"
        self.orders: list[tuple[Any, ...]] = []
        self.admins: set[str] = set()
        self.refusal: RequestError | None = None
        self.events = [
            Event(1_700_000_000.5, replace(SHOWN, reason=Reason.AGENT_STARTING, text="It starts.")),
            Event(1_700_000_001.0, SHOWN),
        ]

    def counters(self) -> Counters:
        return Counters(1 << 40, (1 << 64) - 1, 29.5)

    def history(self, limit: int) -> Sequence[Event]:
        return self.events[-limit:] if limit else self.events

    def reason_of(self, session_id: str) -> Reason:
        return Reason.OK if session_id == "3" else Reason.TYPE_UNSUPPORTED

    def is_paused_by_admin(self, session_id: str) -> bool:
        return session_id in self.admins

    def set_enabled(self, *, enabled: bool) -> None:
        self._order("set_enabled", enabled)
        self.is_enabled = enabled

    def set_auto_switch(self, value: str) -> None:
        self._order("set_auto_switch", value)
        self.auto_switch = value

    def set_streaming(self, session_id: str, *, enabled: bool, by_owner: bool) -> None:
        self._order("set_streaming", session_id, enabled, by_owner)

    async def activate(self, session_id: str) -> None:
        await asyncio.sleep(0)
        self._order("activate", session_id)

    async def switch_to(self, vt: int) -> None:
        await asyncio.sleep(0)
        self._order("switch_to", vt)

    def restart_agent(self) -> None:
        self._order("restart_agent")

    def reload(self) -> None:
        self._order("reload")

    def _order(self, *order: Any) -> None:  # noqa: ANN401
        if self.refusal:
            raise self.refusal
        self.orders.append(order)


class FakeUsers:
    """Alice's agent; ``orders`` is what it was to do."""

    def __init__(self) -> None:
        self.agents = {1000: AGENT}
        self.orders: list[tuple[Any, ...]] = []
        self.session = "3"
        self.runs: list[FakeRun] = []
        self.refusal: RequestError | None = None
        self.needs_polkit = False
        self.has_run = asyncio.Event()
        self.error: RequestError | None = None

    def find(self, user: str) -> UserAgent:
        for agent in self.agents.values():
            if agent.name == user:
                return agent
        raise RequestError(f"{NAME}.Error.NoUserAgent", f"no agent connected for user '{user}'")

    async def displays(self, user: str) -> list[UserDisplay]:
        await asyncio.sleep(0)
        self.orders.append(("displays", user))
        if self.error:
            raise self.error
        return [UserDisplay(":1", "3", "x11", is_active=True), UserDisplay(":9")]

    async def screens(self, user: str, display: str) -> list[Screen]:
        await asyncio.sleep(0)
        self.orders.append(("screens", user, display))
        return [Screen("DP-1", -1920, 0, 1920, 1080, is_primary=True)]

    async def connect(self, user: str, display: str, *, show: bool) -> str:
        await asyncio.sleep(0)
        self.orders.append(("connect", user, display, show))
        return self.session

    async def run(
        self, order: Order, passed: Passed, ask: Callable[[], Awaitable[None]]
    ) -> FakeRun:
        if self.needs_polkit:
            await ask()
        if self.refusal:
            raise self.refusal
        self.orders.append(("run", order))
        run = FakeRun(len(self.runs) + 1, AGENT, order.argv, [os.dup(it) for it in passed.fds])
        run.has_terminal = order.terminal is not None
        self.runs.append(run)
        self.has_run.set()
        if order.argv == ("false",):
            run.ended.set_result(Ending(1))  # before anybody knows of it
        return run

    async def kill(self, run: object, number: int) -> None:
        await asyncio.sleep(0)
        if self.refusal:
            raise self.refusal
        self.orders.append(("kill", run, number))

    async def resize(self, run: object, size: TerminalSize) -> None:
        await asyncio.sleep(0)
        self.orders.append(("resize", run, size))


class FakeRun:
    """A command that the test lets end."""

    pid = 4713
    started = 1_700_000_000.5
    has_terminal = False

    def __init__(
        self, number: int, agent: UserAgent, argv: Sequence[str], fds: Sequence[int]
    ) -> None:
        self.id = number
        self.agent = agent
        self.argv = argv
        self.fds = fds
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.has_to_end = asyncio.Event()

    def end(self) -> None:
        self.has_to_end.set()


class FakeAccess(Access):
    """Lets everybody: ``asked`` are the actions and who may without being asked."""

    uid = 0
    is_denying = False

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self.asked: list[tuple[str, int | None]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    async def check(self, caller: Caller, action: str, *, owner: int | None = None) -> int:
        assert caller.name.startswith(":1.")
        self.asked.append((action, owner))
        await asyncio.sleep(0)
        self.meanwhile()
        if self.is_denying and self.uid != owner:
            raise RequestError(f"{STANDARD}.AccessDenied", "no")
        return self.uid


class Served:
    """The objects on the bus under their name, and a client of them."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.control = FakeControl()
        self.users = FakeUsers()
        self.access: FakeAccess
        self.objects: ObjectServer
        self.client: Bus
        self._stack = AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        enter = self._stack.enter_context
        server = enter(await Bus.connect(self.address, takes_fds=True))
        self.client = enter(await Bus.connect(self.address, takes_fds=True))
        self.access = FakeAccess(server)
        self.objects = ObjectServer(server, ROOT, find_contract(), self._spawn)
        commands = Commands(server, self.objects, self.users, self.access)
        self.objects.add(ROOT, Manager(self.control, self.users, self.access, commands))
        for session in (ALICE, BOB):
            served = SessionObject(session, self.control, self.access)
            self.objects.add(session_path(session.id), served)
        self.objects.add(user_path(AGENT.uid), UserAgentObject(AGENT))
        await server.request_name(NAME)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @property
    def orders(self) -> list[tuple[Any, ...]]:
        """What was ordered of the seat, and of the users' agents."""
        return self.control.orders + self.users.orders

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def busctl(self, *arguments: str) -> list[dict[str, Any]]:
        """Run busctl and return its lines; fail with its complaint."""
        process = await asyncio.create_subprocess_exec(
            *("busctl", f"--address={self.address}", "--json=short", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, error = await process.communicate()
        assert process.returncode == 0, error.decode()
        return [json.loads(line) for line in out.splitlines()]

    async def call(
        self,
        member: str,
        signature: str = "",
        *body: object,
        path: str = ROOT,
        interface: str = MANAGER,
        fds: Sequence[int] = (),
    ) -> list[Any]:
        """Call a method of the manager, or of another object."""
        call = Call(NAME, path, interface, member, signature, body)
        return await self.client.call(call, fds=fds)

    async def error(self, *arguments: Any, **named: Any) -> tuple[str, str]:  # noqa: ANN401
        """Call, and return the name and text of the error."""
        with pytest.raises(BusCallError) as error:
            await self.call(*arguments, **named)
        return error.value.name, error.value.text

    async def get(self, name: str, path: str = ROOT, interface: str = MANAGER) -> Any:  # noqa: ANN401
        """Return a property."""
        call = Call(NAME, path, PROPERTIES, "Get", "ss", [interface, name])
        [value] = await self.client.call(call)
        return value

    async def set(self, name: str, value: Variant, interface: str = MANAGER) -> None:
        """Set a property of the manager."""
        call = Call(NAME, ROOT, PROPERTIES, "Set", "ssv", [interface, name, value])
        await self.client.call(call)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with PrivateBus() as bus:
        yield bus.address


def contract(interface: str) -> ET.Element:
    """Return an interface as the file has it, not as the daemon reads it."""
    root = ET.parse(XML).getroot()  # noqa: S314 (our own file)
    return next(it for it in root.iter("interface") if it.attrib["name"] == interface)


def types(interface: str) -> dict[str, str]:
    return {it.attrib["name"]: it.attrib["type"] for it in contract(interface).iter("property")}


def signature(method: ET.Element, direction: str) -> str:
    found = (it for it in method.iter("arg") if it.get("direction", "in") == direction)
    return "".join(it.attrib["type"] for it in found)


# Properties.


@pytest.mark.parametrize(("path", "interface", "expected"), OBJECTS.values(), ids=OBJECTS.keys())
@in_loop
async def test_every_property_and_its_type(
    address: str, path: str, interface: str, expected: dict[str, Any]
) -> None:
    async with Served(address) as served:
        found = await served.busctl("get-property", NAME, path, interface, *expected)
        [everything] = await served.call("GetAll", "s", interface, path=path, interface=PROPERTIES)
    kinds = types(interface)
    assert list(expected) == list(kinds)
    assert found == [{"type": kinds[name], "data": value} for name, value in expected.items()]
    assert everything == expected


@in_loop
async def test_all_objects_with_all_properties(address: str) -> None:
    async with Served(address) as served:
        [found] = await served.call("GetManagedObjects", interface=OBJECT_MANAGER)
    assert found == {
        ALICE_PATH: {SESSION: OF_ALICE},
        BOB_PATH: {SESSION: OF_BOB},
        AGENT_PATH: {USER_AGENT: OF_AGENT},
    }


@in_loop
async def test_nothing_is_shown(address: str) -> None:
    async with Served(address) as served:
        served.control.facts = SeatFacts(seat="seat0")
        served.control.status = Status(session="", reason=Reason.LOGIND_MISSING, text="Waiting.")
        expected = {
            "ActiveSession": ["", "/"],
            "State": "no-session",
            "Reason": "logind-missing",
            "HostAsking": False,
            "HostCodecs": [],
            "Backend": "",
            "Codec": "",
            "Encoder": "",
            "CodecReason": "",
            "Width": 0,
            "AgentPID": 0,
            "NextRetryUSec": 0,
        }
        assert {name: await served.get(name) for name in expected} == expected


@pytest.mark.parametrize("reason", [it for it in Reason if it.state != "streaming"])
@in_loop
async def test_session_is_not_shown_while_nothing_streams(address: str, reason: Reason) -> None:
    async with Served(address) as served:
        served.control.status = replace(SHOWN, reason=reason)
        assert await served.get("Shown", ALICE_PATH, SESSION) is False
        assert await served.get("State") == reason.state


@in_loop
async def test_display_is_what_logind_says_until_an_agent_has_found_it(address: str) -> None:
    async with Served(address) as served:
        served.control.status = replace(SHOWN, displays=MappingProxyType({}))
        assert await served.get("Display", ALICE_PATH, SESSION) == ":1"
        assert await served.get("EnvSource", ALICE_PATH, SESSION) == ""
        assert await served.get("Backend", ALICE_PATH, SESSION) == ""


@in_loop
async def test_a_wayland_display_and_what_captures_it(address: str) -> None:
    async with Served(address) as served:
        found = {"3": Display("wayland-1", "session's socket", "wlroots")}
        served.control.status = replace(SHOWN, backend="wlroots", displays=MappingProxyType(found))
        assert await served.get("Backend") == "wlroots"
        assert await served.get("Display", ALICE_PATH, SESSION) == "wayland-1"
        assert await served.get("Backend", ALICE_PATH, SESSION) == "wlroots"
        assert await served.get("EnvSource", ALICE_PATH, SESSION) == "session's socket"


@in_loop
async def test_session_that_has_just_ended_says_what_it_was(address: str) -> None:
    async with Served(address) as served:
        served.control.facts = replace(served.control.facts, sessions=MappingProxyType({}))
        assert await served.get("User", ALICE_PATH, SESSION) == [1000, "alice"]


def test_codecs_have_their_names() -> None:
    names = {codec: codec_name(codec) for codec in Codec}
    assert set(names.values()) == {"mjpeg", "vp8", "h264", "vp9", "h265"}
    assert (codec_name(0), codec_name(77)) == ("", "codec-77")


@in_loop
async def test_changes_are_told_as_the_contract_says(address: str) -> None:
    async with Served(address) as served:
        heard: list[list[Any]] = []
        told = Signal()

        def hear(signal: BusSignal) -> None:
            heard.append([signal.path, *signal.body])
            told.happened()

        match = Match(sender=NAME, interface=PROPERTIES, member="PropertiesChanged")
        served.client.subscribe(match, hear)
        await served.get("Version")  # from this answer on the subscription holds
        control = served.control
        control.counters = lambda: Counters(1, 2, 3.0)  # type: ignore[method-assign]
        control.status = replace(SHOWN, reason=Reason.HOST_STALLED, text="It takes no data.")
        bob = replace(BOB, locked=True, desktop="its own change is never told")
        sessions = MappingProxyType({"3": ALICE, "c2": bob})
        control.facts = replace(control.facts, sessions=sessions)
        for path in (ROOT, ALICE_PATH, BOB_PATH):
            served.objects.changed(path)
        await told.until(lambda: len(heard) == 2)
        await served.get("Version")  # nothing else was under way
    assert heard == [
        [ROOT, MANAGER, {"Reason": "host-stalled", "ReasonText": "It takes no data."}, []],
        [BOB_PATH, SESSION, {"Locked": True}, []],
    ]


WRITTEN: dict[str, tuple[str, Variant, str, tuple[Any, ...]]] = {
    "pause": ("StreamingEnabled", Variant("b", False), access.PAUSE, ("set_enabled", False)),
    "resume": ("StreamingEnabled", Variant("b", True), access.PAUSE, ("set_enabled", True)),
    "auto": (
        *("AutoSwitch", Variant("s", "on-session-end"), access.SETTINGS),
        ("set_auto_switch", "on-session-end"),
    ),
    "no auto": ("AutoSwitch", Variant("s", "off"), access.SETTINGS, ("set_auto_switch", "off")),
}


@pytest.mark.parametrize(("name", "value", "action", "order"), WRITTEN.values(), ids=WRITTEN.keys())
@in_loop
async def test_property_is_set_by_who_may(
    address: str, name: str, value: Variant, action: str, order: tuple[Any, ...]
) -> None:
    async with Served(address) as served:
        await served.set(name, value)
        assert served.access.asked == [(action, None)]
        assert served.control.orders == [order]
        assert await served.get(name) == value.value
        served.access.is_denying, served.access.uid = True, ALICE.uid
        with pytest.raises(BusCallError) as error:
            await served.set(name, value, interface="")  # Properties: any interface
        assert error.value.name == f"{STANDARD}.AccessDenied"
        assert served.control.orders == [order]


def test_these_can_be_written_and_no_others() -> None:
    writable = {
        it.attrib["name"]
        for interface in (MANAGER, SESSION, USER_AGENT)
        for it in contract(interface).iter("property")
        if it.attrib["access"] != "read"
    }
    assert writable == {name for name, *_ in WRITTEN.values()}


# Methods.


class Row(NamedTuple):
    """A call by busctl, and what is to come of it."""

    arguments: tuple[str, ...]
    answer: list[Any]
    asked: tuple[str, int | None] | None = None
    order: tuple[Any, ...] | None = None
    path: str = ROOT
    interface: str = MANAGER


OF_SESSION: Final = (ALICE_PATH, SESSION)
EVENTS: Final = [
    [1_700_000_000_500_000, "3", "starting", "agent-starting", "It starts."],
    [1_700_000_001_000_000, "3", "streaming", "ok", "Session 3 is shown."],
]
METHODS: dict[str, Row] = {
    "ListSessions": Row(
        (),
        [
            [
                ["3", 1000, "alice", "user", "x11", 8, ALICE_PATH],
                ["c2", 1001, "bob", "greeter", "wayland", 9, BOB_PATH],
            ]
        ],
    ),
    "GetSession": Row(("s", "c2"), [BOB_PATH]),
    "GetSessionByVT": Row(("u", "8"), [ALICE_PATH]),
    "ActivateSession": Row(("s", "c2"), [], (access.SWITCH, None), ("activate", "c2")),
    "SwitchToVT": Row(("u", "63"), [], (access.SWITCH, None), ("switch_to", 63)),
    "RestartAgent": Row((), [], (access.RESTART, 1000), ("restart_agent",)),
    "GetHistory": Row(("u", "0"), [EVENTS]),
    "Reload": Row((), [], (access.RELOAD, None), ("reload",)),
    "ListUserAgents": Row((), [[[1000, "alice", AGENT_PATH]]]),
    "QueryDisplays": Row(
        *(("s", "alice"), [[[":1", "3", "x11", True], [":9", "", "", False]]]),
        *((access.QUERY_DISPLAYS, 1000), ("displays", "alice")),
    ),
    "QueryScreens": Row(
        *(("ss", "alice", ":1"), [[["DP-1", -1920, 0, 1920, 1080, True]]]),
        *((access.QUERY_DISPLAYS, 1000), ("screens", "alice", ":1")),
    ),
    "ConnectDisplay": Row(
        *(("ssb", "alice", ":1", "false"), [ALICE_PATH]),
        *((access.CONNECT_DISPLAY, 1000), ("connect", "alice", ":1", False)),
    ),
    "Activate": Row((), [], (access.SWITCH, None), ("activate", "3"), *OF_SESSION),
    "SetStreaming": Row(
        *(("b", "false"), [], (access.PAUSE, 1000), ("set_streaming", "3", False, False)),
        *OF_SESSION,
    ),
}
OF_ANOTHER_TEST: Final = ("RunCommand",)  # test_command.py


def test_every_method_is_in_the_table() -> None:
    declared = [
        it.attrib["name"] for name in (MANAGER, SESSION) for it in contract(name).iter("method")
    ]
    assert sorted(declared) == sorted([*METHODS, *OF_ANOTHER_TEST])


@pytest.mark.parametrize("member", METHODS)
@in_loop
async def test_every_method(address: str, member: str) -> None:
    row = METHODS[member]
    async with Served(address) as served:
        found = await served.busctl("call", NAME, row.path, row.interface, member, *row.arguments)
        assert served.access.asked == ([row.asked] if row.asked else [])
        assert served.orders == ([row.order] if row.order else [])
    [method] = (it for it in contract(row.interface).iter("method") if it.get("name") == member)
    gives = signature(method, "out")
    assert found == ([{"type": gives, "data": row.answer}] if gives else [])


@pytest.mark.parametrize("member", [name for name, row in METHODS.items() if row.asked])
@in_loop
async def test_who_may_not_orders_nothing(address: str, member: str) -> None:
    row = METHODS[member]
    async with Served(address) as served:
        served.access.is_denying, served.access.uid = True, 4711
        kind, *texts = row.arguments or ("",)
        values = [json.loads(it) if k in "ub" else it for k, it in zip(kind, texts, strict=True)]
        refused = await served.error(member, kind, *values, path=row.path, interface=row.interface)
        assert refused == (f"{STANDARD}.AccessDenied", "no")
        assert served.orders == []


OF_THE_USERS: Final = {"QueryDisplays", "QueryScreens", "ConnectDisplay"}


@pytest.mark.parametrize(
    "member", [name for name, row in METHODS.items() if row.order and name not in OF_THE_USERS]
)
@in_loop
async def test_what_the_seat_refuses_is_told(address: str, member: str) -> None:
    row = METHODS[member]
    async with Served(address) as served:
        served.control.refusal = RequestError(f"{NAME}.Error.NotSwitched", "not now")
        kind, *texts = row.arguments or ("",)
        values = [json.loads(text) if kind in {"u", "b"} else text for text in texts]
        refused = await served.error(member, kind, *values, path=row.path, interface=row.interface)
        assert refused == (f"{NAME}.Error.NotSwitched", "not now")


@in_loop
async def test_history_up_to_a_limit(address: str) -> None:
    async with Served(address) as served:
        assert await served.call("GetHistory", "u", 1) == [EVENTS[1:]]
        assert await served.call("GetHistory", "u", (1 << 32) - 1) == [EVENTS]


@in_loop
async def test_session_on_a_vt_is_the_active_one_else_the_newest(address: str) -> None:
    async with Served(address) as served:
        old, new = replace(ALICE, id="7", active=False), replace(ALICE, id="8", active=False)
        found = {"7": replace(old, since=100), "8": replace(new, since=200)}
        facts = served.control.facts
        served.control.facts = replace(facts, sessions=MappingProxyType(found))
        assert await served.call("GetSessionByVT", "u", 8) == [session_path("8")]
        found["7"] = replace(found["7"], active=True)
        assert await served.call("GetSessionByVT", "u", 8) == [session_path("7")]
        found["9"] = replace(ALICE, id="9", vt=0)
        name, text = await served.error("GetSessionByVT", "u", 0)
        assert (name, text) == (f"{NAME}.Error.NoSuchSession", "there is no session on VT 0")


STREAMING: dict[str, tuple[int, bool, int | None, bool]] = {
    # uid, whether an administrator has paused it, who is not asked about, whose order it is
    "root": (0, False, 1000, False),
    "root, after root": (0, True, None, False),
    "its own user": (1000, False, 1000, True),
    "its own user, whom polkit allows": (1000, True, None, True),
    "another, whom polkit allows": (1001, False, 1000, False),
}


@pytest.mark.parametrize(
    ("uid", "is_admins", "owner", "by_owner"), STREAMING.values(), ids=STREAMING.keys()
)
@in_loop
async def test_whose_pause_it_is(
    address: str, *, uid: int, is_admins: bool, owner: int | None, by_owner: bool
) -> None:
    async with Served(address) as served:
        served.access.uid = uid
        served.control.admins = {"3"} if is_admins else set()
        await served.call("SetStreaming", "b", True, path=ALICE_PATH, interface=SESSION)
        assert served.access.asked == [(access.PAUSE, owner)]
        assert served.control.orders == [("set_streaming", "3", True, by_owner)]


@in_loop
async def test_administrators_pause_that_comes_while_it_is_asked_stands(address: str) -> None:
    async with Served(address) as served:
        served.access.uid, served.access.is_denying = 1000, True
        served.access.meanwhile = lambda: served.control.admins.add("3")
        name, _text = await served.error(
            "SetStreaming", "b", True, path=ALICE_PATH, interface=SESSION
        )
        assert name == f"{STANDARD}.AccessDenied"
        assert served.control.orders == []


@in_loop
async def test_agent_of_who_is_shown_meanwhile_is_not_its_to_restart(address: str) -> None:
    async with Served(address) as served:
        served.access.uid, served.access.is_denying = 1000, True

        def switch() -> None:
            served.control.status = replace(SHOWN, session="c2")

        served.access.meanwhile = switch
        name, _text = await served.error("RestartAgent")
        assert name == f"{STANDARD}.AccessDenied"
        assert served.control.orders == []


@in_loop
async def test_without_a_shown_session_nobody_owns_its_agent(address: str) -> None:
    async with Served(address) as served:
        served.control.status = replace(SHOWN, session="")
        await served.call("RestartAgent")
        assert served.access.asked == [(access.RESTART, None)]


# The users' agents.


@in_loop
async def test_who_connects_a_display_to_show_it_may_also_switch(address: str) -> None:
    async with Served(address) as served:
        found = await served.call("ConnectDisplay", "ssb", "alice", ":1", True)
        assert found == [ALICE_PATH]
        assert served.access.asked == [(access.SWITCH, None), (access.CONNECT_DISPLAY, 1000)]
        served.access.is_denying, served.access.uid = True, 1000  # alice, in the background
        name, _text = await served.error("ConnectDisplay", "ssb", "alice", ":1", True)
        assert name == f"{STANDARD}.AccessDenied"
        assert served.users.orders == [("connect", "alice", ":1", True)]


@in_loop
async def test_everybody_may_ask_about_displays_of_their_own(address: str) -> None:
    async with Served(address) as served:
        served.access.is_denying, served.access.uid = True, 1000
        await served.call("QueryDisplays", "s", "alice")
        await served.call("QueryScreens", "ss", "alice", ":1")
        await served.call("ConnectDisplay", "ssb", "alice", ":1", False)
        assert [order[0] for order in served.users.orders] == ["displays", "screens", "connect"]


@in_loop
async def test_display_of_no_session_has_no_object(address: str) -> None:
    async with Served(address) as served:
        served.users.session = ""
        assert await served.call("ConnectDisplay", "ssb", "alice", ":9", False) == ["/"]


@pytest.mark.parametrize(
    ("member", "kinds", "body"),
    [
        ("QueryDisplays", "s", ("bob",)),
        ("QueryScreens", "ss", ("bob", ":1")),
        ("ConnectDisplay", "ssb", ("bob", ":1", False)),
    ],
)
@in_loop
async def test_user_without_an_agent(
    address: str, member: str, kinds: str, body: tuple[object, ...]
) -> None:
    async with Served(address) as served:
        found = await served.error(member, kinds, *body)
        assert found == (f"{NAME}.Error.NoUserAgent", "no agent connected for user 'bob'")
        assert served.access.asked == []


@in_loop
async def test_error_that_the_bus_would_not_carry(address: str) -> None:
    async with Served(address) as served:
        served.users.error = RequestError(f"{NAME}.Error.NotDone", "in an agent's words: \0")
        found = await served.error("QueryDisplays", "s", "alice")
        assert found == (f"{NAME}.Error.NotDone", "in an agent's words: \ufffd")
        assert await served.call("ListUserAgents")


@in_loop
async def test_texts_that_are_not_ascii(address: str) -> None:
    async with Served(address) as served:
        served.control.status = replace(served.control.status, text="Grüße \u2026 \U0001f600")
        assert await served.get("ReasonText") == "Grüße \u2026 \U0001f600"
        served.users.error = RequestError(f"{NAME}.Error.NotDone", "Größe")
        assert (await served.error("QueryDisplays", "s", "alice"))[1] == "Größe"


@in_loop
async def test_agent_of_who_has_the_name_meanwhile_is_not_the_callers(address: str) -> None:
    async with Served(address) as served:
        served.access.uid, served.access.is_denying = 1000, True

        def rename() -> None:
            served.users.agents = {1001: replace(AGENT, uid=1001)}

        served.access.meanwhile = rename
        name, _text = await served.error("QueryDisplays", "s", "alice")
        assert name == f"{STANDARD}.AccessDenied"
        assert served.users.orders == []


@in_loop
async def test_agents_come_and_go(address: str) -> None:
    async with Served(address) as served:
        heard: list[list[Any]] = []
        told = Signal()

        def hear(signal: BusSignal) -> None:
            heard.append([signal.member, *signal.body])
            told.happened()

        for member in ("InterfacesAdded", "InterfacesRemoved"):
            served.client.subscribe(
                Match(sender=NAME, interface=OBJECT_MANAGER, member=member), hear
            )
        await served.get("Version")  # from this answer on the subscription holds
        served.objects.remove(AGENT_PATH)
        served.objects.add(AGENT_PATH, UserAgentObject(replace(AGENT, pid=5)))
        await told.until(lambda: len(heard) == 2)
    assert heard == [
        ["InterfacesRemoved", AGENT_PATH, [USER_AGENT]],
        ["InterfacesAdded", AGENT_PATH, {USER_AGENT: OF_AGENT | {"PID": 5}}],
    ]


# Wrong questions.

NO_SESSION: Final = f"{NAME}.Error.NoSuchSession"
INVALID: Final = f"{STANDARD}.InvalidArgs"
OFF: Final = Variant("b", False)
WRONG: dict[str, tuple[str, str, str, str, tuple[object, ...], str]] = {
    "a session's path": (ROOT, MANAGER, "GetSession", "s", ("9",), NO_SESSION),
    "the empty session": (ROOT, MANAGER, "GetSession", "s", ("",), NO_SESSION),
    "an empty VT": (ROOT, MANAGER, "GetSessionByVT", "u", (1,), NO_SESSION),
    "an unknown session": (ROOT, MANAGER, "ActivateSession", "s", ("9",), NO_SESSION),
    "VT 0": (ROOT, MANAGER, "SwitchToVT", "u", (0,), INVALID),
    "VT 64": (ROOT, MANAGER, "SwitchToVT", "u", (64,), INVALID),
    "method": (ROOT, MANAGER, "Nothing", "", (), f"{STANDARD}.UnknownMethod"),
    "the other's method": (ROOT, MANAGER, "Activate", "", (), f"{STANDARD}.UnknownMethod"),
    "interface": (ROOT, SESSION, "Activate", "", (), f"{STANDARD}.UnknownInterface"),
    "object": (f"{ROOT}/session/_39", SESSION, "Activate", "", (), f"{STANDARD}.UnknownObject"),
    "the folder": (f"{ROOT}/session", SESSION, "Activate", "", (), f"{STANDARD}.UnknownObject"),
    "property": (
        *(ROOT, PROPERTIES, "Get", "ss", (MANAGER, "Nothing"), f"{STANDARD}.UnknownProperty"),
    ),
    "property's interface": (
        *(ROOT, PROPERTIES, "Get", "ss", (SESSION, "Id"), f"{STANDARD}.UnknownInterface"),
    ),
    "all of an interface": (
        *(BOB_PATH, PROPERTIES, "GetAll", "s", (MANAGER,), f"{STANDARD}.UnknownInterface"),
    ),
    "setting what is read-only": (
        *(ROOT, PROPERTIES, "Set", "ssv", (MANAGER, "State", Variant("s", "idle"))),
        f"{STANDARD}.PropertyReadOnly",
    ),
    "setting what is a session's": (
        *(BOB_PATH, PROPERTIES, "Set", "ssv", (SESSION, "Shown", OFF)),
        f"{STANDARD}.PropertyReadOnly",
    ),
    "setting what there is not": (
        *(ROOT, PROPERTIES, "Set", "ssv", (MANAGER, "Nothing", OFF)),
        f"{STANDARD}.UnknownProperty",
    ),
    "a text for a boolean": (
        *(ROOT, PROPERTIES, "Set", "ssv", (MANAGER, "StreamingEnabled", Variant("s", "no"))),
        INVALID,
    ),
    "a number for a text": (
        *(ROOT, PROPERTIES, "Set", "ssv", (MANAGER, "AutoSwitch", Variant("u", 1))),
        INVALID,
    ),
    "a variant for a text": (
        *(ROOT, PROPERTIES, "Set", "ssv", (MANAGER, "AutoSwitch", Variant("v", OFF))),
        INVALID,
    ),
    "another text": (
        *(ROOT, PROPERTIES, "Set", "ssv", (MANAGER, "AutoSwitch", Variant("s", "always"))),
        INVALID,
    ),
}


@pytest.mark.parametrize("question", WRONG.values(), ids=WRONG.keys())
@in_loop
async def test_wrong_question_asks_nobody_and_changes_nothing(
    address: str, question: tuple[str, str, str, str, tuple[object, ...], str]
) -> None:
    path, interface, member, kinds, body, wanted = question
    async with Served(address) as served:
        name, text = await served.error(member, kinds, *body, path=path, interface=interface)
        assert name == wanted
        assert text not in {"", "internal error"}
        assert served.access.asked == []
        assert served.control.orders == []


@pytest.mark.parametrize("interface", [MANAGER, SESSION])
@in_loop
async def test_every_method_takes_what_the_contract_says_and_nothing_else(
    address: str, interface: str
) -> None:
    path = ROOT if interface == MANAGER else ALICE_PATH
    async with Served(address) as served:
        for method in contract(interface).iter("method"):
            takes = signature(method, "in")
            name, text = await served.error(
                method.attrib["name"], "y", 1, path=path, interface=interface
            )
            assert name == INVALID
            assert text == f"{method.attrib['name']} takes ({takes}), not (y)"
        assert served.control.orders == []


@in_loop
async def test_bug_of_ours_is_told_without_its_text(address: str) -> None:
    async with Served(address) as served:
        served.control.events = [None]  # type: ignore[list-item]
        assert await served.error("GetHistory", "u", 0) == (FAILED, "internal error")
        assert await served.get("State") == "streaming"


# Introspection.


def plain(element: ET.Element) -> tuple[Any, ...]:
    """Return an element without the white space between its children."""
    return element.tag, sorted(element.attrib.items()), [plain(child) for child in element]


@pytest.mark.parametrize(("path", "interface", "_expected"), OBJECTS.values(), ids=OBJECTS.keys())
@in_loop
async def test_introspection_is_the_contract(
    address: str, path: str, interface: str, _expected: object
) -> None:
    async with Served(address) as served:
        call = Call(NAME, path, "org.freedesktop.DBus.Introspectable", "Introspect")
        [text] = await served.client.call(call)
    root = ET.fromstring(text)  # noqa: S314 (our own daemon's)
    found = {it.attrib["name"]: it for it in root.findall("interface")}
    standard = {"Peer", "Introspectable", "Properties"} | (
        {"ObjectManager"} if path == ROOT else set()
    )
    assert found.keys() == {interface} | {f"org.freedesktop.DBus.{name}" for name in standard}
    assert plain(found[interface]) == plain(contract(interface))
    children = [it.attrib["name"] for it in root.findall("node")]
    assert children == (["session", "user"] if path == ROOT else [])


@in_loop
async def test_busctl_finds_every_object(address: str) -> None:
    async with Served(address) as served:
        process = await asyncio.create_subprocess_exec(
            *("busctl", f"--address={address}", "tree", "--list", NAME),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "SYSTEMD_COLORS": "0"},
        )
        out, _ = await process.communicate()
        assert served.access.asked == []
    assert {ROOT, ALICE_PATH, BOB_PATH, AGENT_PATH} <= set(out.decode().split())
