"""The client of login1 against a stand-in that plays what was measured."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sessiond.errors import BusCallError
from sessiond.logind import client as client_module
from sessiond.logind.client import LOGIN1, PROPERTIES, LogindClient
from sessiond.model import SeatFacts, Session
from sessiond.transport.bus import Bus
from sessiond.transport.dbus import Message, Variant
from tests.fixtures.bus import PrivateBus
from tests.fixtures.login1 import Login1
from tests.fixtures.login1_session import ROOT
from tests.fixtures.loop import Signal, in_loop
from tests.fixtures.processes import DIE_WITH_PARENT, JsonProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.parts

ROOT_FOLDER = Path(__file__).parents[3]


class Follower:
    """A client, the facts that it told, and the stand-in that it follows."""

    def __init__(self, bus: Bus, login1: Login1) -> None:
        self.bus = bus
        self.login1 = login1
        self.told: list[SeatFacts] = []
        self._signal = Signal()
        self.client = LogindClient(bus, "seat0", self._on_facts)

    def _on_facts(self, facts: SeatFacts) -> None:
        self.told.append(facts)
        self._signal.happened()

    @property
    def facts(self) -> SeatFacts:
        return self.told[-1]

    async def until(self, condition: Callable[[SeatFacts], bool]) -> SeatFacts:
        await self._signal.until(lambda: bool(self.told) and condition(self.facts))
        return self.facts

    async def session(self, session_id: str) -> Session:
        facts = await self.until(lambda facts: session_id in facts.sessions)
        return facts.sessions[session_id]

    async def in_front(self, session_id: str) -> SeatFacts:
        return await self.until(
            lambda facts: (
                facts.active == session_id and (not session_id or session_id in facts.sessions)
            )
        )

    async def settled(self) -> SeatFacts:
        """Return the facts once everything sent so far has been heard and read."""
        self.login1.add_session(id="mark", seat="", front=False)
        await self.session("mark")
        self.login1.remove_session("mark")
        return await self.until(lambda facts: "mark" not in facts.sessions)


@pytest.fixture
def private_bus() -> "Iterator[PrivateBus]":
    with PrivateBus() as bus:
        yield bus


@asynccontextmanager
async def following(address: str, *sessions: dict[str, Any]) -> "AsyncIterator[Follower]":
    """Start the stand-in with ``sessions``, the last one in front, and a client that is ready."""
    async with AsyncExitStack() as stack:
        login1 = await stack.enter_async_context(Login1(address))
        for properties in sessions:
            login1.add_session(**properties)
        follower = Follower(stack.enter_context(await Bus.connect(address)), login1)
        stack.callback(follower.client.close)
        follower.client.start()
        await follower.until(lambda facts: facts.has_logind)
        yield follower


ALICE: dict[str, Any] = {"id": "3", "vt": 8, "display": ":1"}
BOB: dict[str, Any] = {"id": "52", "vt": 9, "uid": 1001, "gid": 1001, "user": "bob"}
GREETER: dict[str, Any] = {
    "id": "c1",
    "vt": 7,
    "uid": 100,
    "gid": 65534,
    "user": "lightdm",
    "cls": "greeter",
    "display": ":0",
}


@in_loop
async def test_first_facts_are_complete(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, BOB, ALICE) as at:
        assert len(at.told) == 1
        assert at.facts.active == "3"
        assert at.facts.vt == 8
        assert at.facts.sessions["3"] == Session(
            id="3",
            path=f"{ROOT}/session/_33",
            uid=1000,
            gid=1000,
            user="alice",
            seat="seat0",
            vt=8,
            type="x11",
            cls="user",
            state="online",
            display=":1",
            scope="session-3.scope",
            leader=4711,
            since=1_700_000_000_000_000,
            active=True,
        )
        assert not at.facts.sessions["52"].active


@in_loop
async def test_no_sessions_is_a_normal_state(private_bus: PrivateBus) -> None:
    async with following(private_bus.address) as at:
        assert at.told == [SeatFacts(seat="seat0", has_logind=True)]


@in_loop
async def test_switch(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, BOB, ALICE) as at:
        at.login1.switch("52")
        facts = await at.in_front("52")
        assert [one.id for one in facts.sessions.values() if one.active] == ["52"]
        assert facts.vt == 9


@in_loop
async def test_switch_to_a_bare_vt_and_on_to_another(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, ALICE) as at:
        at.login1.switch_to_vt(2)
        facts = await at.in_front("")
        assert not facts.sessions["3"].active
        assert facts.vt == 0
        before = len(at.told)
        at.login1.switch_to_vt(3)
        at.login1.switch_to_vt(8)
        await at.in_front("3")
        assert len(at.told) == before + 1


@in_loop
async def test_coalesced_switches_end_at_the_last(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, BOB, ALICE) as at:
        for _ in range(5):
            at.login1.switch("52")
            at.login1.switch("3")
        at.login1.switch("52")
        facts = await at.settled()
        assert facts.active == "52"
        assert [one.id for one in facts.sessions.values() if one.active] == ["52"]


@in_loop
async def test_session_that_comes_to_front_later(private_bus: PrivateBus) -> None:
    """Seen 35 ms after SessionNew; Active itself is not signalled."""
    async with following(private_bus.address, ALICE) as at:
        at.login1.add_session(front=False, **BOB)
        assert not (await at.session("52")).active
        at.login1.come_to_front("52")
        facts = await at.in_front("52")
        assert facts.sessions["52"].active


@in_loop
async def test_login_keeps_the_x_server(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, GREETER) as at:
        assert at.facts.sessions["c1"].path == f"{ROOT}/session/c1"
        await at.login1.log_in("c1", gap=0, id="4")
        facts = await at.in_front("4")
        assert (facts.sessions["4"].display, facts.sessions["4"].vt) == (":0", 7)
        assert set(facts.sessions) == {"4"}


@in_loop
async def test_removal_is_told_before_the_seat_knows(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, ALICE) as at:
        at.login1.remove_session("3")
        facts = await at.in_front("")
        assert facts.sessions == {}


@in_loop
async def test_closing_is_silent_until_read_again(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, ALICE) as at:
        at.login1.close_silently("3")
        facts = await at.settled()
        assert facts.sessions["3"].state == "online"
        at.client.reread("3")
        await at.until(lambda facts: facts.sessions["3"].state == "closing")
        assert at.facts.active == "3"


@in_loop
async def test_closing_is_seen_when_the_session_comes_to_front(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, BOB, ALICE) as at:
        at.login1.close_silently("52")
        at.login1.switch("52")
        await at.until(lambda facts: facts.sessions["52"].state == "closing")


@in_loop
async def test_read_again_of_an_unknown_session_does_nothing(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, ALICE) as at:
        before = len(at.login1.calls)
        at.client.reread("nobody")
        await at.settled()
        assert len(at.login1.calls) == before + 2  # the mark's own


@in_loop
async def test_display_that_comes_late(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, BOB) as at:
        assert at.facts.sessions["52"].display == ""
        at.login1.set_display("52", ":7")
        await at.until(lambda facts: facts.sessions["52"].display == ":7")


@in_loop
async def test_lock(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, ALICE) as at:
        at.login1.lock("3")
        await at.until(lambda facts: facts.sessions["3"].locked)
        at.login1.lock("3", locked=False)
        await at.until(lambda facts: not facts.sessions["3"].locked)


@in_loop
async def test_session_gone_when_asked_for(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, ALICE) as at:
        at.login1.add_session(front=False, answers=False, **BOB)
        facts = await at.settled()
        assert set(facts.sessions) == {"3"}
        assert "52" not in at.client._tracked


@in_loop
async def test_session_gone_when_read_again(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, ALICE) as at:
        at.login1.sessions["3"].answers = False
        at.client.reread("3")
        await at.until(lambda facts: facts.sessions == {})


@in_loop
async def test_error_that_is_not_its_end_keeps_a_session(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, ALICE) as at:
        at.login1.errors["GetAll"] = "org.freedesktop.DBus.Error.AccessDenied"
        at.client.reread("3")
        at.login1.lock("3")
        facts = await at.until(lambda facts: facts.sessions["3"].locked)
        assert facts.sessions["3"].display == ":1"


@in_loop
async def test_newer_signal_wins_over_an_answer_read_before_it(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, ALICE) as at:
        at.login1.after_answer["GetAll"] = lambda: at.login1.set_display("3", ":8")
        at.client.reread("3")
        facts = await at.settled()
        assert facts.sessions["3"].display == ":8"


@in_loop
async def test_newer_seat_signal_wins_over_the_first_reading(private_bus: PrivateBus) -> None:
    async with AsyncExitStack() as stack:
        login1 = await stack.enter_async_context(Login1(private_bus.address))
        login1.add_session(**BOB)
        login1.add_session(**ALICE)
        login1.after_answer["Get"] = lambda: login1.switch("52")
        at = Follower(stack.enter_context(await Bus.connect(private_bus.address)), login1)
        stack.callback(at.client.close)
        at.client.start()
        await at.in_front("52")
        assert (await at.settled()).active == "52"


@in_loop
async def test_same_user_twice_and_a_remote_session(private_bus: PrivateBus) -> None:
    remote: dict[str, Any] = {**ALICE, "id": "77", "remote": True, "seat": "", "vt": 0}
    async with following(private_bus.address, {**ALICE, "id": "5", "vt": 9}, ALICE) as at:
        at.login1.add_session(front=False, **remote)
        session = await at.session("77")
        assert (session.remote, session.seat, session.active) == (True, "", False)
        assert {one.uid for one in at.facts.sessions.values()} == {1000}
        assert at.facts.active == "3"


@in_loop
async def test_restart_announces_everything_again(
    private_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "ABSENCE", 0.01)
    async with following(private_bus.address, BOB, ALICE) as at:
        before = at.facts
        at.login1.stop()
        gone = await at.until(lambda facts: not facts.has_logind)
        assert gone == SeatFacts(seat="seat0")
        at.login1.remove_session("52")  # nobody hears of it
        at.login1.add_session(id="60")
        await at.login1.start()
        facts = await at.until(lambda facts: facts.has_logind)
        assert set(facts.sessions) == {"3", "60"}
        assert facts.active == "60"
        assert facts.sessions["3"].path == before.sessions["3"].path
        at.login1.switch("3")
        await at.in_front("3")


@in_loop
async def test_what_was_known_stands_while_logind_restarts(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, BOB, ALICE) as at:
        told = len(at.told)
        at.login1.stop()
        await at.login1.start()
        at.login1.switch("52")
        await at.in_front("52")
        assert all(facts.has_logind and len(facts.sessions) == 2 for facts in at.told[told:])


@in_loop
async def test_logind_that_comes_later(private_bus: PrivateBus) -> None:
    async with AsyncExitStack() as stack:
        login1 = Login1(private_bus.address)
        login1.add_session(**ALICE)
        at = Follower(stack.enter_context(await Bus.connect(private_bus.address)), login1)
        stack.callback(at.client.close)
        at.client.start()
        assert await at.until(lambda _: True) == SeatFacts(seat="seat0")
        await stack.enter_async_context(login1)
        await at.in_front("3")


@in_loop
async def test_seat_that_comes_and_goes(private_bus: PrivateBus) -> None:
    async with AsyncExitStack() as stack:
        login1 = await stack.enter_async_context(Login1(private_bus.address))
        login1.has_seat = False
        at = Follower(stack.enter_context(await Bus.connect(private_bus.address)), login1)
        stack.callback(at.client.close)
        at.client.start()
        await at.until(lambda facts: facts.has_logind)
        with pytest.raises(BusCallError, match="no seat"):
            await at.client.switch_to(3)
        login1.add_session(**ALICE)
        login1.announce_seat()
        await at.in_front("3")
        login1.announce_seat(is_there=False)
        await at.in_front("")


@in_loop
async def test_unreadable_logind_is_tried_again(private_bus: PrivateBus) -> None:
    async with AsyncExitStack() as stack:
        login1 = await stack.enter_async_context(Login1(private_bus.address))
        login1.add_session(**ALICE)
        login1.errors["ListSessions"] = "org.freedesktop.DBus.Error.NoMemory"
        at = Follower(stack.enter_context(await Bus.connect(private_bus.address)), login1)
        stack.callback(at.client.close)
        at.client._backoff.delay = lambda: 0.0  # type: ignore[method-assign]
        at.client.start()
        facts = await at.until(lambda facts: facts.has_logind)
        assert facts.sessions == {}
        assert not facts.is_whole
        login1.errors.clear()
        await at.in_front("3")
        await at.until(lambda facts: facts.is_whole)


@in_loop
async def test_activate_and_switch_to(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, BOB, ALICE) as at:
        await at.client.activate("52")
        await at.in_front("52")
        await at.client.switch_to(8)
        await at.in_front("3")
        with pytest.raises(BusCallError, match="no session '9'") as error:
            await at.client.activate("9")
        assert error.value.name == "org.freedesktop.login1.NoSuchSession"


@in_loop
async def test_logind_s_error_reaches_the_caller(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, ALICE) as at:
        at.login1.errors["SwitchTo"] = "org.freedesktop.DBus.Error.InvalidArgs"
        with pytest.raises(BusCallError, match="as the test wants") as error:
            await at.client.switch_to(99)
        assert error.value.name == "org.freedesktop.DBus.Error.InvalidArgs"


@in_loop
async def test_somebody_elses_signals_are_not_heard(private_bus: PrivateBus) -> None:
    """The bus delivers a signal that is sent straight to us, whoever sends it."""
    async with following(private_bus.address, BOB, ALICE) as at:
        me = at.bus.unique_name
        seat = f"{ROOT}/seat/seat0"
        changed = [f"{LOGIN1}.Seat", {"ActiveSession": Variant("(so)", _REF)}, []]
        with await Bus.connect(private_bus.address) as stranger:
            for path, interface, member, signature, body in (
                (ROOT, f"{LOGIN1}.Manager", "SessionRemoved", "so", _REF),
                (seat, PROPERTIES, "PropertiesChanged", "sa{sv}as", changed),
            ):
                signal = Message.new_signal(path, interface, member, signature, body, [])
                signal.destination = me
                stranger._library.post(signal)
            await stranger.request_name("org.example.Stranger")  # the bus has taken the signals
        facts = await at.settled()
        assert set(facts.sessions) == {"3", "52"}
        assert facts.active == "3"


_REF = ["52", f"{ROOT}/session/_352"]


@in_loop
async def test_facts_are_told_once_per_change(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, ALICE) as at:
        before = len(at.told)
        session = at.login1.sessions["3"]
        at.login1._changed(session, {"IdleHint": Variant("b", True)})
        at.login1.set_display("3", ":1")
        await at.settled()
        assert len(at.told) == before + 2  # the mark came and went


@in_loop
async def test_number_of_sessions_is_bounded(
    private_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MOST_SESSIONS", 3)
    async with following(private_bus.address, ALICE) as at:
        for number in range(100, 110):
            at.login1.add_session(id=str(number), front=False)
        at.login1.switch("109")
        facts = await at.in_front("109")
        assert set(facts.sessions) == {"3", "100", "101", "109"}


@in_loop
async def test_nothing_is_told_after_close(private_bus: PrivateBus) -> None:
    async with following(private_bus.address, ALICE) as at:
        before = len(at.told)
        at.login1.switch_to_vt(2)
        at.client.close()
        at.client.close()
        names = asyncio.Event()
        at.bus.watch_owner("org.example.Nobody", lambda _owner: names.set())
        await names.wait()
        assert len(at.told) == before


def test_stand_in_is_driven_by_lines_too(private_bus: PrivateBus) -> None:
    async def see() -> SeatFacts:
        with await Bus.connect(private_bus.address) as bus:
            facts: asyncio.Future[SeatFacts] = asyncio.get_running_loop().create_future()
            client = LogindClient(bus, "seat0", facts.set_result)
            client.start()
            return await facts

    command = [*DIE_WITH_PARENT, sys.executable, "-m", "tests.fixtures.login1", private_bus.address]
    with JsonProcess(command, cwd=ROOT_FOLDER) as login1:
        login1.wait_for("ready")
        login1.send(json.dumps({"do": "add_session", **GREETER}))
        login1.wait_for("done", active="c1")
        login1.send(json.dumps({"do": "log_in", "greeter": "c1", "gap": 0, "id": "4"}))
        login1.wait_for("done", active="4")
        assert set(asyncio.run(see()).sessions) == {"4"}
