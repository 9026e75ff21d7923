"""The daemon's memory: facts and orders go in, decisions and orders come out."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from sessiond import control as module
from sessiond.bus.control import NO_SUCH_SESSION, NOT_RELOADED, NOT_SWITCHED
from sessiond.config import KEYS, Config
from sessiond.control import HISTORY, SeatControl
from sessiond.errors import BusCallError, BusError, RequestError, UsageError
from sessiond.helper.keep import describe_records, restore_records
from sessiond.helper.origin import start_of
from sessiond.helper.records import Told
from sessiond.model import Counters, Decision, Reason, SeatFacts, Session, State, Status
from tests.fixtures.loop import Clock, Signal, in_loop, turns

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

ALICE = Session(
    id="3",
    path="/org/freedesktop/login1/session/_33",
    uid=1000,
    gid=1000,
    user="alice",
    seat="seat0",
    vt=8,
    type="x11",
    cls="user",
    state="active",
    since=300,
)
BOB = replace(ALICE, id="4", uid=1001, gid=1001, user="bob", vt=9, since=400)
CAROL = replace(ALICE, id="5", uid=1002, gid=1002, user="carol", vt=10, since=500)
GREETER = replace(ALICE, id="c1", uid=100, gid=100, user="gdm", cls="greeter", vt=7, since=100)
NEVER = 60.0  # seconds: no test waits for it


def config(**changes: Any) -> Config:  # noqa: ANN401 (a key's own type)
    """Return the defaults with some keys changed: ``switch_auto`` for switch.auto."""
    values = {name: key.default for name, key in KEYS.items()}
    named = {name.replace(".", "_"): name for name in KEYS}
    return Config(values | {named[name]: value for name, value in changes.items()})


def seat(*sessions: Session, active: str = "", has_logind: bool = True) -> SeatFacts:
    by_id = MappingProxyType({session.id: session for session in sessions})
    return SeatFacts(seat="seat0", has_logind=has_logind, sessions=by_id, active=active)


def status(reason: Reason = Reason.OK, session: str = "3", **more: Any) -> Status:  # noqa: ANN401
    return Status(session=session, reason=reason, text=f"{session} is {reason}.", **more)


class FakeParts:
    """What the control calls: it is recorded, and does what the test wants."""

    def __init__(self, control: SeatControl) -> None:
        self.control = control
        self.decisions: list[Decision] = []
        self.configs: list[Config] = []
        self.changes: list[SeatFacts] = []
        self.news: list[Status] = []
        self.recorded: list[str] = []
        self.ordered: list[str | int] = []
        self.told = Signal()
        self.front = 0
        self.has_card = False
        self.shown_from = SeatFacts(seat="")
        self.next: Config | UsageError = UsageError("no configuration")
        self.can_restart = True
        self.refusal: Exception | None = None
        self.follows = True
        self._tasks: set[asyncio.Task[None]] = set()
        control.attach(
            module.Parts(
                show=self._show,
                configure=self.configs.append,
                load=self._load,
                activate=self._order,
                switch_to=self._order,
                session_of=self._session_of,
                restart_agent=lambda: self.can_restart,
                counters=lambda: Counters(7, 700, 1.5),
                on_change=self.changes.append,
                on_news=self.news.append,
                on_record=lambda session, _display: self.recorded.append(session),
                vt=lambda: self.front,
                has_card=lambda: self.has_card,
                spawn=self._spawn,
            )
        )

    async def _session_of(self, pid: int) -> str:
        return {4711: "3"}.get(pid, "")

    @property
    def decision(self) -> Decision:
        return self.decisions[-1]

    def reason(self) -> Reason | None:
        """Return why nothing is to be shown, None if something is."""
        return self.decisions[-1].reason

    def facts(self, *sessions: Session, active: str = "") -> None:
        """Let logind tell these sessions."""
        self.control.on_facts(seat(*sessions, active=active))

    def _show(self, decision: Decision, facts: SeatFacts) -> None:
        assert facts.active == self.control.facts.active
        self.decisions.append(decision)
        self.shown_from = facts

    def _load(self) -> Config:
        if isinstance(self.next, UsageError):
            raise self.next
        return self.next

    async def _order(self, what: str | int) -> None:
        self.ordered.append(what)
        self.told.happened()
        if self.refusal:
            raise self.refusal
        if self.follows and isinstance(what, str):
            # logind answers first, and signals when the kernel has switched.
            known = self.control.facts
            asyncio.get_running_loop().call_soon(
                self.control.on_facts, replace(known, active=what, proven=frozenset())
            )

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def make(**changes: Any) -> tuple[SeatControl, FakeParts]:  # noqa: ANN401
    control = SeatControl(config(**changes))
    return control, FakeParts(control)


# Facts and decisions.


@in_loop
async def test_before_logind_was_heard_of() -> None:
    control, parts = make()
    assert (control.status.state, control.status.reason) == (
        State.NO_SESSION,
        Reason.LOGIND_MISSING,
    )
    assert control.facts == SeatFacts(seat="seat0")
    assert control.counters() == Counters(7, 700, 1.5)
    assert parts.decisions == []


@in_loop
async def test_facts_are_decided_and_told() -> None:
    control, parts = make()
    before = control.facts
    parts.facts(ALICE, active="3")
    assert parts.decision.session == "3"
    assert parts.changes == [before]
    parts.facts(ALICE, BOB, active="4")
    assert parts.decision.session == "4"
    assert parts.changes[1].active == "3"


@in_loop
async def test_vt_is_that_of_the_session_else_the_files() -> None:
    control, parts = make()
    parts.front = 3
    control.on_vt(3)
    parts.facts(ALICE)
    assert parts.reason() is Reason.TEXT_CONSOLE
    assert "VT 3" in parts.decision.text
    parts.front = 0
    control.on_vt(0)
    assert parts.reason() is Reason.NO_ACTIVE_SESSION


@in_loop
async def test_a_vt_without_a_session_is_shown_while_there_is_a_card() -> None:
    control, parts = make()
    parts.front = 2
    parts.facts(ALICE)
    assert parts.reason() is Reason.TEXT_CONSOLE
    parts.has_card = True
    control.on_cards()
    assert parts.decision == Decision("tty2", route=("kms",))
    assert parts.shown_from.sessions.keys() == {"3", "tty2"}
    assert control.facts.sessions.keys() == {"3"}, "it is no session"
    parts.front = 3
    control.on_vt(3)
    assert parts.decision.session == "tty3"
    parts.facts(ALICE, active="3")
    assert parts.decision == Decision("3", route=("x11", "kms"))
    parts.facts(ALICE)
    parts.has_card = False
    control.on_cards()
    assert parts.reason() is Reason.TEXT_CONSOLE


@in_loop
async def test_what_captures_follows_the_configuration() -> None:
    control, parts = make(capture_order=("kms",), capture_greeter_order=("x11",))
    parts.has_card = True
    parts.facts(ALICE, GREETER, active="3")
    assert parts.decision == Decision("3", route=("kms",))
    parts.next = config(capture_kms="off", capture_console_order=("wlroots", "kms"))
    control.reload()
    assert parts.decision == Decision("3", route=("x11",))
    parts.facts(replace(ALICE, type="tty"), active="3")
    assert (parts.decision.probe, parts.decision.route) == ("3", ("wlroots",))


@in_loop
async def test_what_is_proven_outlives_loginds_news() -> None:
    control, parts = make()
    console = replace(ALICE, type="tty")
    parts.facts(console, active="3")
    assert parts.reason() is Reason.TEXT_CONSOLE
    control.on_proven(frozenset({"3"}))
    assert parts.decision.session == "3"
    parts.facts(console, BOB, active="3")
    assert parts.decision.session == "3"


# Pauses.


@in_loop
async def test_one_session_is_paused() -> None:
    control, parts = make()
    parts.facts(ALICE, BOB, active="3")
    control.set_streaming("3", enabled=False, by_owner=True)
    assert parts.reason() is Reason.PAUSED_BY_USER
    assert not control.is_paused_by_admin("3")
    parts.facts(ALICE, BOB, active="4")
    assert parts.decision.session == "4"
    assert control.reason_of("3") is Reason.PAUSED_BY_USER
    parts.facts(ALICE, BOB, active="3")
    assert parts.reason() is Reason.PAUSED_BY_USER
    control.set_streaming("3", enabled=True, by_owner=True)
    assert parts.decision.session == "3"


@in_loop
async def test_a_session_is_paused_at_its_screen() -> None:
    control, parts = make()
    parts.facts(ALICE, BOB, active="3")
    control.on_ended("3")
    assert parts.reason() is Reason.PAUSED_BY_USER
    assert parts.decision.text == (
        "The streaming of session 3 was paused by alice: the recording was ended at the screen. "
        "Resume it: spice-sessionctl resume --session 3."
    )
    assert not control.is_paused_by_admin("3")
    parts.facts(ALICE, BOB, active="4")
    parts.facts(replace(ALICE, locked=True), BOB, active="3")
    parts.facts(ALICE, BOB, active="3")
    assert parts.reason() is Reason.PAUSED_BY_USER, "until it is resumed"
    control.set_streaming("3", enabled=True, by_owner=True)
    assert parts.decision.session == "3"


@in_loop
async def test_an_administrators_pause_is_not_made_a_users() -> None:
    control, parts = make()
    parts.facts(ALICE, active="3")
    control.set_streaming("3", enabled=False, by_owner=False)
    control.on_ended("3")
    assert control.is_paused_by_admin("3")


@in_loop
async def test_who_has_left_is_not_paused() -> None:
    """What was said of a session is not to be another's that has its number."""
    control, parts = make()
    parts.facts(ALICE, active="3")
    parts.facts()
    control.on_ended("3")
    parts.facts(ALICE, active="3")
    assert parts.decision.session == "3"


