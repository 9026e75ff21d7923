"""What local callers have run: which user, which session, who is asked, and what is refused."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import pytest

from sessiond.bus.control import (
    DENIED,
    NO_SUCH_COMMAND,
    NO_SUCH_SESSION,
    NO_USER_AGENT,
    NOT_DONE,
    NOT_EXECUTABLE,
)
from sessiond.errors import NoSessionError, RequestError
from sessiond.model import Ending, Order, TerminalSize, UserAgent
from sessiond.transport.passing import Passed
from sessiond.users import names
from sessiond.users.local import choose_session
from sessiond.users.policy import NOTHING, Policy, Rule
from sessiond.wire import rpc
from tests.fixtures.loop import in_loop
from tests.sessiond.test_userside import MINE, OTHERS, UID, World, world
from tests.sessiond.users.hosting import ME, Agent, facts, session

if TYPE_CHECKING:
    from pathlib import Path

OTHER: Final = UID + 1  # a user's, who is not there


class Polkit:
    """Lets everybody, or nobody."""

    def __init__(self, *, lets: bool = True) -> None:
        self.lets = lets
        self.asked = 0

    async def __call__(self) -> None:
        await asyncio.sleep(0)
        self.asked += 1
        if not self.lets:
            raise RequestError(DENIED, "no")


def times(polkit: Polkit) -> int:
    """Return how often it was asked."""
    return polkit.asked


async def order(it: World, polkit: Polkit | None = None, uid: int = UID, **of: Any) -> Any:  # noqa: ANN401
    """Order something; return what runs."""
    what = Order(**{"uid": uid, "argv": ("true",), **of})
    return await it.side.run(what, Passed([]), polkit or Polkit())


async def asked(it: World, agent: Agent, **of: Any) -> dict[str, Any]:  # noqa: ANN401
    """Order something; return what the agent is asked to do."""
    ordering = asyncio.get_running_loop().create_task(order(it, **of))
    call = await agent.answer({"pid": 42})
    assert call.command == "run-command"
    await ordering
    return dict(call.arguments)


async def refusal(it: World, polkit: Polkit | None = None, **of: Any) -> tuple[str, str]:  # noqa: ANN401
    with pytest.raises(RequestError) as error:
        await order(it, polkit, **of)
    return error.value.name, str(error.value)


@in_loop
async def test_what_the_agent_is_asked(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent:
        assert await asked(it, agent, argv=("echo", "ü"), env={"A": "1"}, cwd="/usr") == {
            "id": 1,
            "argv": ["echo", "ü"],
            "service": "",
            "session": {},
            "env": {"A": "1"},
            "cwd": "/usr",
        }
        it.move(MINE, OTHERS)
        found = await asked(it, agent, argv=(), service="my.Clock+x", user=ME)
        assert (found["argv"], found["service"]) == ([], "my.Clock+x")
        assert found["session"] == {"id": "1", "type": "x11", "display": ":0"}
        assert (await asked(it, agent, session="1"))["session"]["id"] == "1"


@in_loop
async def test_end_is_heard_and_signals_are_sent(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent:
        loop = asyncio.get_running_loop()
        ordering = loop.create_task(order(it))
        await agent.answer({"pid": 42})
        run = await ordering
        sending = loop.create_task(_kill(it, run))
        assert (await agent.answer({})).arguments == {"id": run.id, "signal": 15}
        await sending
        agent.send(rpc.Notice("COMMAND_EXITED", {"id": run.id, "code": 0, "signal": 15}))
        assert await run.ended == Ending(-1, 15)
        with pytest.raises(RequestError, match="it has ended") as error:
            await _kill(it, run)
        assert error.value.name == NOT_DONE


@in_loop
async def test_terminal_and_its_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sessiond.users.audit")
    async with world(tmp_path) as it, await it.agent() as agent:
        found = await asked(it, agent, argv=("vi",), terminal=TerminalSize(500, 1000))
        assert found["argv"] == ["vi"]
        assert (found["terminal"], found["login-shell"]) == ({"columns": 500, "rows": 1000}, False)
        loop = asyncio.get_running_loop()
        shell: Any = {"argv": (), "is_login_shell": True, "terminal": TerminalSize(80, 24)}
        ordering = loop.create_task(order(it, **shell))
        call = await agent.answer({"pid": 42})
        assert (call.arguments["argv"], call.arguments["login-shell"]) == ([], True)
        run = await ordering
        assert run.has_terminal
        assert run.argv == ("login shell",)
        assert f"{ME} -> {ME}: run 'login shell' [], id {run.id}: started, pid 42" in caplog.text
        sizing = loop.create_task(_resize(it, run))
        call = await agent.answer({})
        assert call.command == "resize-command"
        assert call.arguments == {"id": run.id, "columns": 1, "rows": 2}
        await sizing
        agent.send(rpc.Notice("COMMAND_EXITED", {"id": run.id, "code": 0, "signal": 0}))
        await run.ended
        with pytest.raises(RequestError, match="it has ended") as error:
            await _resize(it, run)
        assert error.value.name == NOT_DONE


@in_loop
async def test_login_shell_is_a_command_to_the_policy(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent():
        it.side.follow(Policy((Rule("*", "command", "*", allow=False),)))
        shell: Any = {"argv": (), "is_login_shell": True, "terminal": TerminalSize(80, 24)}
        assert (await refusal(it, **shell))[0] == DENIED


async def _resize(it: World, run: Any) -> None:  # noqa: ANN401
    await it.side.resize(run, TerminalSize(1, 2))


async def _kill(it: World, run: Any) -> None:  # noqa: ANN401
    await it.side.kill(run, 15)


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ({"error-code": 127, "text": "none"}, NO_SUCH_COMMAND),
        ({"error-code": 126, "text": "none"}, NOT_EXECUTABLE),
        ({"error-code": 125, "text": "none"}, NOT_DONE),
    ],
)
@in_loop
async def test_what_is_not_started_has_a_name(tmp_path: Path, answer: Any, name: str) -> None:  # noqa: ANN401
    async with world(tmp_path) as it, await it.agent() as agent:
        refused = asyncio.get_running_loop().create_task(refusal(it))
        await agent.answer(answer)
        assert await refused == (name, "none")


@in_loop
async def test_nobody_and_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        nobody = f"no agent connected for user '{ME}'"
        assert await refusal(it) == (NO_USER_AGENT, nobody)
        it.move(MINE, OTHERS)
        assert await refusal(it, session="1") == (NO_USER_AGENT, nobody)
        assert await refusal(it, session="2") == (
            NO_USER_AGENT, "no agent connected for user 'bob'",
        )  # fmt: skip
        assert (await refusal(it, session="9"))[0] == NO_SUCH_SESSION
        async with await it.agent():
            found = (NO_SUCH_SESSION, f"user '{ME}' has no session '2'")
            assert await refusal(it, user=ME, session="2") == found


@in_loop
async def test_others_are_a_matter_for_polkit(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent:
        polkit = Polkit()
        await asked(it, agent, polkit=polkit)
        assert times(polkit) == 0, "about what is one's own"
        await asked(it, agent, polkit=polkit, uid=OTHER, user=ME)
        assert times(polkit) == 1
        refused = Polkit(lets=False)
        assert await refusal(it, refused, uid=OTHER, user=ME) == (DENIED, "no")
        it.side.follow(Policy((Rule("*", "*", ME, allow=True),)))
        await asked(it, agent, polkit=refused, uid=OTHER, user=ME)
        assert refused.asked == 1, "the rule says it"


@in_loop
async def test_rules_come_first(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent:
        it.side.follow(Policy((Rule("*", "command", "=", allow=False),)))
        polkit = Polkit()
        text = f"the policy refuses to run that as user '{ME}'"
        assert await refusal(it, polkit) == (DENIED, text)
        await asked(it, agent, polkit=polkit, argv=(), service="my.Clock")
        it.side.follow(NOTHING)
        assert await refusal(it, polkit, uid=OTHER, user=ME) == (DENIED, text)
        assert not polkit.asked


@in_loop
async def test_two_users_of_one_name_are_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "name_of", lambda _uid: ME)
    async with world(tmp_path) as it, await it.agent() as agent:
        polkit = Polkit()
        await asked(it, agent, polkit=polkit, uid=OTHER, user=ME)
        assert polkit.asked == 1
        it.side.follow(Policy((Rule(ME, "*", "*", allow=True),)))
        await asked(it, agent, polkit=polkit, uid=OTHER, user=ME)
        assert polkit.asked == 2, "the rule is for the other one"


@in_loop
async def test_what_is_gone_when_polkit_has_answered(tmp_path: Path) -> None:
    async with world(tmp_path) as it:
        it.move(MINE)
        agent = await it.agent()

        class Slow(Polkit):
            async def __call__(self) -> None:
                it.move(*sessions)
                if not sessions:
                    return
                await agent.close()
                await it.signal.until(lambda: not it.side.agents)

        sessions: list[Any] = []
        assert (await refusal(it, Slow(), uid=OTHER, session="1"))[0] == NO_SUCH_SESSION
        sessions = [MINE]
        it.move(MINE)
        assert (await refusal(it, Slow(), uid=OTHER, user=ME))[0] == NO_USER_AGENT


@in_loop
async def test_rule_that_comes_while_polkit_is_asked(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent():

        async def ask() -> None:
            it.side.follow(NOTHING)

        with pytest.raises(RequestError) as error:
            await it.side.run(Order(uid=OTHER, user=ME, argv=("true",)), Passed([]), ask)
        assert error.value.name == DENIED


@in_loop
async def test_host_runs_what_the_policy_lets_it(tmp_path: Path) -> None:
    async with world(tmp_path) as it, await it.agent() as agent, await it.host() as host:
        exec_me = {"username": ME, "execute": "guest-exec", "arguments": {"path": "id"}}
        host.send({"execute": "virtagent-call", "arguments": exec_me})
        await agent.answer({"pid": 1})
        assert (await host.read())["return"] == {"pid": 1}
        it.side.follow(Policy((Rule("host-channel", "command", ME, allow=False),)))
        text = f"the policy refuses to run that as user '{ME}'"
        assert await host.error("virtagent-call", **exec_me) == ("GenericError", text)
        ping = {"username": ME, "execute": "guest-ping"}
        host.send({"execute": "virtagent-call", "arguments": ping})
        await agent.answer({})
        assert (await host.read())["return"] == {}


@in_loop
async def test_policy_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = str(tmp_path / "none.toml")
    async with world(tmp_path, exec_policy=path) as it, await it.agent():
        assert f"nobody may run anything: {path}: no such file" in caplog.text
        assert (await refusal(it))[0] == DENIED


AGENT: Final = UserAgent(UID, ME, 7, 0.0)
HIDDEN: Final = session("5", display="", since=9)
CHOICES: Final[dict[str, tuple[list[Any], str, str]]] = {
    "none": ([], "", ""),
    "another's": ([OTHERS], "", ""),
    "one's own": ([OTHERS, MINE], "", "1"),
    "the one that is named": ([MINE, HIDDEN], "5", "5"),
    "one with a display": ([HIDDEN, MINE], "", "1"),
    "the active one": ([MINE, session("6", active=True)], "", "6"),
    "the newest": ([session("7", since=1), session("8", since=2)], "", "8"),
    "no greeter": ([session("9", cls="greeter", active=True)], "", ""),
    "none that closes": ([session("9", state="closing")], "", ""),
    "one that closes and is named": ([session("9", state="closing")], "9", "9"),
}


@pytest.mark.parametrize(("known", "named", "chosen"), CHOICES.values(), ids=CHOICES)
def test_choice_of_a_session(known: list[Any], named: str, chosen: str) -> None:
    found = choose_session(facts(*known), AGENT, named)
    assert (found.id if found else "") == chosen


@pytest.mark.parametrize("named", ["2", "77"])
def test_session_of_another_or_of_nobody(named: str) -> None:
    with pytest.raises(NoSessionError):
        choose_session(facts(MINE, OTHERS), AGENT, named)
