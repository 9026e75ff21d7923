"""Whose displays are whose, and what an agent may say of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessiond.errors import (
    CommandError,
    NoAgentError,
    NoDisplayError,
    NotConnectedError,
    SessiondError,
)
from sessiond.model import Display, Screen, SeatFacts, Session, UserDisplay
from sessiond.users.displays import Displays, Told, display_name, merge
from sessiond.wire import rpc
from tests.fixtures.loop import in_loop
from tests.sessiond.users.served import World, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from tests.sessiond.users.served import FakeAgent

ALICE: Final = 1000
BOB: Final = 1001
UID: Final = os.getuid()
ME: Final = pwd.getpwuid(UID).pw_name


def session(name: str, uid: int, display: str, **more: Any) -> Session:  # noqa: ANN401 (its members)
    facts = {"type": "x11", "cls": "user", "state": "active", **more}
    return Session(id=name, path=f"/{name}", uid=uid, gid=uid, display=display, **facts)


def facts(*sessions: Session) -> SeatFacts:
    return SeatFacts(seat="seat0", has_logind=True, sessions={it.id: it for it in sessions})


ONE: Final = session("1", ALICE, ":0", active=True)
DEAD: Final = session("d", ALICE, ":0", state="closing")
GREETER: Final = session("c1", 120, ":0", cls="greeter")


@pytest.mark.parametrize(
    ("sessions", "opened", "told", "expected"),
    [
        pytest.param([], {}, [], [], id="nothing"),
        pytest.param([ONE], {}, [], [(":0", "1", True, False)], id="by logind alone"),
        pytest.param([ONE], {}, [(":0", True)], [(":0", "1", True, True)], id="connected"),
        pytest.param([], {}, [(":7", False)], [(":7", "", False, False)], id="of no session"),
        pytest.param(
            [session("2", BOB, ":0")], {}, [(":0", True)], [], id="another user's, whatever is said"
        ),
        pytest.param([GREETER], {}, [(":0", False)], [], id="a greeter's"),
        pytest.param(
            [session("c1", ALICE, ":0", cls="greeter")], {}, [(":0", True)], [],
            id="a greeter's, even of this uid",
        ),
        pytest.param(
            [GREETER, ONE], {}, [(":0", True)], [(":0", "1", True, True)], id="taken over from it"
        ),
        pytest.param([DEAD], {}, [], [], id="a closing session's"),
        pytest.param(
            [DEAD], {}, [(":0", False)], [(":0", "", False, False)], id="that outlives its session"
        ),
        pytest.param(
            [session("b", BOB, ":0", state="closing")], {}, [(":0", False)],
            [(":0", "", False, False)], id="whose number another had",
        ),
        pytest.param([DEAD, ONE], {}, [], [(":0", "1", True, False)], id="closing and new"),
        pytest.param(
            [session("1", ALICE, "")], {"1": ":3"}, [], [(":3", "1", False, False)],
            id="that only the stream's agent has found",
        ),
        pytest.param(
            [session("1", ALICE, ":0")], {"1": ":3"}, [], [(":3", "1", False, False)],
            id="that the stream's agent has found instead",
        ),
        pytest.param(
            [session("2", BOB, "")], {"2": ":3"}, [(":3", True)], [],
            id="that the stream's agent of another has found",
        ),
        pytest.param([session("1", ALICE, "")], {"9": ":3"}, [], [], id="of an unknown session"),
        pytest.param(
            [session("1", ALICE, ":0", since=2), session("2", ALICE, ":0", since=1)], {}, [],
            [(":0", "1", False, False)], id="two sessions: the newest",
        ),
        pytest.param(
            [session("1", ALICE, ":0", since=2), session("2", ALICE, ":0", since=1, active=True)],
            {}, [], [(":0", "2", True, False)], id="two sessions: the one in front",
        ),
        pytest.param(
            [session("1", ALICE, ":10"), session("2", ALICE, ":9.0")], {}, [(":2", True)],
            [(":2", "", False, True), (":9", "2", False, False), (":10", "1", False, False)],
            id="by their numbers",
        ),
        pytest.param(
            [session("1", ALICE, "localhost:10.0", remote=True)], {}, [], [], id="forwarded by ssh"
        ),
    ],
)  # fmt: skip
def test_merge(
    sessions: list[Session],
    opened: Mapping[str, str],
    told: list[tuple[str, bool]],
    expected: list[tuple[str, str, bool, bool]],
) -> None:
    shown = {key: Display(name, "helper") for key, name in opened.items()}
    merged = merge(ALICE, facts(*sessions), shown, [Told(*it) for it in told])
    assert merged == [
        UserDisplay(name, of, "x11" if of else "", is_active, is_connected)
        for name, of, is_active, is_connected in expected
    ]


@pytest.mark.parametrize("name", ["wayland-1", ":9"])
def test_what_is_no_x_display_hides_none(name: str) -> None:
    shown = {"1": Display(name, "session's socket", "wlroots")}
    assert [it.name for it in merge(ALICE, facts(ONE), shown, ())] == [":0"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (":0", ":0"), (":0.0", ":0"), (":99999.12", ":99999"), ("", ""), (":", ""), ("0", ""),
        (":00", ""), (":100000", ""), (":0.", ""), (":0\n", ""), ("host:0", ""), ("unix:0", ""),
        (":\u0661", ""), ("wayland-0", ""), (":-1", ""),
    ],
)  # fmt: skip
def test_names_of_displays(text: str, name: str) -> None:
    assert display_name(text) == name


class Asked:
    """Displays of a server, and an agent that answers what a table says."""

    def __init__(self, it: World, agent: FakeAgent, answers: dict[str, object]) -> None:
        self.world = it
        self.agent = agent
        self.answers = answers
        self.asked: list[rpc.Call] = []
        self.shown: list[str] = []
        self.facts = facts(session("1", UID, ":0"), session("2", UID + 1, ":1"))
        self.displays = Displays(it.users, lambda: self.facts, dict, self._activate)

    async def _activate(self, name: str) -> None:
        if name not in self.facts.sessions:
            raise SessiondError(f"no session {name}")
        self.shown.append(name)

    async def answer(self) -> None:
        """Answer for ever."""
        while True:
            call = await self.agent.hear_call()
            self.asked.append(call)
            value = self.answers.get(call.command, CommandError("no such command"))
            error = value if isinstance(value, CommandError) else None
            await self.agent.say(rpc.Result(call.id, None if error else value, error))


@contextlib.asynccontextmanager
async def asking(**answers: object) -> AsyncIterator[Asked]:
    named = {command.replace("_", "-"): value for command, value in answers.items()}
    with world() as it:
        agent = await it.agent()
        asked = Asked(it, agent, {"query-displays": [shown(":0", connected=True)], **named})
        async with asyncio.TaskGroup() as tasks:
            answering = tasks.create_task(asked.answer())
            yield asked
            answering.cancel()


def shown(display: str, *, connected: object = False) -> dict[str, object]:
    return {"display": display, "connected": connected}


def screen(**members: object) -> dict[str, object]:
    plain = {"output": "DP-1", "x": 0, "y": -5, "width": 1920, "height": 1080, "primary": True}
    return {**plain, **members}


@in_loop
async def test_displays_are_the_daemons_and_the_agents() -> None:
    told = [shown(":0", connected=True), shown(":1"), shown(":7.0")]
    async with asking(query_displays=told) as it:
        assert await it.displays.query(ME) == [
            UserDisplay(":0", "1", "x11", is_connected=True),
            UserDisplay(":7"),
        ]


@pytest.mark.parametrize("question", ["query", "screens", "connect"])
@in_loop
async def test_without_an_agent(question: str) -> None:
    ask: dict[str, Callable[[Displays], Any]] = {
        "query": lambda it: it.query("alice"),
        "screens": lambda it: it.screens("alice", ":0"),
        "connect": lambda it: it.connect("alice", ":0", show=True),
    }
    with world() as it:
        displays = Displays(it.users, facts, dict, lambda _session: asyncio.sleep(0))
        with pytest.raises(NoAgentError, match="no agent connected for user 'alice'"):
            await ask[question](displays)


@in_loop
async def test_screens() -> None:
    screens = [screen(), screen(output="HDMI-1", x=1920, y=0, primary=False)]
    async with asking(query_screens=screens) as it:
        assert await it.displays.screens(ME, ":0.0") == [
            Screen("DP-1", 0, -5, 1920, 1080, is_primary=True),
            Screen("HDMI-1", 1920, 0, 1920, 1080, is_primary=False),
        ]
        assert it.asked[-1].arguments == {"display": ":0"}


@in_loop
async def test_screens_of_a_display_that_is_not_open() -> None:
    async with asking(query_displays=[], query_screens=[]) as it:
        with pytest.raises(NotConnectedError, match=r"^display ':0' is not connected$"):
            await it.displays.screens(ME, ":0")
        assert {call.command for call in it.asked} == {"query-displays"}


@in_loop
async def test_the_agents_own_errors_are_passed_on() -> None:
    error = CommandError("the server has gone")
    async with asking(query_screens=error) as it:
        with pytest.raises(CommandError, match=r"^the server has gone$"):
            await it.displays.screens(ME, ":0")


@pytest.mark.parametrize("display", [":7", ":1", "host:0", "", "x" * 99])
@in_loop
async def test_an_unknown_display(display: str) -> None:
    async with asking(query_screens=[], connect_display={}) as it:
        for ask in (it.displays.screens(ME, display), it.displays.connect(ME, display, show=False)):
            with pytest.raises(NoDisplayError) as raised:
                await ask
            assert str(raised.value) == f"user '{ME}' has no display '{display[:32]}'"
        assert {call.command for call in it.asked} == {"query-displays"}


@pytest.mark.parametrize("show", [True, False])
@in_loop
async def test_connect(*, show: bool) -> None:
    async with asking(connect_display={}) as it:
        assert await it.displays.connect(ME, ":0", show=show) == "1"
        assert it.asked[-1] == rpc.Call("connect-display", {"display": ":0"}, it.asked[-1].id)
        assert it.shown == (["1"] if show else [])


@in_loop
async def test_what_cannot_be_connected_is_not_shown() -> None:
    async with asking(connect_display=CommandError("connection refused")) as it:
        with pytest.raises(CommandError, match="connection refused"):
            await it.displays.connect(ME, ":0", show=True)
        assert not it.shown


@in_loop
async def test_a_display_of_no_session_can_be_connected_and_not_shown() -> None:
    async with asking(query_displays=[shown(":7")], connect_display={}) as it:
        assert await it.displays.connect(ME, ":7", show=False) == ""
        text = f"display ':7' of user '{ME}' has no session that could be shown"
        with pytest.raises(CommandError, match=text):
            await it.displays.connect(ME, ":7", show=True)
        assert [call.command for call in it.asked].count("connect-display") == 1


@in_loop
async def test_an_error_of_showing_is_raised() -> None:
    async with asking(connect_display={}) as it:
        found = it.displays.connect(ME, ":0", show=True)
        it.facts, before = facts(), it.facts
        it.displays._facts = lambda: before
        with pytest.raises(SessiondError, match="no session 1"):
            await found


@pytest.mark.parametrize(
    "nonsense",
    [
        None, {}, "x", 5, [5], [[]], [{}], [{"display": ":0"}], [shown("host:0")], [shown("")],
        [shown(":0", connected=1)], [shown(":0", connected=None)],
        [{"display": 0, "connected": True}], [shown(":0")] * 65,
    ],
)  # fmt: skip
@in_loop
async def test_nonsense_about_displays(nonsense: object) -> None:
    async with asking(query_displays=nonsense) as it:
        text = f"^the agent of user '{ME}' answered query-displays with nonsense: "
        with pytest.raises(CommandError, match=text):
            await it.displays.query(ME)


@pytest.mark.parametrize(
    "nonsense",
    [
        None, [5], [screen()] * 65,
        *([screen(**{member: value})] for member, value in [
            ("output", ""), ("output", "x" * 65), ("output", "a\nb"),
            ("output", 5), ("x", 1 << 15), ("x", -(1 << 15) - 1), ("x", 1.5), ("y", True),
            ("y", "0"), ("width", 0), ("width", 1 << 16), ("height", -1), ("height", None),
            ("primary", 1), ("primary", None),
        ]),
    ],
)  # fmt: skip
@in_loop
async def test_nonsense_about_screens(nonsense: object) -> None:
    async with asking(query_screens=nonsense) as it:
        with pytest.raises(CommandError, match="answered query-screens with nonsense: "):
            await it.displays.screens(ME, ":0")