@in_loop
async def test_later_pause_says_by_whom() -> None:
    control, parts = make()
    parts.facts(ALICE, active="3")
    control.set_streaming("3", enabled=False, by_owner=True)
    control.set_streaming("3", enabled=False, by_owner=False)
    assert parts.reason() is Reason.PAUSED_BY_ADMIN
    assert control.is_paused_by_admin("3")


@in_loop
async def test_pause_of_everything_comes_first() -> None:
    control, parts = make()
    parts.facts(ALICE, BOB, active="3")
    control.set_streaming("3", enabled=False, by_owner=True)
    control.set_enabled(enabled=False)
    assert not control.is_enabled
    assert parts.reason() is Reason.PAUSED_BY_ADMIN
    assert control.reason_of("4") is Reason.PAUSED_BY_ADMIN
    control.set_enabled(enabled=True)
    assert parts.reason() is Reason.PAUSED_BY_USER, "it was another's order"
    assert control.reason_of("4") is Reason.HOST_NOT_ASKING


@in_loop
async def test_pause_comes_before_what_else_is_wrong() -> None:
    control, parts = make(stream_deny_users=("alice",))
    parts.facts(ALICE, active="3")
    assert parts.reason() is Reason.SESSION_DENIED
    control.set_streaming("3", enabled=False, by_owner=True)
    assert parts.reason() is Reason.PAUSED_BY_USER


@in_loop
async def test_pause_ends_with_its_session() -> None:
    control, parts = make()
    parts.facts(ALICE, active="3")
    control.set_streaming("3", enabled=False, by_owner=False)
    parts.facts()
    parts.facts(ALICE, active="3")  # another one, with the number of the first
    assert parts.decision.session == "3"


@in_loop
async def test_administrators_pause_outlives_logind() -> None:
    """A restart of logind is no session's end: it knows them all again."""
    control, parts = make()
    parts.facts(ALICE, active="3")
    control.set_streaming("3", enabled=False, by_owner=False)
    control.on_facts(seat(has_logind=False))
    parts.facts(ALICE, active="3")
    assert parts.reason() is Reason.PAUSED_BY_ADMIN


@in_loop
async def test_there_is_no_such_session_to_pause() -> None:
    control, parts = make()
    parts.facts(ALICE, active="3")
    with pytest.raises(RequestError) as error:
        control.set_streaming("9", enabled=False, by_owner=True)
    assert error.value.name == NO_SUCH_SESSION


@in_loop
async def test_daemon_starts_paused_when_the_configuration_says_so() -> None:
    control, parts = make(stream_enabled=False)
    parts.facts(ALICE, active="3")
    assert not control.is_enabled
    assert parts.reason() is Reason.PAUSED_BY_ADMIN


# What is told.


@in_loop
async def test_reason_of_who_is_in_front_is_the_streams_and_of_others_the_decisions() -> None:
    control, parts = make(stream_deny_users=("bob",))
    parts.facts(ALICE, BOB, replace(CAROL, type="mir"), GREETER, active="3")
    control.on_status(status(Reason.HOST_NOT_ASKING))
    reasons = {session: control.reason_of(session) for session in control.facts.sessions}
    assert reasons == {
        "3": Reason.HOST_NOT_ASKING,
        "4": Reason.SESSION_DENIED,
        "5": Reason.TYPE_UNSUPPORTED,
        "c1": Reason.HOST_NOT_ASKING,
    }


@in_loop
async def test_status_is_told_and_news_are_those_of_session_and_reason() -> None:
    control, parts = make()
    first, second = status(Reason.AGENT_STARTING), status()
    control.on_status(first)
    control.on_status(first)
    control.on_status(second)
    control.on_status(replace(second, width=640))
    control.on_status(status(session="4"))
    assert [(it.session, it.reason) for it in parts.news] == [
        ("3", Reason.AGENT_STARTING),
        ("3", Reason.OK),
        ("4", Reason.OK),
    ]
    assert len(parts.changes) == 4
    assert [event.status for event in control.history(0)] == parts.news


@in_loop
async def test_another_codec_is_history_once_it_has_lasted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    control, parts = make()
    clock = Clock()

    async def send(*streams: tuple[int, str, str]) -> None:
        for codec, encoder, why in streams:
            control.on_status(status(codec=codec, encoder=encoder, why=why))
        clock.advance(module.LASTING)
        await turns(3)

    jpeg = (1, "libjpeg-turbo", "")
    await send((0, "", ""), jpeg)  # as it was configured
    await send((2, "", ""), (2, "libvpx", "the host takes only 0.4 MB/s"))
    await send((2, "libvpx", "other words"))
    await send((4, "", ""), (2, "libvpx", "vp9 has failed"))  # had no time to be told
    await send((1, "", ""))
    await send((0, "", ""))
    await send(jpeg)
    await send((0, "", ""))
    await send((2, "libvpx", "h264 needs PyAV"))
    await send((0, "", ""))
    await send((4, "libvpx-vp9", ""))  # of another agent, as it was configured for that
    told = [
        "The codec is vp8 (libvpx) now, because the host takes only 0.4 MB/s.",
        "The codec is mjpeg now.",
        "The codec is vp8 (libvpx) now, because h264 needs PyAV.",
        "The codec is vp9 (libvpx-vp9) now.",
    ]
    first, *changes = control.history(0)
    assert (first.status, len(parts.news)) == (parts.news[0], 1)
    assert [event.status.text for event in changes] == told
    assert {event.status.reason for event in changes} == {Reason.OK}
    assert [it.getMessage() for it in caplog.records if hasattr(it, "CODEC")] == told
    control.on_status(status(codec=1))
    control.close()  # nothing of it may be left


@in_loop
async def test_the_codec_of_a_sentence_is_no_news() -> None:
    control, parts = make()
    clock = Clock()
    for reason, codec in ((Reason.OK, 2), (Reason.TEXT_CONSOLE, 1), (Reason.OK, 2)):
        control.on_status(status(reason, codec=codec))
        clock.advance(module.LASTING)
        await turns(3)
    assert [event.status for event in control.history(0)] == parts.news
    control.close()


@in_loop
async def test_history_keeps_the_newest() -> None:
    control, _parts = make()
    for number in range(HISTORY + 10):
        control.on_status(status(session=f"{number}"))
    everything = control.history(0)
    assert [event.status.session for event in everything] == [
        f"{number}" for number in range(10, HISTORY + 10)
    ]
    assert control.history(2) == everything[-2:]
    assert control.history(HISTORY * 2) == everything
    times = [event.at for event in everything]
    assert times == sorted(times)


@in_loop
async def test_agent_is_restarted_if_there_is_a_session_to_show() -> None:
    control, parts = make()
    control.restart_agent()
    parts.can_restart = False
    with pytest.raises(RequestError, match="The daemon is starting") as error:
        control.restart_agent()
    assert error.value.name == NO_SUCH_SESSION


# Switches that somebody orders.


@in_loop
async def test_activation_returns_when_the_session_is_in_front() -> None:
    control, parts = make()
    parts.facts(ALICE, BOB, active="3")
    await control.activate("4")
    assert parts.ordered == ["4"]
    assert control.facts.active == "4"


@in_loop
async def test_activation_of_who_is_in_front_is_done_at_once() -> None:
    control, parts = make()
    parts.facts(ALICE, active="3")
    parts.follows = False
    await control.activate("3")
    assert parts.ordered == ["3"]


@in_loop
async def test_switch_to_a_vt_returns_when_it_is_in_front() -> None:
    control, parts = make()
    parts.front = 8
    parts.facts(ALICE, BOB, active="3")
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(control.switch_to(3))
        await parts.told.until(lambda: parts.ordered == [3])
        parts.front = 3
        control.on_vt(3)
        await turns(3)
        assert not waiting.done(), "logind still says that VT 8 is in front"
        parts.facts(ALICE, BOB)
        await waiting


@in_loop
async def test_each_of_several_waits_for_its_own() -> None:
    control, parts = make()
    parts.facts(ALICE, BOB, CAROL, active="3")
    parts.follows = False
    async with asyncio.TaskGroup() as tasks:
        for_bob = tasks.create_task(control.activate("4"))
        for_vt = tasks.create_task(control.switch_to(9))
        for_carol = tasks.create_task(control.activate("5"))
        await turns(3)
        parts.facts(ALICE, BOB, CAROL, active="4")
        await asyncio.gather(for_bob, for_vt)
        assert not for_carol.done()
        parts.facts(ALICE, BOB, CAROL, active="5")
    assert for_carol.done()


SWITCHES: dict[str, tuple[Callable[[SeatControl], Coroutine[Any, Any, None]], str]] = {
    "a session": (lambda control: control.activate("4"), "session 4"),
    "a VT": (lambda control: control.switch_to(9), "VT 9"),
}


@pytest.mark.parametrize(("order", "what"), SWITCHES.values(), ids=SWITCHES.keys())
@in_loop
async def test_who_does_not_come_to_the_front(
    monkeypatch: pytest.MonkeyPatch,
    order: Callable[[SeatControl], Coroutine[Any, Any, None]],
    what: str,
) -> None:
    monkeypatch.setattr(module, "SWITCH_LIMIT", 0.05)
    control, parts = make()
    parts.facts(ALICE, BOB, active="3")
    parts.follows = False
    with pytest.raises(RequestError, match=f"{what} did not come to the front") as error:
        await order(control)
    assert error.value.name == NOT_SWITCHED
    parts.facts(ALICE, BOB, active="4")  # too late: nobody waits


@pytest.mark.parametrize(("order", "what"), SWITCHES.values(), ids=SWITCHES.keys())
@pytest.mark.parametrize(
    "refusal", [BusCallError("org.freedesktop.login1.NoSuchSeat", "no seat"), BusError("hung up")]
)
@in_loop
async def test_what_logind_refuses(
    order: Callable[[SeatControl], Coroutine[Any, Any, None]], what: str, refusal: Exception
) -> None:
    control, parts = make()
    parts.facts(ALICE, BOB, active="3")
    parts.refusal = refusal
    with pytest.raises(RequestError, match=f"logind refused {what}") as error:
        await order(control)
    assert error.value.name == NOT_SWITCHED


@in_loop
async def test_who_does_not_wait_any_more_is_forgotten() -> None:
    control, parts = make()
    parts.facts(ALICE, BOB, active="3")
    parts.follows = False
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(control.activate("4"))
        await parts.told.until(lambda: bool(parts.ordered))
        waiting.cancel()
    parts.facts(ALICE, BOB, active="4")


# The configuration.


@in_loop
async def test_reload_follows_what_can_be_followed_at_once() -> None:
    control, parts = make()
    parts.facts(ALICE, active="3")
    parts.next = config(stream_deny_users=("alice",), stream_grace=2.0)
    control.reload()
    assert parts.reason() is Reason.SESSION_DENIED
    assert [it.seconds("stream.grace") for it in parts.configs] == [2.0]


@in_loop
async def test_reload_names_what_needs_a_restart_and_follows_the_rest() -> None:
    control, parts = make()
    parts.facts(ALICE, active="3")
    parts.next = config(
        seat="seat1", bus_name="org.example.Other", stream_deny_users=("alice",), stream_grace=2.0
    )
    for _ in range(2):  # they are named each time: they still need it
        with pytest.raises(RequestError) as error:
            control.reload()
        assert error.value.name == NOT_RELOADED
        assert str(error.value) == "needs a restart: bus.name, seat; all else is in force"
    assert parts.reason() is Reason.SESSION_DENIED
    in_force = parts.configs[-1]
    assert in_force.text("seat") == "seat0"
    assert in_force.text("bus.name") == "org.spice_space.Sessiond1"
    assert in_force.seconds("stream.grace") == 2.0


@in_loop
async def test_reload_of_a_wrong_file_changes_nothing() -> None:
    control, parts = make()
    parts.facts(ALICE, active="3")
    parts.next = UsageError("config.toml:3: stream.grace: 'x' is not seconds")
    with pytest.raises(RequestError, match=r"config\.toml:3") as error:
        control.reload()
    assert error.value.name == NOT_RELOADED
    assert parts.configs == []
    assert parts.decision.session == "3"


@in_loop
async def test_reload_takes_back_an_order_only_if_the_file_says_something_new() -> None:
    control, parts = make()
    control.set_enabled(enabled=False)
    control.set_auto_switch("on-session-end")
    parts.next = config(stream_grace=2.0)
    control.reload()
    assert (control.is_enabled, control.auto_switch) == (False, "on-session-end")
    parts.next = config(stream_enabled=False, switch_auto="on-session-end")
    control.reload()
    parts.next = config()
    control.reload()
    assert (control.is_enabled, control.auto_switch) == (True, "off")


# After the end of the shown session.


@in_loop
async def test_greeter_comes_after_the_delay() -> None:
    control, parts = make(switch_auto="on-session-end", switch_delay=0.05)
    parts.facts(GREETER, BOB, ALICE, active="3")
    loop = asyncio.get_running_loop()
    ended = loop.time()
    parts.facts(GREETER, BOB, active="3")  # the seat is told last
    parts.facts(GREETER, BOB)
    await parts.told.until(lambda: parts.ordered == ["c1"])
    assert loop.time() - ended >= 0.05
    await turns(3)
    assert control.facts.active == "c1"
    assert parts.ordered == ["c1"]


@in_loop
async def test_who_was_in_front_last_comes_where_there_is_no_greeter() -> None:
    _control, parts = make(switch_auto="on-session-end", switch_delay=0.0)
    for active in ("5", "4", "3"):
        parts.facts(ALICE, BOB, CAROL, active=active)
    parts.facts(BOB, CAROL)
    await parts.told.until(lambda: bool(parts.ordered))
    assert parts.ordered == ["4"]


@in_loop
async def test_nobody_comes_where_it_is_off() -> None:
    control, parts = make(switch_delay=0.0)
    parts.facts(GREETER, ALICE, active="3")
    parts.facts(GREETER)
    assert control._switch_timer is None


CANCELLED: dict[str, Callable[[SeatControl, FakeParts], None]] = {
    "a display manager was quicker": lambda _control, parts: parts.facts(GREETER, BOB, active="c1"),
    "a login, which keeps the X server": lambda _control, parts: parts.facts(
        GREETER, BOB, CAROL, active="5"
    ),
    "it is switched off": lambda control, _parts: control.set_auto_switch("off"),
    "the configuration switches it off": lambda control, parts: _reload(
        control, parts, switch_delay=NEVER
    ),
    "the daemon ends": lambda control, _parts: control.close(),
}


def _reload(control: SeatControl, parts: FakeParts, **changes: Any) -> None:  # noqa: ANN401
    parts.next = config(**changes)
    control.reload()


@pytest.mark.parametrize("event", CANCELLED.values(), ids=CANCELLED.keys())
@in_loop
async def test_nobody_comes_any_more(event: Callable[[SeatControl, FakeParts], None]) -> None:
    control, parts = make(switch_auto="on-session-end", switch_delay=NEVER)
    parts.facts(GREETER, BOB, ALICE, active="3")
    parts.facts(GREETER, BOB)
    timer = control._switch_timer
    assert timer is not None
    event(control, parts)
    assert timer.cancelled()
    assert control._switch_timer is None


@in_loop
async def test_other_news_leave_the_delay_as_it_is() -> None:
    control, parts = make(switch_auto="on-session-end", switch_delay=NEVER)
    parts.facts(GREETER, BOB, ALICE, active="3")
    parts.facts(GREETER, BOB)
    timer = control._switch_timer
    parts.facts(GREETER, replace(BOB, locked=True))
    control.on_vt(1)  # as an X server leaves it, when it ends
    control.on_status(status(Reason.NO_ACTIVE_SESSION, session=""))
    assert timer is not None
    assert control._switch_timer is timer
    control.close()


@in_loop
async def test_one_end_is_followed_by_one_switch() -> None:
    """A session may be closing for hours, while a process of it stays."""
    control, parts = make(switch_auto="on-session-end", switch_delay=0.0)
    closing = replace(ALICE, state="closing")
    parts.refusal = BusCallError("org.freedesktop.login1.Failed", "no")
    parts.facts(ALICE, BOB, active="3")
    parts.facts(closing, BOB, active="3")
    await parts.told.until(lambda: parts.ordered == ["4"])
    parts.facts(closing, replace(BOB, locked=True), active="3")
    assert control._switch_timer is None


@in_loop
async def test_nobody_is_there_to_come() -> None:
    control, parts = make(switch_auto="on-session-end", switch_delay=0.0)
    parts.facts(ALICE, active="3")
    parts.facts()
    timer = control._switch_timer
    assert timer is not None
    while control._switch_timer:
        await turns(1)
    assert parts.ordered == []


@in_loop
async def test_automatic_switch_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    _control, parts = make(switch_auto="on-session-end", switch_delay=0.0)
    parts.refusal = BusCallError("org.freedesktop.login1.NoSuchSession", "it has gone")
    parts.facts(ALICE, BOB, active="3")
    parts.facts(BOB)
    await parts.told.until(lambda: bool(parts.ordered))
    while parts._tasks:
        await turns(1)
    assert "the automatic switch failed: logind refused session 4: it has gone" in caplog.text


@in_loop
async def test_a_leader_that_cannot_be_watched_refuses_the_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_vt_owner", lambda _vt: 1000)
    control, parts = make()
    parts.front = 7
    good = Told(":1", "", 1000, 1000, 7, os.getpid(), start_of(os.getpid()))
    assert control.on_record(good, 1, parts.ordered.append) == ""
    assert parts.decision.session == "vt7"
    unseen = replace(good, display=":2", leader=0)  # in another pid namespace
    assert "leader of its kernel session" in str(control.on_record(unseen, 1, parts.ordered.append))
    assert control.record_of("vt7") is good, "the good one stays"
    control.close()


@in_loop
async def test_a_pause_without_logind_is_not_the_next_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_vt_owner", lambda _vt: 1000)
    control, parts = make()
    parts.front = 7
    told = Told(":1", "", 1000, 1000, 7, os.getpid(), start_of(os.getpid()))
    control.on_record(told, 1, parts.ordered.append)
    control.set_streaming("vt7", enabled=False, by_owner=True)
    assert parts.reason() is Reason.PAUSED_BY_USER
    control._forget(told)
    control.on_record(replace(told, display=":2"), 1, parts.ordered.append)
    assert parts.decision.session == "vt7"
    control.close()


@in_loop
async def test_a_record_that_is_said_again_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_vt_owner", lambda _vt: 1000)
    control, parts = make()
    told = Told(":1", "", 1000, 1000, 7, os.getpid(), start_of(os.getpid()))
    for _ in range(3):
        assert control.on_record(told, 1, parts.ordered.append) == ""
    assert parts.recorded == ["vt7"]
    control.close()


# What outlives a restart.


@in_loop
async def test_what_was_told_holds_again_where_it_is_still_so() -> None:
    control, parts = make()
    parts.facts(ALICE, BOB)
    told = Told(":1", "/x", ALICE.uid, ALICE.gid, 8, 1, 1)
    ended = replace(told, uid=BOB.uid, gid=BOB.gid, vt=9)
    for each in (told, ended):
        assert control.on_record(each, 1, parts.ordered.append) == ""
    stored = control.hand_over()
    control.close()

    control, parts = make()
    control.restore(stored)
    assert not stored
    assert parts.decisions == [], "nothing is known yet"
    parts.facts(ALICE, replace(BOB, since=BOB.since + 1))  # the id has come again
    assert control.record_of(ALICE.id) == told
    assert control.record_of(BOB.id) is None
    control.close()


@in_loop
async def test_pauses_hold_again_in_the_same_sessions() -> None:
    control, parts = make()
    parts.facts(ALICE, BOB, active="3")
    control.set_streaming("3", enabled=False, by_owner=False)
    control.set_streaming("4", enabled=False, by_owner=True)
    stored = control.hand_over()
    control.close()

    control, parts = make()
    control.restore(stored)
    assert not stored
    control.on_vt(8)  # logind has said nothing yet
    stored = control.hand_over()
    control.close()

    control, parts = make()
    control.restore(stored)
    control.on_facts(replace(seat(BOB, active="4"), is_whole=False))
    assert parts.reason() is Reason.PAUSED_BY_USER
    control.set_streaming("4", enabled=True, by_owner=True)
    parts.facts(ALICE, BOB, active="3")
    assert parts.reason() is Reason.PAUSED_BY_ADMIN
    assert control.reason_of("4") is Reason.HOST_NOT_ASKING, "it was resumed"
    control.close()


@in_loop
async def test_a_pause_at_the_screen_holds_again() -> None:
    control, parts = make()
    parts.facts(ALICE, active="3")
    control.on_ended("3")
    text = parts.decision.text
    stored = control.hand_over()
    control.close()
    control, parts = make()
    control.restore(stored)
    parts.facts(ALICE, active="3")
    assert parts.reason() is Reason.PAUSED_BY_USER
    assert parts.decision.text == text
    control.close()


@in_loop
async def test_a_pause_is_not_that_of_the_next_session_with_its_id() -> None:
    control, parts = make()
    parts.facts(ALICE, active="3")
    control.on_ended("3")
    stored = control.hand_over()
    control.close()
    control, parts = make()
    control.restore(stored)
    parts.facts(replace(ALICE, since=ALICE.since + 1), active="3")
    assert parts.decision.session == "3"
    control.close()


@pytest.fixture
def leader() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


@pytest.mark.parts
@in_loop
async def test_without_logind_what_was_told_holds_again_while_its_leader_lives(
    leader: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    owners = {7: 1000, 8: 1001, 9: 1002}
    monkeypatch.setattr(module, "_vt_owner", owners.__getitem__)
    start = start_of(leader.pid)
    all_told = [Told(f":{vt}", "", uid, uid, vt, leader.pid, start) for vt, uid in owners.items()]
    control, parts = make()
    for told in all_told:
        assert control.on_record(told, 1, parts.ordered.append) == ""
    stored = control.hand_over()
    control.close()

    # Meanwhile the leader on VT 8 has ended, and another process has its number; and VT 9 is
    # somebody else's.
    kept = restore_records(stored)
    kept[1] = replace(kept[1], told=replace(all_told[1], leader_start=start - 1))
    owners[9] = 1000
    control, parts = make()
    control.restore(describe_records(kept))
    lines = [line for line in caplog.messages if "is forgotten" in line]
    assert len(lines) == 2
    assert "No such process" in lines[0]
    assert "VT 9 belongs to uid 1000" in lines[1]
    parts.front = 7
    control.on_facts(seat(has_logind=False))
    assert parts.decision.session == "vt7"
    assert control.facts.sessions.keys() == {"vt7"}
    leader.kill()
    while control.facts.sessions:
        await turns(1)
    control.close()
